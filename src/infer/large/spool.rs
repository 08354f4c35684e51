//! The points of a scan on disk, sorted by place, so that any part of the scan can be read without the rest.
//!
//! Points are collected in a buffer. A full buffer is sorted along a Z-order curve over horizontal cells and appended to the
//! file: a *run*. In memory stays one line per [`Packet`] of some hundred neighbouring rows of a run: the cells that it
//! touches and how many voxels its points occupy. A part of the scan is read from the packets that touch it, in all runs.
//!
//! | bytes of a row | holds |
//! |---|---|
//! | 3 × 8 | position, f64 |
//! | … | the attributes that the features need, as the scan stores them |
//! | 8 | number of the point in the scan |
//!
//! All little-endian. Memory: the buffer while points come in, then about 40 bytes per packet.

use super::scratch::Scratch;
use crate::Result;
use crate::cloud::{self, Attribute, Column, Endian, Kind, PointCloud, keys};
use rayon::prelude::*;
use std::path::Path;

/// Rows of a packet, unless there would be more than [`MOST_PACKETS`].
const PACKET: usize = 256;
const MOST_PACKETS: u64 = 1 << 18;
/// Rows that are read together.
const READ: usize = 1 << 14;

/// A horizontal rectangle of cells, both ends included. Cells at the ends of the numbers reach to infinity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rect {
    pub low: [i32; 2],
    pub high: [i32; 2],
}

impl Rect {
    /// The rectangle of nothing.
    pub const NONE: Rect = Rect {
        low: [i32::MAX; 2],
        high: [i32::MIN; 2],
    };

    pub fn contains(&self, cell: [i32; 2]) -> bool {
        (0..2).all(|a| self.low[a] <= cell[a] && cell[a] <= self.high[a])
    }

    pub fn touches(&self, other: &Rect) -> bool {
        (0..2).all(|a| self.low[a] <= other.high[a] && other.low[a] <= self.high[a])
    }

    pub fn grown(&self, by: i32) -> Rect {
        Rect {
            low: self.low.map(|x| x.saturating_sub(by)),
            high: self.high.map(|x| x.saturating_add(by)),
        }
    }

    /// The smallest rectangle around both.
    pub fn with(&self, other: &Rect) -> Rect {
        Rect {
            low: [0, 1].map(|a: usize| self.low[a].min(other.low[a])),
            high: [0, 1].map(|a: usize| self.high[a].max(other.high[a])),
        }
    }

    /// What lies in both.
    pub fn cut(&self, other: &Rect) -> Rect {
        Rect {
            low: [0, 1].map(|a: usize| self.low[a].max(other.low[a])),
            high: [0, 1].map(|a: usize| self.high[a].min(other.high[a])),
        }
    }
}

/// A cubic grid that starts at a point of the scan.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grid {
    pub anchor: [f64; 3],
    /// Edge of a cell, metres.
    pub edge: f64,
}

impl Grid {
    /// The cell of a point.
    pub fn cell(&self, p: [f64; 3]) -> [i64; 3] {
        std::array::from_fn(|a| ((p[a] - self.anchor[a]) / self.edge).floor() as i64)
    }
}

/// The horizontal part of a cell; the outermost ones take what lies beyond them.
pub fn column(cell: [i64; 3]) -> [i32; 2] {
    [0, 1].map(|a: usize| cell[a].clamp(i32::MIN.into(), i32::MAX.into()) as i32)
}

/// Place on a Z-order curve.
fn order(column: [i32; 2]) -> u64 {
    // Spreads 32 bits to the even ones of 64.
    let spread = |x: i32| {
        let mut x = u64::from(x as u32 ^ 0x8000_0000);
        for (shift, mask) in [
            (16, 0x0000_ffff_0000_ffff),
            (8, 0x00ff_00ff_00ff_00ff),
            (4, 0x0f0f_0f0f_0f0f_0f0f),
            (2, 0x3333_3333_3333_3333),
            (1, 0x5555_5555_5555_5555u64),
        ] {
            x = (x | x << shift) & mask;
        }
        x
    };
    spread(column[0]) << 1 | spread(column[1])
}

/// What a row holds.
#[derive(Debug, Clone)]
struct Layout {
    /// Names and types of the attributes, and their positions in the scan.
    attributes: Vec<(String, Kind, usize)>,
    stride: usize,
}

impl Layout {
    fn new(schema: &PointCloud, attributes: &[usize]) -> Layout {
        let attributes: Vec<_> = (attributes.iter())
            .map(|&i| {
                let a = &schema.attributes[i];
                (a.name.clone(), a.column.kind(), i)
            })
            .collect();
        let stored: usize = attributes.iter().map(|(_, kind, _)| kind.size()).sum();
        Layout {
            attributes,
            stride: 24 + stored + 8,
        }
    }

    fn put(&self, cloud: &PointCloud, row: usize, number: u64, out: &mut Vec<u8>) {
        for x in cloud.coord[row] {
            out.extend_from_slice(&x.to_le_bytes());
        }
        for (_, _, at) in &self.attributes {
            cloud.attributes[*at].column.put(row, Endian::Little, out);
        }
        out.extend_from_slice(&number.to_le_bytes());
    }

    fn decode(&self, rows: &[u8]) -> PointCloud {
        let mut at = 24;
        let mut attributes = Vec::new();
        for (name, kind, _) in &self.attributes {
            let mut column = Column::new(*kind);
            column.extend_strided(rows, at, self.stride, Endian::Little);
            at += kind.size();
            attributes.push(Attribute {
                name: name.clone(),
                column,
            });
        }
        PointCloud {
            coord: rows.chunks_exact(self.stride).map(position).collect(),
            attributes,
        }
    }
}

fn eight(row: &[u8], at: usize) -> [u8; 8] {
    row[at..at + 8].try_into().expect("the range has 8 bytes")
}

/// Position of a row.
pub fn position(row: &[u8]) -> [f64; 3] {
    [0, 8, 16].map(|at| f64::from_le_bytes(eight(row, at)))
}

/// Number in the scan of a row's point.
pub fn number(row: &[u8]) -> u64 {
    u64::from_le_bytes(eight(row, row.len() - 8))
}

/// Some neighbouring rows of a run.
#[derive(Debug, Clone, Copy)]
pub struct Packet {
    first: u64,
    /// Cells of the finest grid.
    rect: Rect,
    pub rows: u32,
}

/// How to spool.
#[derive(Debug, Clone)]
pub struct Plan<'a> {
    /// Names and types of the scan's attributes.
    pub schema: &'a PointCloud,
    /// Which of them are kept.
    pub attributes: &'a [usize],
    /// Voxel sizes that may be asked for, metres.
    pub voxels: &'a [f64],
    /// Number of points, about.
    pub points: u64,
    /// Bytes for the buffer.
    pub buffer: u64,
}

/// Points on disk.
#[derive(Debug)]
pub struct Spool {
    scratch: Scratch,
    layout: Layout,
    voxels: Vec<f64>,
    anchor: Option<[f64; 3]>,
    buffer: Vec<u8>,
    /// Place on the curve and position in the buffer of each of its rows.
    keys: Vec<(u64, u32)>,
    /// Rows that fill the buffer.
    full: usize,
    packet: usize,
    rows: u64,
    packets: Vec<Packet>,
    /// Occupied voxels of each packet, for each voxel size.
    occupied: Vec<Vec<u32>>,
}

impl Spool {
    /// Nothing yet, on the file system of `folder`.
    ///
    /// # Errors
    /// As [`Scratch::new`].
    pub fn new(folder: &Path, plan: &Plan<'_>) -> Result<Spool> {
        let layout = Layout::new(plan.schema, plan.attributes);
        let each = layout.stride as u64 + size_of::<(u64, u32)>() as u64;
        let full = (plan.buffer / each).clamp(PACKET as u64, 1 << 31);
        let full = full.min(plan.points.max(PACKET as u64)) as usize;
        Ok(Spool {
            scratch: Scratch::new(folder)?,
            buffer: Vec::new(),
            keys: Vec::new(),
            layout,
            voxels: plan.voxels.to_vec(),
            anchor: None,
            full,
            packet: PACKET.max((plan.points / MOST_PACKETS) as usize),
            rows: 0,
            packets: Vec::new(),
            occupied: vec![Vec::new(); plan.voxels.len()],
        })
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.scratch.len()
    }

    /// Bytes of a row.
    pub fn stride(&self) -> usize {
        self.layout.stride
    }

    /// Voxel sizes that may be asked for, metres.
    pub fn voxels(&self) -> &[f64] {
        &self.voxels
    }

    /// Points taken.
    pub fn points(&self) -> u64 {
        self.rows + self.keys.len() as u64
    }

    /// Takes points, of which the first has this number in the scan; those without usable coordinates are left out.
    pub fn push(&mut self, cloud: &PointCloud, first: u64) -> Result<()> {
        for (row, p) in cloud.coord.iter().enumerate() {
            if !cloud::is_usable(p) {
                continue;
            }
            if self.keys.len() == self.keys.capacity() {
                // Twice as large, yet never larger than was asked for; what is promised is not believed before it comes.
                let more = (self.keys.len().max(1 << 14)).min(self.full - self.keys.len());
                self.keys.reserve_exact(more);
                self.buffer.reserve_exact(more * self.layout.stride);
            }
            let key = order(column(self.finest_at(*p).cell(*p)));
            self.keys.push((key, self.keys.len() as u32));
            (self.layout).put(cloud, row, first + row as u64, &mut self.buffer);
            if self.keys.len() == self.full {
                self.write_run()?;
            }
        }
        Ok(())
    }

    /// Writes what is left and frees the buffer.
    pub fn finish(&mut self) -> Result<()> {
        self.write_run()?;
        self.buffer = Vec::new();
        self.keys = Vec::new();
        Ok(())
    }

    /// The finest grid. The first point decides where grids start: not on it, since scanners put points on round numbers and
    /// these would then lie on the faces of voxels.
    fn finest_at(&mut self, p: [f64; 3]) -> Grid {
        let edge = self.voxels.iter().copied().fold(f64::INFINITY, f64::min);
        let anchor = *(self.anchor).get_or_insert_with(|| p.map(|x| x - 0.3137 * edge));
        Grid { anchor, edge }
    }

    /// The grid of one of the voxel sizes.
    pub fn grid(&self, which: usize) -> Grid {
        Grid {
            anchor: self.anchor.unwrap_or_default(),
            edge: self.voxels[which],
        }
    }

    fn write_run(&mut self) -> Result<()> {
        let mut keys = std::mem::take(&mut self.keys);
        keys.par_sort_unstable();
        // A wave at a time: a second copy of the buffer would cost as much as the buffer.
        let wave = 32 * self.packet * rayon::current_num_threads();
        for keys in keys.chunks(wave) {
            let made: Vec<_> = (keys.par_chunks(self.packet))
                .map(|keys| self.packed(keys))
                .collect();
            for (bytes, mut packet, occupied) in made {
                packet.first = self.rows;
                let at = self.rows * self.layout.stride as u64;
                self.scratch.write(at, &bytes)?;
                self.rows += u64::from(packet.rows);
                self.packets.push(packet);
                for (all, one) in self.occupied.iter_mut().zip(occupied) {
                    all.push(one);
                }
            }
        }
        keys.clear();
        self.keys = keys;
        self.buffer.clear();
        Ok(())
    }

    /// The rows of a packet, and what is to be known about it.
    fn packed(&self, keys: &[(u64, u32)]) -> (Vec<u8>, Packet, Vec<u32>) {
        let stride = self.layout.stride;
        let mut bytes = Vec::with_capacity(keys.len() * stride);
        for (_, row) in keys {
            bytes.extend_from_slice(&self.buffer[*row as usize * stride..][..stride]);
        }
        let finest =
            (0..self.voxels.len()).min_by(|a, b| self.voxels[*a].total_cmp(&self.voxels[*b]));
        let finest = self.grid(finest.expect("there is at least one voxel size"));
        let mut rect = Rect::NONE;
        for row in bytes.chunks_exact(stride) {
            let column = column(finest.cell(position(row)));
            rect = rect.with(&Rect {
                low: column,
                high: column,
            });
        }
        let occupied = (0..self.voxels.len()).map(|which| {
            let grid = self.grid(which);
            let rows = bytes.chunks_exact(stride);
            let mut seen: Vec<u64> = rows
                .map(|r| keys::of_cell(grid.cell(position(r))))
                .collect();
            seen.sort_unstable();
            seen.dedup();
            seen.len() as u32
        });
        let occupied = occupied.collect();
        let packet = Packet {
            first: 0,
            rect,
            rows: keys.len() as u32,
        };
        (bytes, packet, occupied)
    }

    /// All packets with the cells of a voxel size that they touch, at least, and the voxels that they occupy.
    pub fn spans(&self, which: usize) -> Vec<Span> {
        let edge = self.voxels[which];
        let finest = self.voxels.iter().copied().fold(f64::INFINITY, f64::min);
        let scaled = |x: i32, up: i64| -> i32 {
            // The ends of the numbers stand for everything beyond them.
            if edge == finest || x == i32::MIN || x == i32::MAX {
                return x;
            }
            // One more cell on both sides, for what rounding does to the quotient.
            let cell = ((i64::from(x) + up) as f64 * finest / edge).floor() as i64;
            (cell + 2 * up - 1) as i32
        };
        (self.packets.iter().zip(&self.occupied[which]))
            .map(|(packet, voxels)| Span {
                rect: Rect {
                    low: packet.rect.low.map(|x| scaled(x, 0)),
                    high: packet.rect.high.map(|x| scaled(x, 1)),
                },
                points: packet.rows,
                voxels: *voxels,
            })
            .collect()
    }

    /// Reads the rows of the packets that are wanted, in the order of the file, some thousand at a time.
    pub fn visit(
        &self,
        mut wanted: impl FnMut(usize) -> bool,
        mut take: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let stride = self.layout.stride;
        let most = READ.max(self.packet);
        let mut bytes = Vec::new();
        let mut open: Option<(u64, usize)> = None;
        let mut read = |(first, rows): (u64, usize)| -> Result<()> {
            bytes.resize(rows * stride, 0);
            self.scratch.read(first * stride as u64, &mut bytes)?;
            take(&bytes)
        };
        for (i, packet) in self.packets.iter().enumerate() {
            let rows = packet.rows as usize;
            match open {
                _ if !wanted(i) => {
                    if let Some(range) = open.take() {
                        read(range)?;
                    }
                }
                Some((first, have)) if have + rows <= most => open = Some((first, have + rows)),
                _ => {
                    if let Some(range) = open.replace((packet.first, rows)) {
                        read(range)?;
                    }
                }
            }
        }
        open.map_or(Ok(()), read)
    }

    /// Rows as points, with the attributes that were kept.
    pub fn decode(&self, rows: &[u8]) -> PointCloud {
        self.layout.decode(rows)
    }
}

/// A packet on the grid of one voxel size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Span {
    pub rect: Rect,
    pub points: u32,
    pub voxels: u32,
}

#[cfg(test)]
#[path = "spool_tests.rs"]
mod tests;
