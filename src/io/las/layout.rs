//! What lies where in a point record: the fields of point formats 0 to 10 and the described extra bytes.
//!
//! Formats 0 to 5 pack returns and flags into byte 14 and the class into five bits of byte 15; formats 6 to 10 use
//! bytes 14 and 15 for returns and flags and a whole byte for the class. Time, colour, near infrared and waveform
//! fields follow in a place of their own for each format.

use crate::cloud::{Column, Endian, Kind, PointCloud};

use super::header::{Vlr, padded, unpadded};
use crate::io::input::read_le;

/// One number inside a record.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Field {
    pub name: String,
    pub offset: usize,
    pub part: Part,
}

/// How the number is stored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Part {
    /// A whole number of this kind.
    Whole(Kind),
    /// Some bits of a byte.
    Bits { shift: u8, width: u8 },
    /// A number that stands for `stored * scale + offset`.
    Scaled { kind: Kind, scale: f64, offset: f64 },
}

const SIZES: [usize; 11] = [20, 28, 26, 34, 57, 63, 30, 36, 38, 59, 67];

/// Bytes of a record without extra bytes, or `None` for a format that does not exist.
pub(super) fn record_len(format: u8) -> Option<usize> {
    SIZES.get(format as usize).copied()
}

/// True for the formats of LAS 1.4 with a whole byte for the class.
pub(super) fn is_long(format: u8) -> bool {
    format >= 6
}

fn whole(name: &str, offset: usize, kind: Kind) -> Field {
    Field {
        name: name.into(),
        offset,
        part: Part::Whole(kind),
    }
}

fn bits(name: &str, offset: usize, shift: u8, width: u8) -> Field {
    Field {
        name: name.into(),
        offset,
        part: Part::Bits { shift, width },
    }
}

/// Offset of the time, the colour, the near infrared and the waveform fields.
fn places(format: u8) -> [Option<usize>; 4] {
    match format {
        0 => [None, None, None, None],
        1 => [Some(20), None, None, None],
        2 => [None, Some(20), None, None],
        3 => [Some(20), Some(28), None, None],
        4 => [Some(20), None, None, Some(28)],
        5 => [Some(20), Some(28), None, Some(34)],
        6 => [Some(22), None, None, None],
        7 => [Some(22), Some(30), None, None],
        8 => [Some(22), Some(30), Some(36), None],
        9 => [Some(22), None, None, Some(30)],
        _ => [Some(22), Some(30), Some(36), Some(38)],
    }
}

/// The named fields of a point format besides the coordinates.
pub(super) fn fields(format: u8) -> Vec<Field> {
    let mut fields = vec![whole("intensity", 12, Kind::U16)];
    if is_long(format) {
        fields.extend([
            bits("return_number", 14, 0, 4),
            bits("number_of_returns", 14, 4, 4),
            bits("synthetic", 15, 0, 1),
            bits("key_point", 15, 1, 1),
            bits("withheld", 15, 2, 1),
            bits("overlap", 15, 3, 1),
            bits("scanner_channel", 15, 4, 2),
            bits("scan_direction_flag", 15, 6, 1),
            bits("edge_of_flight_line", 15, 7, 1),
            whole("classification", 16, Kind::U8),
            whole("user_data", 17, Kind::U8),
            whole("scan_angle", 18, Kind::I16),
            whole("point_source_id", 20, Kind::U16),
        ]);
    } else {
        fields.extend([
            bits("return_number", 14, 0, 3),
            bits("number_of_returns", 14, 3, 3),
            bits("scan_direction_flag", 14, 6, 1),
            bits("edge_of_flight_line", 14, 7, 1),
            bits("classification", 15, 0, 5),
            bits("synthetic", 15, 5, 1),
            bits("key_point", 15, 6, 1),
            bits("withheld", 15, 7, 1),
            whole("scan_angle_rank", 16, Kind::I8),
            whole("user_data", 17, Kind::U8),
            whole("point_source_id", 18, Kind::U16),
        ]);
    }
    let [time, color, infrared, wave] = places(format);
    fields.extend(time.map(|at| whole("gps_time", at, Kind::F64)));
    for (i, name) in ["red", "green", "blue"].into_iter().enumerate() {
        fields.extend(color.map(|at| whole(name, at + 2 * i, Kind::U16)));
    }
    fields.extend(infrared.map(|at| whole("nir", at, Kind::U16)));
    if let Some(at) = wave {
        fields.extend([
            whole("wave_packet_index", at, Kind::U8),
            whole("wave_packet_offset", at + 1, Kind::U64),
            whole("wave_packet_size", at + 9, Kind::U32),
            whole("wave_return_location", at + 13, Kind::F32),
            whole("wave_x_t", at + 17, Kind::F32),
            whole("wave_y_t", at + 21, Kind::F32),
            whole("wave_z_t", at + 25, Kind::F32),
        ]);
    }
    fields
}

/// Bytes of one descriptor in the extra-bytes record.
pub(super) const DESCRIPTOR: usize = 192;

/// One described run of extra bytes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Extra {
    pub name: String,
    /// Place in the record.
    pub offset: usize,
    pub size: usize,
    /// The descriptor as stored.
    pub descriptor: Vec<u8>,
}

const KINDS: [Kind; 10] = [
    Kind::U8,
    Kind::I8,
    Kind::U16,
    Kind::I16,
    Kind::U32,
    Kind::I32,
    Kind::U64,
    Kind::I64,
    Kind::F32,
    Kind::F64,
];

/// Number that stands for a kind in a descriptor.
fn type_code(kind: Kind) -> u8 {
    1 + KINDS
        .iter()
        .position(|&k| k == kind)
        .expect("all kinds are listed") as u8
}

impl Extra {
    /// Type of the numbers and how many there are; `None` for bytes without a type.
    pub fn kind(&self) -> Option<(Kind, usize)> {
        let code = self.descriptor[2] as usize;
        // Codes 11 to 30 are the pairs and triples of LAS 1.4 before revision 14.
        (1..=30)
            .contains(&code)
            .then(|| (KINDS[(code - 1) % 10], 1 + (code - 1) / 10))
    }

    /// A descriptor for one number per point.
    pub fn describe(name: &str, kind: Kind, text: &str) -> [u8; DESCRIPTOR] {
        let mut descriptor = [0; DESCRIPTOR];
        descriptor[2] = type_code(kind);
        descriptor[4..36].copy_from_slice(&padded::<32>(name));
        descriptor[160..192].copy_from_slice(&padded::<32>(text));
        descriptor
    }

    /// A descriptor for bytes of no known meaning.
    pub fn describe_bytes(name: &str, count: u8) -> [u8; DESCRIPTOR] {
        let mut descriptor = [0; DESCRIPTOR];
        descriptor[3] = count;
        descriptor[4..36].copy_from_slice(&padded::<32>(name));
        descriptor
    }

    /// True when the stored numbers are the values themselves.
    pub fn is_plain(&self) -> bool {
        // For bytes without a type this place is their number.
        self.descriptor[2] != 0 && self.descriptor[3] & 0b11000 == 0
    }

    fn fields(&self) -> Vec<Field> {
        let Some((kind, count)) = self.kind() else {
            return Vec::new();
        };
        (0..count)
            .map(|i| {
                let flag = |bit: u8| self.descriptor[3] >> bit & 1 == 1;
                let scale = read_le!(self.descriptor, 112 + 8 * i, f64);
                let offset = read_le!(self.descriptor, 136 + 8 * i, f64);
                Field {
                    name: match count {
                        1 => self.name.clone(),
                        _ => format!("{}_{i}", self.name),
                    },
                    offset: self.offset + i * kind.size(),
                    part: if self.is_plain() {
                        Part::Whole(kind)
                    } else {
                        Part::Scaled {
                            kind,
                            scale: if flag(3) { scale } else { 1.0 },
                            offset: if flag(4) { offset } else { 0.0 },
                        }
                    },
                }
            })
            .collect()
    }
}

/// The described extra bytes of a record, in order; the number of descriptors that no longer fit the record.
pub(super) fn extras(vlrs: &[&[u8]], base: usize, record_len: usize) -> (Vec<Extra>, u64) {
    let mut found = Vec::new();
    let mut at = base;
    let mut descriptors = vlrs.iter().flat_map(|data| data.chunks_exact(DESCRIPTOR));
    while let Some(descriptor) = descriptors.next() {
        let mut extra = Extra {
            name: unpadded(&descriptor[4..36]),
            offset: at,
            size: descriptor[3] as usize,
            descriptor: descriptor.to_vec(),
        };
        if descriptor[2] != 0 {
            extra.size = extra
                .kind()
                .map_or(usize::MAX, |(kind, count)| kind.size() * count);
        }
        if extra.size > record_len - at {
            // Nothing after a run of unknown length can be placed.
            return (found, 1 + descriptors.count() as u64);
        }
        at += extra.size;
        found.push(extra);
    }
    (found, 0)
}

/// The record that holds the descriptors of extra bytes.
pub(super) fn is_extra_bytes(vlr: &Vlr) -> bool {
    vlr.is("LASF_Spec", 4)
}

/// All numbers of a record, with names that occur once.
pub(super) fn all_fields(format: u8, extras: &[Extra]) -> Vec<Field> {
    let mut all = fields(format);
    for mut field in extras.iter().flat_map(Extra::fields) {
        let plain = field.name.clone();
        let mut number = 2;
        while field.name.is_empty() || all.iter().any(|f| f.name == field.name) {
            field.name = format!("{plain}_{number}");
            number += 1;
        }
        all.push(field);
    }
    all
}

impl Field {
    /// The field of each record.
    pub fn decode(&self, records: &[u8], stride: usize) -> Column {
        let stored = match self.part {
            Part::Whole(kind) | Part::Scaled { kind, .. } => kind,
            Part::Bits { .. } => Kind::U8,
        };
        let mut column = Column::new(stored);
        column.extend_strided(records, self.offset, stride, Endian::Little);
        match (self.part, column) {
            (Part::Bits { shift, width }, Column::U8(mut v)) => {
                let mask = (1u8 << width) - 1;
                v.iter_mut().for_each(|b| *b = *b >> shift & mask);
                Column::U8(v)
            }
            (Part::Scaled { scale, offset, .. }, column) => Column::F64(
                (0..column.len())
                    .map(|i| column.get(i) * scale + offset)
                    .collect(),
            ),
            (_, column) => column,
        }
    }
}

/// Decodes whole records into points.
pub(super) fn decode(
    records: &[u8],
    stride: usize,
    fields: &[Field],
    (scale, offset): ([f64; 3], [f64; 3]),
) -> PointCloud {
    PointCloud {
        coord: (records.chunks_exact(stride))
            .map(|r| {
                std::array::from_fn(|i| f64::from(read_le!(r, 4 * i, i32)) * scale[i] + offset[i])
            })
            .collect(),
        attributes: (fields.iter())
            .map(|f| crate::cloud::Attribute {
                name: f.name.clone(),
                column: f.decode(records, stride),
            })
            .collect(),
    }
}
