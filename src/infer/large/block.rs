//! The work on one block: its points are read from the spool, thinned, decided and written to the results.
//!
//! In one view the network sees one point per voxel, the first of the scan, and that point decides for the others. So only
//! these points are kept; all others are read once to find the lowest point around each place, and once more to be given
//! the decision of their voxel. Memory follows the voxels, however many points lie in one.
//!
//! With several views every point is seen, so all are kept. A block that is too dense even so is decided in slices, each
//! with every n-th point.

use super::blocks::Block;
use super::results::{Decision, Results};
use super::spool::{self, Grid, Rect, Span, Spool};
use crate::Result;
use crate::cloud::features::{Feature, Floors, Sample, Whole};
use crate::cloud::keys::{self, KeyNumbers};
use crate::infer::segment::Decider;
use crate::infer::tiles::{self, Cut};
use crate::weights::InputSpec;

/// Decisions that are written together.
const WRITE: usize = 1 << 20;

/// What the work on every block needs.
pub struct Site<'a> {
    pub spool: &'a Spool,
    /// All packets on the grid of the network's voxels.
    pub spans: &'a [Span],
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

/// Points in memory.
#[derive(Default)]
struct Held {
    sample: Sample,
    /// Which are decided here.
    core: Vec<bool>,
    /// Numbers of the points in the scan, where they are needed.
    points: Vec<u64>,
}

/// Called before every run of the network with the share of the block that is done, 0 to 1.
pub type Watch<'a> = &'a mut dyn FnMut(f64) -> Result<()>;

impl Site<'_> {
    /// Decides the points of a block in one view; returns the number of tiles.
    pub fn thinned(
        &self,
        block: &Block,
        decider: &mut Decider<'_>,
        results: &mut Results,
        watch: Watch<'_>,
    ) -> Result<usize> {
        // Counted per packet, a voxel may be there several times: the table grows if it has to.
        let few = block.size.voxels.min(self.most_voxels);
        let mut voxels = KeyNumbers::with_capacity(few as usize);
        let held = self.hold(block, false, |cell| {
            let next = voxels.len() as u32;
            voxels.number(keys::of_cell(cell)) == next
        })?;
        let (class, confidence, tiles) = self.decide(&held, watch, |sample, tile, _| {
            decider.decide_thinned(sample, tile)
        })?;
        drop(held);
        let mut decisions = Vec::with_capacity(WRITE.min(block.size.points as usize));
        let stride = self.spool.stride();
        let wanted = |i: usize| self.spans[i].rect.touches(&block.core);
        self.spool.visit(wanted, |rows| {
            for row in rows.chunks_exact(stride) {
                let cell = self.grid.cell(spool::position(row));
                if !block.core.contains(spool::column(cell)) {
                    continue;
                }
                let seen = voxels.get(keys::of_cell(cell));
                let voxel = seen.expect("every voxel was numbered by the first reading") as usize;
                decisions.push(Decision {
                    point: spool::number(row),
                    class: class[voxel],
                    confidence: confidence[voxel],
                });
                if decisions.len() == WRITE {
                    results.put(&mut decisions)?;
                    decisions.clear();
                }
            }
            Ok(())
        })?;
        results.put(&mut decisions)?;
        Ok(tiles)
    }

    /// Decides the points of a block in several views; returns the number of tiles.
    pub fn every_point(
        &self,
        block: &Block,
        decider: &mut Decider<'_>,
        results: &mut Results,
        watch: Watch<'_>,
    ) -> Result<usize> {
        let slices = block.size.points.div_ceil(self.most_points).max(1);
        let mut tiles = 0;
        for slice in 0..slices {
            let mut read = 0;
            let held = self.hold(block, true, |_| {
                read += 1;
                read % slices == slice
            })?;
            let mut watch = |done: f64| watch((slice as f64 + done) / slices as f64);
            let (class, confidence, more) =
                self.decide(&held, &mut watch, |sample, tile, watch| {
                    decider.decide(sample, tile, &mut |_| watch())
                })?;
            tiles += more;
            let rows = 0..held.core.len();
            let mut decisions: Vec<Decision> = rows
                .filter(|i| held.core[*i])
                .map(|i| Decision {
                    point: held.points[i],
                    class: class[i],
                    confidence: confidence[i],
                })
                .collect();
            results.put(&mut decisions)?;
        }
        Ok(tiles)
    }

    /// Reads a block and keeps the points that `keep` wants, told their cells.
    fn hold(
        &self,
        block: &Block,
        numbered: bool,
        mut keep: impl FnMut([i64; 3]) -> bool,
    ) -> Result<Held> {
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
                    held.core.push(block.core.contains(column));
                    if numbered {
                        held.points.push(spool::number(row));
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

    /// Cuts what is held into tiles and decides each.
    #[allow(clippy::type_complexity, reason = "class, confidence, number of tiles")]
    fn decide(
        &self,
        held: &Held,
        watch: Watch<'_>,
        mut decide: impl FnMut(
            &Sample,
            &tiles::Tile,
            &mut dyn FnMut() -> Result<()>,
        ) -> Result<(Vec<i32>, Vec<f32>)>,
    ) -> Result<(Vec<i32>, Vec<f32>, usize)> {
        let count = held.sample.len();
        let mut class = vec![-1; count];
        let mut confidence = vec![0.0; count];
        let tiles = tiles::cut_part(&held.sample.coord, Some(&held.core), self.cut)?;
        let total = held.core.iter().filter(|c| **c).count().max(1);
        let mut done = 0;
        for tile in tiles.iter().filter(|t| !t.core.is_empty()) {
            let share = done as f64 / total as f64;
            watch(share)?;
            let (c, p) = decide(&held.sample, tile, &mut || watch(share))?;
            for i in &tile.core {
                let row = tile.rows[*i as usize] as usize;
                class[row] = c[*i as usize];
                confidence[row] = p[*i as usize];
            }
            done += tile.core.len();
        }
        Ok((class, confidence, tiles.len()))
    }
}
