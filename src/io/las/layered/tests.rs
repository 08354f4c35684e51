//! The decoder against the crate `laz`, which writes all that is read here.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use laz::las::{Point6, Point7, Point8, Point9, Point10};
use laz::record::{
    LayeredPointRecordCompressor, LayeredPointRecordDecompressor, RecordCompressor,
    RecordDecompressor,
};
use laz::{LazItem, LazItemRecordBuilder};

use super::arithmetic::DAMAGED;
use super::*;
use crate::device::random::{Random, Sequence};

/// Items of a point format from 6 to 10.
fn items(format: u8, version: u16, extra: u16) -> Vec<LazItem> {
    type B = LazItemRecordBuilder;
    match (format, version) {
        (6, 3) => B::version_3_of::<Point6>(extra),
        (7, 3) => B::version_3_of::<Point7>(extra),
        (8, 3) => B::version_3_of::<Point8>(extra),
        (9, 3) => B::version_3_of::<Point9>(extra),
        (10, 3) => B::version_3_of::<Point10>(extra),
        (6, 4) => B::version_4_of::<Point6>(extra),
        (7, 4) => B::version_4_of::<Point7>(extra),
        (8, 4) => B::version_4_of::<Point8>(extra),
        (9, 4) => B::version_4_of::<Point9>(extra),
        (10, 4) => B::version_4_of::<Point10>(extra),
        _ => unreachable!(),
    }
}

fn len(items: &[LazItem]) -> usize {
    items.iter().map(|i| usize::from(i.size())).sum()
}

/// Small mostly, anything at times.
fn step(draw: &mut Sequence) -> i64 {
    let bits = [0, 3, 7, 12, 20, 31, 63][draw.below(7) as usize];
    draw.below(u64::MAX) as i64 >> (63 - bits)
}

/// Once in so many times.
fn one_in(draw: &mut Sequence, count: u64) -> bool {
    draw.below(count) == 0
}

/// Records of points as scanners give them, more or less, and every field with odd values at times. Fields whose bit is not
/// in `moving` never change.
fn records(items: &[LazItem], count: usize, moving: u64, draw: &mut Sequence) -> Vec<u8> {
    let len = len(items);
    let mut record = vec![0u8; len];
    let mut times = [step(draw); 6];
    let mut all = Vec::new();
    let add = |bytes: &mut [u8], step: i64| {
        let mut wide = [0; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        let sum = i64::from_le_bytes(wide).wrapping_add(step).to_le_bytes();
        bytes.copy_from_slice(&sum[..bytes.len()]);
    };
    for _ in 0..count {
        let moves = |bit: u32| moving >> bit & 1 != 0;
        for (bit, range) in [
            (0, 0..4),
            (0, 4..8),
            (1, 8..12),
            (2, 12..14),
            (3, 18..20),
            (4, 20..22),
        ] {
            if moves(bit) && !one_in(draw, 3) {
                add(&mut record[range], step(draw));
            }
        }
        for (bit, at) in [(5, 14), (6, 16), (7, 17)] {
            if moves(bit) && one_in(draw, 2) {
                let bound = if one_in(draw, 4) { 256 } else { 35 };
                record[at] = draw.below(bound) as u8;
            }
        }
        if moves(8) && one_in(draw, 3) {
            record[15] = record[15] & 0x30 | draw.below(256) as u8 & 0xcf;
        }
        if moves(9) && one_in(draw, 5) {
            record[15] = record[15] & 0xcf | (draw.below(4) as u8) << 4;
        }
        if moves(10) && one_in(draw, 2) {
            let series = draw.below(6) as usize;
            let times = &mut times[series];
            *times = times.wrapping_add(match draw.below(6) {
                0 => step(draw),
                n => 1000 * n as i64 * (series as i64 - 2),
            });
            record[22..30].copy_from_slice(&times.to_le_bytes());
        }
        for at in 30..len {
            if moves(11 + at as u32 % 7) && one_in(draw, 2) {
                add(&mut record[at..at + 1], step(draw) >> draw.below(60));
            }
        }
        if len > 36 && moves(18) && one_in(draw, 2) {
            // Grey, which has a short form.
            record.copy_within(30..32, 32);
            record.copy_within(30..32, 34);
        }
        all.extend_from_slice(&record);
    }
    all
}

fn coded(items: &Vec<LazItem>, records: &[u8]) -> Vec<u8> {
    let mut coder = LayeredPointRecordCompressor::new(Cursor::new(Vec::new()));
    coder.set_fields_from(items).unwrap();
    coder.compress_many(records).unwrap();
    coder.done().unwrap();
    coder.into_inner().into_inner()
}

fn decoded(items: &[LazItem], chunk: &[u8], points: usize) -> Result<Vec<u8>, String> {
    let len = len(items);
    let mut out = vec![0; points * len];
    Layered::open(items, chunk)?.read(&mut out, len)?;
    Ok(out)
}

fn twin(items: &Vec<LazItem>, chunk: &[u8], points: usize) -> Option<Vec<u8>> {
    let mut out = vec![0; points * len(items)];
    let run = || {
        let mut decoder = LayeredPointRecordDecompressor::new(Cursor::new(chunk.to_vec()));
        decoder.set_fields_from(items).unwrap();
        decoder.decompress_many(&mut out)
    };
    let done = catch_unwind(AssertUnwindSafe(run));
    done.ok()?.ok()?;
    Some(out)
}

/// Every point format, both versions, with and without extra bytes.
fn all_items() -> impl Iterator<Item = Vec<LazItem>> {
    (6..=10).flat_map(|format| {
        [(3, 0), (3, 5), (4, 0), (4, 3)].map(|(version, extra)| items(format, version, extra))
    })
}

#[test]
fn decodes_what_the_crate_writes() {
    let mut draw = Sequence::new(Random::new(1, 0));
    for items in all_items() {
        for moving in [u64::MAX, 0, draw.below(1 << 19), !(1 << 9), 1 << 10] {
            for points in [1, 2, 700] {
                let rows = records(&items, points, moving, &mut draw);
                let chunk = coded(&items, &rows);
                let got = decoded(&items, &chunk, points).unwrap();
                assert!(got == rows, "{items:?}, {points} points, fields {moving:b}");
            }
        }
    }
}

#[test]
fn damaged_chunks_are_decoded_as_by_the_crate_or_refused() {
    let mut draw = Sequence::new(Random::new(2, 0));
    let (mut same, mut refused) = (0, 0);
    for items in all_items() {
        let rows = records(&items, 40, u64::MAX, &mut draw);
        let chunk = coded(&items, &rows);
        for _ in 0..100 {
            let mut damaged = chunk.clone();
            for _ in 0..=draw.below(3) {
                let at = draw.below(chunk.len() as u64) as usize;
                damaged[at] = draw.below(256) as u8;
            }
            if one_in(&mut draw, 4) {
                damaged.truncate(draw.below(chunk.len() as u64) as usize);
            }
            match decoded(&items, &damaged, 40) {
                Ok(rows) => {
                    same += 1;
                    assert!(twin(&items, &damaged, 40) == Some(rows), "{items:?}");
                }
                Err(_) => refused += 1,
            }
        }
    }
    assert!(
        same > 200 && refused > 200,
        "{same} the same, {refused} refused"
    );
}

#[test]
fn every_truncation_is_refused() {
    let items = items(8, 3, 2);
    let mut draw = Sequence::new(Random::new(3, 0));
    let rows = records(&items, 50, u64::MAX, &mut draw);
    let chunk = coded(&items, &rows);
    for len in 0..chunk.len() {
        assert!(decoded(&items, &chunk[..len], 50).is_err(), "{len} bytes");
    }
}

#[test]
fn times_that_turn_for_ever_are_refused() {
    let mut draw = Sequence::new(Random::new(4, 0));
    let turning = (0..200).filter(|_| {
        let bytes: Vec<u8> = (0..64).map(|_| draw.below(256) as u8).collect();
        let mut layer = Layer::open(&bytes).unwrap();
        let mut series = time::Series::new(0);
        let mut last = Ok(0);
        while last.is_ok() {
            last = series.next(&mut layer);
        }
        last == Err(DAMAGED)
    });
    assert!(turning.count() > 20);
}
