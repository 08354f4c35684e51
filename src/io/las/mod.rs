//! LAS 1.0 to 1.4, point formats 0 to 10, and LAZ, its compressed form.
//!
//! A point is kept as the raw record of the file next to the numbers in it, so writing LAS from LAS changes the class
//! and adds the confidence and leaves every other bit as it was: flags without a name, undescribed extra bytes,
//! waveform packets, coordinate systems.
//!
//! | part | file |
//! |---|---|
//! | public header, variable-length records, what follows the points | `header.rs` |
//! | fields of the point formats, described extra bytes | `layout.rs` |
//! | compressed points, their decoders | `laz.rs`, `decode.rs`, `layered/` |
//! | reading, writing | `reader.rs`, `writer.rs` |
//! | records made from those of a LAS file, from attributes | `kept.rs`, `fresh.rs` |

#[cfg(feature = "laz")]
mod decode;
mod fresh;
mod header;
mod kept;
#[cfg(feature = "laz")]
mod layered;
mod layout;
#[cfg(feature = "laz")]
mod laz;
mod reader;
mod writer;

use crate::Result;

use super::atomic::Atomic;
use super::input::Input;
use super::scan::{Output, Reader, Writer};
use header::{Header, Tail, Vlr};
use layout::Extra;

/// LAS in the list of formats.
pub const LAS: super::Format = super::Format {
    name: "LAS",
    extensions: &["las"],
    detect: super::Detect::Content(|head| head.starts_with(b"LASF") && !is_compressed(head)),
    open,
    create: |output, plan| writer::create(output, plan, writer::Packing::Plain),
    check: writer::check,
};

/// LAZ in the list of formats.
pub const LAZ: super::Format = super::Format {
    name: "LAZ",
    extensions: &["laz"],
    detect: super::Detect::Content(|head| head.starts_with(b"LASF") && is_compressed(head)),
    open,
    create: create_compressed,
    check: check_compressed,
};

fn is_compressed(head: &[u8]) -> bool {
    head.get(104).is_some_and(|b| b & 0x80 != 0)
}

fn open(input: Input) -> Result<Box<dyn Reader>> {
    Ok(Box::new(reader::LasReader::open(input)?))
}

#[cfg(feature = "laz")]
use writer::check as check_compressed;

#[cfg(not(feature = "laz"))]
fn check_compressed(_: &super::Scan, _: &[i32]) -> std::result::Result<(), String> {
    Err(NO_LAZ.into())
}

#[cfg(feature = "laz")]
fn create_compressed(output: Atomic, plan: &Output<'_>) -> Result<Box<dyn Writer>> {
    writer::create(output, plan, writer::Packing::Compressed)
}

#[cfg(not(feature = "laz"))]
fn create_compressed(output: Atomic, _plan: &Output<'_>) -> Result<Box<dyn Writer>> {
    Err(no_laz(output.path()))
}

#[cfg(not(feature = "laz"))]
const NO_LAZ: &str = "this build has no LAZ; rebuild with the feature `laz` or use LAS";

#[cfg(not(feature = "laz"))]
fn no_laz(path: &std::path::Path) -> crate::Error {
    crate::Error::unusable(path, NO_LAZ)
}

/// Everything in a LAS file besides the point records.
#[derive(Debug, Clone)]
pub struct Source {
    header: Header,
    vlrs: Vec<Vlr>,
    /// Bytes between the variable-length records and the points.
    gap: Vec<u8>,
    tail: Tail,
}

impl Source {
    /// Version and point format, such as `1.4, point format 6`.
    pub fn description(&self) -> String {
        format!(
            "1.{}, point format {}",
            self.header.minor, self.header.format
        )
    }

    /// True when the points were compressed.
    pub fn is_compressed(&self) -> bool {
        self.header.compressed
    }

    /// True when a coordinate system is named (GeoTIFF keys or well-known text).
    pub fn has_crs(&self) -> bool {
        let names_one = |id: u16| matches!(id, 2112 | 34735);
        let named = |v: &Vlr| names_one(v.record_id) && v.is("LASF_Projection", v.record_id);
        let tail = self.tail.records.iter();
        self.vlrs.iter().any(named)
            || tail
                .filter(|r| r.user_id == "LASF_Projection")
                .any(|r| names_one(r.record_id))
    }

    /// The described extra bytes, and how many descriptors do not fit the records.
    fn extras(&self) -> (Vec<Extra>, u64) {
        let mut data: Vec<&[u8]> = (self.vlrs.iter())
            .filter(|v| layout::is_extra_bytes(v))
            .map(|v| v.data.as_slice())
            .collect();
        data.extend(
            (self.tail.records.iter())
                .filter(|r| r.user_id == "LASF_Spec" && r.record_id == 4)
                .map(|r| &self.tail.bytes[r.data()]),
        );
        let base = layout::record_len(self.header.format).expect("the header was checked");
        layout::extras(&data, base, self.header.record_len)
    }
}

/// Puts class names into the classification lookup (`LASF_Spec` 0: a code and 15 characters, 256 times).
fn name_classes(vlrs: &mut Vec<Vlr>, classes: &[(i32, String)]) {
    const ENTRY: usize = 16;
    let named: Vec<_> = (classes.iter())
        .filter_map(|(code, name)| Some((u8::try_from(*code).ok()?, name)))
        .collect();
    if named.is_empty() {
        return;
    }
    let found = vlrs.iter().position(|v| v.is("LASF_Spec", 0));
    let at = found.unwrap_or_else(|| {
        let mut data = vec![0; 256 * ENTRY];
        (0..256).for_each(|code| data[code * ENTRY] = code as u8);
        vlrs.push(Vlr::new("LASF_Spec", 0, "classification lookup", data));
        vlrs.len() - 1
    });
    for (code, name) in named {
        let mut entries = vlrs[at].data.chunks_exact_mut(ENTRY);
        if let Some(entry) = entries.find(|e| e[0] == code) {
            entry[1..].copy_from_slice(&header::padded::<15>(name));
        }
    }
}
