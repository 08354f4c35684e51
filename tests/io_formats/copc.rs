//! A cloud-optimised point cloud, which has no writer in the crate: a LAZ file of point format 6 to 8 with an index.
//!
//! <https://copc.io>, version 1.0. All points are in the root of the octree here, in the order of the survey.

use crate::survey::Survey;
use laz::{LasZipCompressor, LazVlrBuilder};
use std::io::{Cursor, Write};
use std::path::Path;

/// Length of the public header of LAS 1.4.
const HEADER: usize = 375;

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn int(bytes: &[u8], at: usize, len: usize) -> usize {
    let mut wide = [0; 8];
    wide[..len].copy_from_slice(&bytes[at..at + len]);
    u64::from_le_bytes(wide) as usize
}

/// A variable-length record.
fn vlr(user: &str, id: u16, data: &[u8]) -> Vec<u8> {
    let mut record = vec![0; 54];
    put(&mut record, 2, user.as_bytes());
    put(&mut record, 18, &id.to_le_bytes());
    put(&mut record, 20, &(data.len() as u16).to_le_bytes());
    [&record, data].concat()
}

/// Makes a LAS file of the survey, then a COPC file of that.
pub fn make(path: &Path, survey: &Survey) {
    let plain = path.with_file_name("plain.las");
    super::own(&plain, survey);
    let las = std::fs::read(&plain).unwrap();
    std::fs::remove_file(plain).unwrap();
    let (start, format, record) = (int(&las, 96, 4), las[104], int(&las, 105, 2));
    assert!(
        las[25] == 4 && (6..=8).contains(&format),
        "LAS 1.4 of a format with an index"
    );
    let least = [30, 36, 38][usize::from(format) - 6];
    let parameters = LazVlrBuilder::default()
        .with_point_format(format, (record - least) as u16)
        .unwrap()
        .with_variable_chunk_size()
        .build();
    let mut laszip = Vec::new();
    parameters.write_to(&mut laszip).unwrap();

    let mut file = las[..HEADER].to_vec();
    // The index's own record comes first, at a fixed place; its numbers follow when they are known.
    file.extend(vlr("copc", 1, &[0; 160]));
    file.extend_from_slice(&las[HEADER..start]);
    file.extend(vlr("laszip encoded", 22204, &laszip));
    let points = file.len();
    put(&mut file, 96, &(points as u32).to_le_bytes());
    let records = int(&las, 100, 4) as u32 + 2;
    put(&mut file, 100, &records.to_le_bytes());
    file[104] |= 0x80;

    let mut out = Cursor::new(file);
    out.set_position(points as u64);
    let mut packer = LasZipCompressor::new(out, parameters).unwrap();
    packer
        .compress_many(&las[start..start + record * survey.points as usize])
        .unwrap();
    packer.finish_current_chunk().unwrap();
    packer.done().unwrap();
    let mut file = packer.into_inner().into_inner();

    let table = int(&file, points, 8);
    let index = file.len() as u64;
    // One entry: the root's level and place, where its chunk lies, how long it is, how many points it has.
    let mut entry = vec![0; 16];
    entry.extend((points as u64 + 8).to_le_bytes());
    entry.extend(((table - points - 8) as u32).to_le_bytes());
    entry.extend((survey.points as u32).to_le_bytes());
    let mut head = vec![0; 60];
    put(&mut head, 2, b"copc");
    put(&mut head, 18, &1000u16.to_le_bytes());
    put(&mut head, 20, &(entry.len() as u64).to_le_bytes());
    file.extend(head);
    file.extend(&entry);
    put(&mut file, 235, &index.to_le_bytes());
    put(&mut file, 243, &1u32.to_le_bytes());
    let info = HEADER + 54;
    let (low, high) = survey.extent();
    let middle: [f64; 3] = std::array::from_fn(|i| (low[i] + high[i]) / 2.0);
    let half = (0..3).map(|i| (high[i] - low[i]) / 2.0).fold(1.0, f64::max);
    for (i, value) in middle.into_iter().chain([half, half]).enumerate() {
        put(&mut file, info + 8 * i, &value.to_le_bytes());
    }
    put(&mut file, info + 40, &(index + 60).to_le_bytes());
    put(&mut file, info + 48, &(entry.len() as u64).to_le_bytes());
    super::create(path).write_all(&file).unwrap();
}
