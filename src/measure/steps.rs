//! Timing the index steps of both networks: what depends on coordinates only.

use super::Times;
use crate::cloud::voxel::Voxels;
use crate::geometry::{Choice, SearchTree, farthest_points, partition, radius_neighbors};
use crate::{Error, Result};
use std::hint::black_box;

/// Neighbours of a point.
pub const NEIGHBORS: usize = 16;
/// Points per sample of farthest point sampling.
pub const SAMPLED: usize = 8;

/// One step on one cloud.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct StepTime {
    /// Name of the step.
    pub step: &'static str,
    /// Median, seconds.
    pub seconds: f64,
    /// Shortest and longest, seconds.
    pub range: [f64; 2],
}

type Step = fn(&[[f32; 3]], f32) -> Result<()>;

/// All steps, on a cloud and the usual distance of its points.
const STEPS: [(&str, Step); 5] = [
    ("nearest neighbours", |coord, _| {
        let tree = SearchTree::new(coord, &[0, coord.len()])?;
        black_box(tree.nearest(&tree, NEIGHBORS)?);
        Ok(())
    }),
    ("radius neighbours", |coord, spacing| {
        let ends = [0, coord.len()];
        black_box(radius_neighbors(
            coord,
            &ends,
            2.5 * spacing,
            2 * NEIGHBORS,
            Choice::First,
        )?);
        Ok(())
    }),
    ("farthest points", |coord, _| {
        let count = coord.len() / SAMPLED;
        black_box(farthest_points(coord, &[0, coord.len()], &[count])?);
        Ok(())
    }),
    ("grid pooling", |coord, spacing| {
        black_box(partition::grid(coord, &[0, coord.len()], 2.5 * spacing)?);
        Ok(())
    }),
    ("voxel sampling", |coord, spacing| {
        black_box(Voxels::new(coord, f64::from(2.0 * spacing))?.fragment(0));
        Ok(())
    }),
];

/// Times every step on a cloud of points \[N\], metres. Cells and radii follow the usual distance of its points.
///
/// # Errors
/// Fewer than two points, and coordinates that the steps refuse.
pub fn steps(coord: &[[f32; 3]], repeats: usize) -> Result<Vec<StepTime>> {
    let spacing = spacing(coord)?;
    let time = |&(step, run): &(&'static str, Step)| {
        let times = Times::of(|| run(coord, spacing), repeats)?;
        Ok(StepTime {
            step,
            seconds: times.median(),
            range: times.range(),
        })
    };
    STEPS.iter().map(time).collect()
}

/// Median distance from a point to the nearest other one, metres.
fn spacing(coord: &[[f32; 3]]) -> Result<f32> {
    let fault = |fault: &str| Error::argument("points", fault);
    if coord.len() < 2 {
        return Err(fault("at least two are needed"));
    }
    let tree = SearchTree::new(coord, &[0, coord.len()])?;
    let found = tree.nearest(&tree, 2)?;
    let mut distances: Vec<f32> = found.squared.chunks_exact(2).map(|d| d[1].sqrt()).collect();
    let (_, median, _) = distances.select_nth_unstable_by(coord.len() / 2, f32::total_cmp);
    match *median > 0.0 && median.is_finite() {
        true => Ok(*median),
        false => Err(fault(
            "most of them have another one in the same place, or none at all",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_runs_and_takes_time() {
        let (coord, _) = super::super::room(3000, 1);
        assert!((0.01..0.04).contains(&spacing(&coord).unwrap()));
        let times = steps(&coord, 3).unwrap();
        assert_eq!(times.len(), STEPS.len());
        for time in times {
            let [fastest, slowest] = time.range;
            assert!(0.0 < fastest && fastest <= time.seconds && time.seconds <= slowest);
        }
        for absurd in [&[][..], &[[0.0; 3]; 40]] {
            assert!(steps(absurd, 1).is_err());
        }
    }
}
