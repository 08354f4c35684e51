//! The work on one block: its points are read from the spool, thinned, decided and written to the results.
//!
//! In one view the network sees one point per voxel, the first of the scan, and that point decides for the others. So only
//! these points are kept; all others are read once to find the lowest point around each place, and once more to be given
//! the decision of their voxel. Memory follows the voxels, however many points lie in one.
//!
//! With several views every point is seen, so all are kept. A block that is too dense even so is decided in slices, each
//! with every n-th point.
//!
//! What other blocks see too is decided when all are done ([`Site::settle`]), by the votes of all.

use super::blocks::Block;
use super::results::{Decision, Results};
use super::seams::{Open, Seams};
use super::spool::{self, Grid, Rect, Span, Spool};
use crate::Result;
use crate::cloud::features::{Feature, Floors, Sample, Whole};
use crate::cloud::keys::{self, KeyNumbers};
use crate::infer::blend::Blend;
use crate::infer::segment::Decider;
use crate::infer::tiles::{self, Cut};
use crate::weights::InputSpec;
use std::cell::Cell;

/// Decisions that are written together.
const WRITE: usize = 1 << 20;

/// What the work on every block needs.
pub struct Site<'a> {
    pub spool: &'a Spool,
    /// All packets on the grid of the network's voxels.
    pub spans: &'a [Span],
    pub blocks: &'a [Block],
    pub grid: Grid,
    pub input: &'a InputSpec,
    pub cut: Cut,
    /// Lowest z of the scan.
    pub lowest: f64,
    pub largest_color: Option<f64>,
    /// Columns around a block that are read for heights, beyond the surroundings for the network.
    pub halo: i32,
    /// Most voxels in memory when one point of each is.
    pub most_voxels: u64,
    /// Most points in memory when every point is.
    pub most_points: u64,
}

/// Where decisions go.
pub struct Outputs<'a> {
    pub results: &'a mut Results,
    pub seams: &'a mut Seams,
}

/// Points in memory.
#[derive(Default)]
struct Held {
    sample: Sample,
    /// Which belong to the block.
    core: Vec<bool>,
    /// Which other blocks see too.
    open: Vec<Open>,
    /// Numbers of the points in the scan, where they are needed.
    points: Vec<u64>,
}

/// Called before every run of the network with the share of the block that is done, 0 to 1.
pub type Watch<'a> = &'a mut dyn FnMut(f64) -> Result<()>;

impl Site<'_> {
    /// Decides the points of a block in one view; returns the number of tiles.
    pub fn thinned(
        &self,
        block: usize,
        decider: &mut Decider<'_>,
        outputs: &mut Outputs<'_>,
        watch: Watch<'_>,
    ) -> Result<usize> {
        let own = &self.blocks[block];
        // Counted per packet, a voxel may be there several times: the table grows if it has to.
        let few = own.size.voxels.min(self.most_voxels);
        let mut voxels = KeyNumbers::with_capacity(few as usize);
        let mut held = self.hold(block, false, |cell| {
            let next = voxels.len() as u32;
            voxels.number(keys::of_cell(cell)) == next
        })?;
        let (class, confidence, tiles) =
            self.decide(&mut held, decider, outputs.seams, watch, true)?;
        drop(held);
        self.give(block, false, outputs.results, |cell| {
            let seen = voxels.get(keys::of_cell(cell));
            let voxel = seen.expect("every voxel was numbered by the first reading") as usize;
            (class[voxel], confidence[voxel])
        })?;
        Ok(tiles)
    }

    /// Decides the points of a block in several views; returns the number of tiles.
    pub fn every_point(
        &self,
        block: usize,
        decider: &mut Decider<'_>,
        outputs: &mut Outputs<'_>,
        watch: Watch<'_>,
    ) -> Result<usize> {
        let slices = self.blocks[block].size.points.div_ceil(self.most_points);
        let slices = slices.max(1);
        let mut tiles = 0;
        for slice in 0..slices {
            let mut read = 0;
            let mut held = self.hold(block, true, |_| {
                read += 1;
                read % slices == slice
            })?;
            let mut watch = |done: f64| watch((slice as f64 + done) / slices as f64);
            let (class, confidence, more) =
                self.decide(&mut held, decider, outputs.seams, &mut watch, false)?;
            tiles += more;
            for open in &held.open {
                held.core[open.row as usize] = false;
            }
            let mut decisions: Vec<Decision> = (0..held.points.len())
                .filter(|i| held.core[*i])
                .map(|i| Decision {
                    point: held.points[i],
                    class: class[i],
                    confidence: confidence[i],
                })
                .collect();
            outputs.results.put(&mut decisions)?;
        }
        Ok(tiles)
    }

    /// Decides the points of a block that other blocks see too, when all have voted.
    pub fn settle(&self, block: usize, numbered: bool, outputs: &mut Outputs<'_>) -> Result<()> {
        let tally = outputs.seams.tally(block)?;
        if !numbered {
            let decide = |cell| tally.decide(keys::of_cell(cell));
            return self.give(block, true, outputs.results, decide);
        }
        let decide = |point: &u64| {
            let (class, confidence) = tally.decide(*point);
            Decision {
                point: *point,
                class,
                confidence,
            }
        };
        let mut decisions: Vec<Decision> = tally.keys().iter().map(decide).collect();
        outputs.results.put(&mut decisions)
    }

    /// Reads the points of a block again that other blocks see too, or those that none does, and puts down what is decided
    /// by their cells.
    fn give(
        &self,
        block: usize,
        open: bool,
        results: &mut Results,
        decide: impl Fn([i64; 3]) -> (i32, f32),
    ) -> Result<()> {
        let core = self.blocks[block].core;
        let around = self.around(block);
        let most = self.blocks[block].size.points;
        let mut decisions = Vec::with_capacity(WRITE.min(most as usize));
        let stride = self.spool.stride();
        let wanted = |i: usize| {
            let rect = &self.spans[i].rect;
            rect.touches(&core) && (!open || around.iter().any(|(_, o)| rect.touches(&o.near)))
        };
        self.spool.visit(wanted, |rows| {
            for row in rows.chunks_exact(stride) {
                let cell = self.grid.cell(spool::position(row));
                let column = spool::column(cell);
                let is_open = || around.iter().any(|(_, o)| o.near.contains(column));
                if !core.contains(column) || is_open() != open {
                    continue;
                }
                let (class, confidence) = decide(cell);
                decisions.push(Decision {
                    point: spool::number(row),
                    class,
                    confidence,
                });
                if decisions.len() == WRITE {
                    results.put(&mut decisions)?;
                    decisions.clear();
                }
            }
            Ok(())
        })?;
        results.put(&mut decisions)
    }

    /// The other blocks that see points of this one, with their numbers.
    fn around(&self, block: usize) -> Vec<(u32, &Block)> {
        let core = self.blocks[block].core;
        let others = self.blocks.iter().enumerate();
        others
            .filter(|(i, other)| *i != block && other.near.touches(&core))
            .map(|(i, other)| (i as u32, other))
            .collect()
    }

    /// Reads a block and keeps the points that `keep` wants, told their cells.
    fn hold(
        &self,
        number: usize,
        numbered: bool,
        mut keep: impl FnMut([i64; 3]) -> bool,
    ) -> Result<Held> {
        let (block, others) = (&self.blocks[number], self.around(number));
        let owner = |column: [i32; 2]| match block.core.contains(column) {
            true => (others.iter().any(|(_, b)| b.near.contains(column))).then_some(number as u32),
            false => (others.iter().find(|(_, b)| b.core.contains(column))).map(|(i, _)| *i),
        };
        let features: &[Feature] = &self.input.features;
        let origin = self.origin(block);
        let mut floors: Vec<(f64, Floors)> = (features.iter())
            .filter_map(|f| f.window.map(|w| (w, Floors::new(w))))
            .collect();
        let around = match floors.is_empty() {
            true => block.near,
            false => block.near.grown(self.halo),
        };
        let mut held = Held::default();
        let mut kept = Vec::new();
        let stride = self.spool.stride();
        let wanted = |i: usize| self.spans[i].rect.touches(&around);
        self.spool.visit(wanted, |rows| {
            kept.clear();
            for row in rows.chunks_exact(stride) {
                let p = spool::position(row);
                let cell = self.grid.cell(p);
                let column = spool::column(cell);
                if !around.contains(column) {
                    continue;
                }
                for (_, floors) in &mut floors {
                    floors.see(std::array::from_fn(|a| (p[a] - origin[a]) as f32));
                }
                if block.near.contains(column) && keep(cell) {
                    kept.extend_from_slice(row);
                    let point = spool::number(row);
                    if let Some(owner) = owner(column) {
                        held.open.push(Open {
                            row: held.core.len() as u32,
                            owner,
                            key: if numbered { point } else { keys::of_cell(cell) },
                        });
                    }
                    held.core.push(block.core.contains(column));
                    if numbered {
                        held.points.push(point);
                    }
                }
            }
            let number = |i: usize| spool::number(&kept[i * stride..(i + 1) * stride]);
            let whole = Whole {
                origin,
                largest_color: self.largest_color,
                number: &number,
            };
            let part = Sample::part(&self.spool.decode(&kept), features, &whole)?;
            held.sample.append(part);
            Ok(())
        })?;
        floors.iter_mut().for_each(|(_, floors)| floors.settle());
        held.sample.set_heights(features, |coord, window| {
            let floors = floors.iter().find(|(w, _)| Some(*w) == window);
            match floors {
                Some((_, floors)) => floors.heights(coord),
                // The origin is at the height of the lowest point.
                None => coord.iter().map(|p| p[2]).collect(),
            }
        });
        Ok(held)
    }

    /// Where the coordinates of a block start: near its points, for the precision of f32.
    fn origin(&self, block: &Block) -> [f64; 3] {
        let inside = |s: &&Span| s.rect.touches(&block.core);
        let used = self.spans.iter().filter(inside);
        let used = used
            .fold(Rect::NONE, |used, s| used.with(&s.rect))
            .cut(&block.core);
        let middle = |a: usize| {
            let cell = (f64::from(used.low[a]) + f64::from(used.high[a])) / 2.0;
            self.grid.anchor[a] + cell.floor() * self.grid.edge
        };
        [middle(0), middle(1), self.lowest]
    }

    /// Cuts what is held into tiles, lets `decider` vote on them, and leaves the votes on open points to their owners. Gives class and
    /// confidence of all points, and the number of tiles.
    fn decide(
        &self,
        held: &mut Held,
        decider: &mut Decider<'_>,
        seams: &mut Seams,
        watch: Watch<'_>,
        thinned: bool,
    ) -> Result<(Vec<i32>, Vec<f32>, usize)> {
        let (sample, core) = (&held.sample, &held.core);
        let tiles = tiles::cut_part(&sample.coord, Some(core), self.cut)?;
        let total: usize = tiles.iter().map(|t| t.decided).sum();
        let rows = held.open.iter().map(|o| o.row);
        let mut blend = Blend::new(&sample.coord, &tiles, decider.classes(), rows);
        let done = Cell::new(0);
        decider.votes(
            (sample, &tiles),
            thinned,
            &mut |_, _| watch(done.get() as f64 / total as f64),
            &mut |tile, votes| {
                blend.add(&sample.coord, &tiles[tile], votes);
                done.set(done.get() + tiles[tile].decided);
                Ok(())
            },
        )?;
        seams.put(&mut held.open, |row| blend.sums(row))?;
        let (class, confidence) = blend.decide();
        Ok((class, confidence, tiles.len()))
    }
}
