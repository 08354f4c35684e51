//! A tile of queries and keys: who they are, their bins, their rows, and the scores of one head.

use super::Sizes;
use crate::device::simd::{MAX_LANES, Simd};
use crate::geometry::windows::{Group, Quantization};
use crate::geometry::{MISSING, Windows};
use std::ops::Range;

/// Axes of space.
pub const AXES: usize = 3;
/// Channels of a head that are worked on at once: whole vectors at every level.
pub const CHUNK: usize = MAX_LANES;
/// Words of an entry of the packed tables: a chunk of Tq, of Tk, of Tv, and one that makes addressing a shift.
pub const ENTRY: usize = 4 * CHUNK;
/// Most queries of a tile.
pub const QUERIES: usize = 16;
/// Most keys of a tile: their rows and bins stay in the first-level cache.
pub const KEYS: usize = 64;

/// Largest small window whose rows are asked for ahead: more would not stay in the second-level cache.
const AHEAD: usize = 256;

/// True when the rows of `next` should be asked for while `group` is worked on.
pub fn is_ahead(group: &Group, next: &Group) -> bool {
    next.dense != group.dense && next.dense.len() <= AHEAD
}

/// A chunk of a row of q, k, v or a gradient of these.
pub type Row = [f32; CHUNK];
/// An entry of the packed tables.
pub type Entry = [f32; ENTRY];

/// The keys of a group, a tile at a time.
#[derive(Debug)]
pub struct Keys<'a> {
    windows: &'a Windows,
    group: &'a Group,
    dense: Range<usize>,
    sparse: usize,
}

/// The keys of a tile.
#[derive(Debug)]
pub struct KeyTile {
    /// How many there are.
    pub count: usize,
    /// Their positions.
    pub positions: [u32; KEYS],
    /// Slots of sparse keys, [`MISSING`] for dense ones.
    pub slots: [u32; KEYS],
    /// Their places, by axis.
    pub places: [[f32; KEYS]; AXES],
}

impl<'a> Keys<'a> {
    /// All keys of `group`.
    pub fn new(windows: &'a Windows, group: &'a Group) -> Self {
        Keys {
            windows,
            group,
            dense: group.dense.clone(),
            sparse: 0,
        }
    }

    /// The next keys, none when all were given.
    pub fn next(&mut self) -> KeyTile {
        let mut tile = KeyTile {
            count: 0,
            positions: [0; KEYS],
            slots: [MISSING; KEYS],
            places: [[0.0; KEYS]; AXES],
        };
        tile.count = self.dense.len().min(KEYS);
        for (y, position) in tile.positions[..tile.count].iter_mut().zip(&mut self.dense) {
            *y = position as u32;
        }
        let list = self.windows.sampled.list(self.group.large);
        while tile.count < KEYS && self.sparse < list.len() {
            let position = list[self.sparse];
            if !self.group.dense.contains(&(position as usize)) {
                tile.positions[tile.count] = position;
                tile.slots[tile.count] = (self.group.slot + self.sparse) as u32;
                tile.count += 1;
            }
            self.sparse += 1;
        }
        for (places, plane) in tile.places.iter_mut().zip(&self.windows.place) {
            for (y, position) in places.iter_mut().zip(&tile.positions[..tile.count]) {
                *y = plane[*position as usize];
            }
        }
        tile
    }
}

/// The bins of a query at `place` with all keys of a tile: [3, KEYS].
#[inline(always)]
pub fn find_bins<S: Simd>(
    s: S,
    quantization: Quantization,
    rows: usize,
    place: [f32; AXES],
    tile: &KeyTile,
    bins: &mut [[u32; KEYS]; AXES],
) {
    let last = s.splat((rows - 1) as f32);
    for axis in 0..AXES {
        let a = s.splat(place[axis]);
        for first in (0..tile.count).step_by(S::LANES) {
            let difference = s.sub(a, s.load(&tile.places[axis][first..]));
            let bin = match quantization {
                Quantization::Offset { reach, step } => {
                    let unit = s.splat(100_000.0);
                    let inverse = (s.splat(1.0 / 100_000.0), s.splat(1.0 / step));
                    let r = s.quotient(s.round(s.mul(difference, unit)), unit, inverse.0);
                    let t = s.sub(s.add(r, s.splat(reach)), s.splat(1e-4));
                    s.quotient(t, s.splat(step), inverse.1)
                }
                Quantization::Cell { center } => s.add(difference, s.splat(center)),
            };
            let bin = s.min(s.max(bin, s.zero()), last);
            s.store_truncated(&mut bins[axis][first..], bin);
        }
    }
}

/// Copies a chunk of a head of the rows at `positions`: words `first..first + channels` of rows of `stride` words, times
/// `factor`, zero behind them.
#[inline(always)]
pub fn load_rows(
    source: (&[f32], usize),
    (first, channels): (usize, usize),
    factor: f32,
    order: &[u32],
    positions: impl Iterator<Item = usize>,
    out: &mut [Row],
) {
    let (values, stride) = source;
    for (row, position) in out.iter_mut().zip(positions) {
        let from = order[position] as usize * stride + first;
        let values = &values[from..from + channels];
        if let Ok(values) = <&Row>::try_from(values) {
            *row = values.map(|x| factor * x);
        } else {
            *row = [0.0; CHUNK];
            row.iter_mut()
                .zip(values)
                .for_each(|(y, x)| *y = factor * x);
        }
    }
}

/// First channel, within a row of C, and number of channels of a chunk of a head.
pub fn channels(sizes: Sizes, head: usize, chunk: usize) -> (usize, usize) {
    let width = sizes.width();
    let first = chunk * CHUNK;
    (head * width + first, (width - first).min(CHUNK))
}

/// The tables of one chunk of a head, by axis: T entries each.
#[inline(always)]
pub fn entries(sizes: Sizes, tables: &[f32], head: usize, chunk: usize) -> [&[Entry]; AXES] {
    let words = sizes.chunk_words();
    let start = (head * sizes.chunks() + chunk) * words;
    let all = tables[start..start + words].as_chunks::<ENTRY>().0;
    let (x, rest) = all.split_at(sizes.rows);
    let (y, z) = rest.split_at(sizes.rows);
    [x, y, z]
}

/// The part of a chunk in the scores of one query with all keys: q·k + q·Tq\[b\] + k·Tk\[b\], for whole fours of keys.
/// With `add`, on top of what is there.
#[inline(always)]
pub fn scores<S: Simd>(
    s: S,
    query: &Row,
    keys: &[Row],
    bins: &[[u32; KEYS]; AXES],
    tables: [&[Entry]; AXES],
    add: bool,
    scores: &mut [f32; KEYS],
) {
    let [x, y, z] = bins.each_ref().map(|b| b.as_chunks::<4>().0);
    let fours = keys.as_chunks::<4>().0.iter().zip(x.iter().zip(y).zip(z));
    for ((keys, ((x, y), z)), out) in fours.zip(scores.as_chunks_mut::<4>().0) {
        let mut sums = [s.zero(); 4];
        for n in 0..4 {
            let (x, y, z) = (
                &tables[0][x[n] as usize],
                &tables[1][y[n] as usize],
                &tables[2][z[n] as usize],
            );
            for c in (0..CHUNK).step_by(S::LANES) {
                let (q, k) = (s.load(&query[c..]), s.load(&keys[n][c..]));
                let mut sum = s.fma(q, k, sums[n]);
                sum = s.fma(q, s.load(&x[c..]), sum);
                sum = s.fma(k, s.load(&x[CHUNK + c..]), sum);
                sum = s.fma(q, s.load(&y[c..]), sum);
                sum = s.fma(k, s.load(&y[CHUNK + c..]), sum);
                sum = s.fma(q, s.load(&z[c..]), sum);
                sums[n] = s.fma(k, s.load(&z[CHUNK + c..]), sum);
            }
        }
        let mut four = [0.0; 4];
        s.sums_of_four(sums, &mut four);
        if add {
            out.iter_mut().zip(four).for_each(|(y, x)| *y += x);
        } else {
            *out = four;
        }
    }
}
