//! Public header block and variable-length records of LAS 1.0 to 1.4.
//!
//! | byte | holds | since |
//! |---|---|---|
//! | 0 | `LASF` | |
//! | 6 | global encoding, u16 | 1.2 |
//! | 24 | version, two u8 | |
//! | 94 | header size u16, offset to points u32, number of VLRs u32 | |
//! | 104 | point format u8 (bit 7: compressed), record length u16, number of points u32, by return 5 × u32 | |
//! | 131 | scale 3 × f64, offset 3 × f64, then max and min of x, y, z | |
//! | 227 | start of the waveform data, u64 | 1.3 |
//! | 235 | start of the first EVLR u64, number of EVLRs u32 | 1.4 |
//! | 247 | number of points u64, by return 15 × u64 | 1.4 |
//!
//! Source: ASPRS LAS specification 1.4-R15. The bytes are kept as they are; only what a rewritten file must change is
//! changed.

use crate::Result;
use crate::io::input::{Input, read_le};

use super::layout;

const VLR_HEADER: usize = 54;
const EVLR_HEADER: usize = 60;

/// The header, checked against the file it came from.
#[derive(Debug, Clone)]
pub(super) struct Header {
    /// The block as stored, `header size` bytes.
    pub bytes: Vec<u8>,
    pub minor: u8,
    pub data_offset: u64,
    pub vlr_count: u64,
    pub format: u8,
    pub compressed: bool,
    pub record_len: usize,
    pub count: u64,
    pub scale: [f64; 3],
    pub offset: [f64; 3],
    /// Least and largest coordinates as the header has them; nothing relies on them.
    pub bounds: ([f64; 3], [f64; 3]),
    pub waveform_start: u64,
    pub evlr_start: u64,
    pub evlr_count: u64,
}

/// One variable-length record.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Vlr {
    pub reserved: u16,
    pub user_id: [u8; 16],
    pub record_id: u16,
    pub description: [u8; 32],
    pub data: Vec<u8>,
}

/// Zero-padded fixed-width text.
pub(super) fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    let n = text.len().min(N);
    bytes[..n].copy_from_slice(&text.as_bytes()[..n]);
    bytes
}

/// Text up to the first zero byte.
pub(super) fn unpadded(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).trim().to_string()
}

impl Vlr {
    pub fn new(user_id: &str, record_id: u16, description: &str, data: Vec<u8>) -> Self {
        Vlr {
            reserved: 0,
            user_id: padded(user_id),
            record_id,
            description: padded(description),
            data,
        }
    }

    pub fn is(&self, user_id: &str, record_id: u16) -> bool {
        self.record_id == record_id && unpadded(&self.user_id) == user_id
    }

    pub fn put(&self, out: &mut Vec<u8>) {
        let len = u16::try_from(self.data.len())
            .expect("VLRs longer than 65535 bytes are refused when made");
        out.extend_from_slice(&self.reserved.to_le_bytes());
        out.extend_from_slice(&self.user_id);
        out.extend_from_slice(&self.record_id.to_le_bytes());
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&self.description);
        out.extend_from_slice(&self.data);
    }
}

fn triple(bytes: &[u8], at: usize, step: usize) -> [f64; 3] {
    std::array::from_fn(|i| read_le!(bytes, at + i * step, f64))
}

/// Least header size of a minor version.
pub(super) fn header_size(minor: u8) -> usize {
    match minor {
        0..=2 => 227,
        3 => 235,
        _ => 375,
    }
}

impl Header {
    /// Reads and checks the header at the start of the file.
    pub fn read(input: &mut Input) -> Result<Header> {
        let mut bytes = input.bytes(227, "LAS header")?;
        let fault = |input: &Input, byte: usize, text: String| {
            Err(input.malformed(format!("header byte {byte}"), text))
        };
        let (major, minor) = (bytes[24], bytes[25]);
        if major != 1 || minor > 4 {
            let text = format!("LAS version {major}.{minor}; versions 1.0 to 1.4 can be read");
            return fault(input, 24, text);
        }
        let size = read_le!(bytes, 94, u16) as usize;
        // Some LAS 1.3 writers leave the waveform field out, which does no harm.
        let least = if minor == 3 { 227 } else { header_size(minor) };
        if size < least {
            let text = format!("header size {size}; LAS {major}.{minor} has at least {least}");
            return fault(input, 94, text);
        }
        bytes.append(&mut input.bytes(size as u64 - 227, "LAS header")?);
        let header = Header::parse(bytes);
        header.check(input)?;
        Ok(header)
    }

    fn parse(bytes: Vec<u8>) -> Header {
        let b = &bytes;
        let minor = b[25];
        let legacy_count = u64::from(read_le!(b, 107, u32));
        let long = minor >= 4;
        let count = if long { read_le!(b, 247, u64) } else { 0 };
        let (mut low, mut high) = ([0.0; 3], [0.0; 3]);
        for axis in 0..3 {
            high[axis] = read_le!(b, 179 + axis * 16, f64);
            low[axis] = read_le!(b, 187 + axis * 16, f64);
        }
        Header {
            minor,
            data_offset: u64::from(read_le!(b, 96, u32)),
            vlr_count: u64::from(read_le!(b, 100, u32)),
            format: b[104] & 0x7f,
            compressed: b[104] & 0x80 != 0,
            record_len: read_le!(b, 105, u16) as usize,
            count: if count == 0 { legacy_count } else { count },
            scale: triple(b, 131, 8),
            offset: triple(b, 155, 8),
            bounds: (low, high),
            waveform_start: if minor >= 3 && b.len() >= 235 {
                read_le!(b, 227, u64)
            } else {
                0
            },
            evlr_start: if long { read_le!(b, 235, u64) } else { 0 },
            evlr_count: if long {
                u64::from(read_le!(b, 243, u32))
            } else {
                0
            },
            bytes,
        }
    }

    fn check(&self, input: &Input) -> Result<()> {
        let fault =
            |byte: usize, text: String| Err(input.malformed(format!("header byte {byte}"), text));
        let Some(least) = layout::record_len(self.format) else {
            return fault(
                104,
                format!("point format {}; formats 0 to 10 exist", self.format),
            );
        };
        if self.record_len < least {
            return fault(
                105,
                format!(
                    "record length {}; point format {} has at least {least} bytes",
                    self.record_len, self.format
                ),
            );
        }
        let size = self.bytes.len() as u64;
        if self.data_offset < size || self.data_offset > input.size() {
            return fault(
                96,
                format!(
                    "points start at byte {}, which is not between the end of the header at {size} and the end of the \
                     file at {}",
                    self.data_offset,
                    input.size()
                ),
            );
        }
        for axis in 0..3 {
            let (scale, offset) = (self.scale[axis], self.offset[axis]);
            if !scale.is_finite() || scale == 0.0 {
                return fault(131 + axis * 8, format!("scale {scale} of axis {axis}"));
            }
            if !offset.is_finite() {
                return fault(155 + axis * 8, format!("offset {offset} of axis {axis}"));
            }
        }
        let room = self.data_offset - size;
        if self.vlr_count * VLR_HEADER as u64 > room {
            return fault(
                100,
                format!(
                    "{} variable-length records promised, but only {room} bytes lie before the points",
                    self.vlr_count
                ),
            );
        }
        if !self.compressed {
            self.check_body(input)?;
        }
        Ok(())
    }

    /// Compares the promised points with the bytes that are there.
    fn check_body(&self, input: &Input) -> Result<()> {
        let body = input.size() - self.data_offset;
        let there = body / self.record_len as u64;
        if self.count > there {
            return Err(input.malformed(
                format!("point {there}"),
                format!(
                    "the file ends here, but its header promises {} points of {} bytes; the file is cut short",
                    self.count, self.record_len
                ),
            ));
        }
        Ok(())
    }

    /// Reads the variable-length records that follow the header, and the bytes between them and the points.
    pub fn read_vlrs(&self, input: &mut Input) -> Result<(Vec<Vlr>, Vec<u8>)> {
        input.seek(self.bytes.len() as u64)?;
        let mut vlrs = Vec::new();
        for i in 0..self.vlr_count {
            let room = self.data_offset - input.position();
            let place = format!("variable-length record {i} at byte {}", input.position());
            if room < VLR_HEADER as u64 {
                return Err(input.malformed(place, "runs into the point data"));
            }
            let head = input.bytes(VLR_HEADER as u64, "variable-length record")?;
            let len = u64::from(read_le!(head, 20, u16));
            if len > room - VLR_HEADER as u64 {
                let text = format!(
                    "runs past the start of the points: {len} bytes promised, {} there",
                    room - VLR_HEADER as u64
                );
                return Err(input.malformed(place, text));
            }
            vlrs.push(Vlr {
                reserved: read_le!(head, 0, u16),
                user_id: head[2..18].try_into().expect("16 bytes"),
                record_id: read_le!(head, 18, u16),
                description: head[22..54].try_into().expect("32 bytes"),
                data: input.bytes(len, "variable-length record")?,
            });
        }
        let gap = input.bytes(
            self.data_offset - input.position(),
            "bytes before the points",
        )?;
        Ok((vlrs, gap))
    }
}

/// What follows the points: extended variable-length records and waveform packets, as stored.
#[derive(Debug, Clone, Default)]
pub(super) struct Tail {
    /// Where the bytes started in the file they came from.
    pub start: u64,
    pub bytes: Vec<u8>,
    /// The extended variable-length records among the bytes.
    pub records: Vec<TailRecord>,
}

/// One extended variable-length record inside [`Tail::bytes`].
#[derive(Debug, Clone)]
pub(super) struct TailRecord {
    pub user_id: String,
    pub record_id: u16,
    /// Header and data.
    pub span: std::ops::Range<usize>,
}

impl TailRecord {
    pub fn data(&self) -> std::ops::Range<usize> {
        self.span.start + EVLR_HEADER..self.span.end
    }
}

impl Tail {
    /// Reads everything from byte `start`, and finds the records; `None` for each that does not fit the file.
    pub fn read(input: &mut Input, header: &Header, start: u64) -> Result<(Tail, u64)> {
        input.seek(start)?;
        let bytes = input.bytes(input.remaining(), "bytes after the points")?;
        let mut tail = Tail {
            start,
            bytes,
            records: Vec::new(),
        };
        let mut at = header.evlr_start.checked_sub(start);
        for i in 0..header.evlr_count {
            let found = at.and_then(|at| tail.record_at(at));
            let Some(record) = found else {
                return Ok((tail, header.evlr_count - i));
            };
            at = Some(record.span.end as u64);
            tail.records.push(record);
        }
        Ok((tail, 0))
    }

    fn record_at(&self, at: u64) -> Option<TailRecord> {
        let at = usize::try_from(at).ok()?;
        let head = self.bytes.get(at..at.checked_add(EVLR_HEADER)?)?;
        let len = usize::try_from(read_le!(head, 20, u64)).ok()?;
        let end = (at + EVLR_HEADER).checked_add(len)?;
        (end <= self.bytes.len()).then(|| TailRecord {
            user_id: unpadded(&head[2..18]),
            record_id: read_le!(head, 18, u16),
            span: at..end,
        })
    }
}
