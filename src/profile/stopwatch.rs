//! How long kernels take on a real GPU, in the cases whose counts the emulator gives, with more points: as many as the
//! S3DIS network meets, so that a launch lasts longer than it takes to begin.

use super::cases::{self, STAGES};
use super::{Wanted, home};
use crate::Result;
use crate::device::{Cores, Gpu, Precision};
use std::collections::BTreeMap;

/// Timed runs of a case; one more comes before them.
const RUNS: usize = 3;

/// How long a kernel took in one case.
#[derive(Debug, Clone)]
pub struct Timed {
    /// Name of the case and its size, as `relu/32768x48`.
    pub case: String,
    /// Name of the kernel.
    pub kernel: String,
    /// Launches of a run.
    pub launches: usize,
    /// Time of all of them, microseconds; median of several runs.
    pub microseconds: f64,
}

/// Times the cases and kernels that [`super::measure`] counts for the same filter, with `growth` times the points.
///
/// # Errors
/// What is missing (NVRTC, the GPU), or faults of the GPU.
pub fn time(filter: &str, growth: usize, gpu: Gpu) -> Result<Vec<Timed>> {
    let cuda = gpu.open()?;
    let wanted = Wanted::new(filter);
    let mut timed = Vec::new();
    for (shown, precision, name, run) in wanted.cases(cuda) {
        for stage in STAGES.map(|stage| cases::size(name, stage).grown(growth)) {
            let run = || run(Cores { gpu, precision }, stage);
            run()?;
            // Times of each kernel, one per launch and run.
            let mut times: BTreeMap<String, [Vec<f64>; RUNS]> = BTreeMap::new();
            for number in 0..RUNS {
                for lap in cuda.clocked(run)? {
                    times.entry(lap.kernel).or_default()[number].push(lap.microseconds);
                }
            }
            let loaded = cuda.loaded();
            for (kernel, runs) in times {
                let file = home(&loaded, &kernel)?;
                // Kernels without products are the same in every precision.
                let again = precision != Precision::F32 && !file.multiplies();
                if again || !wanted.has(&kernel, file, name) {
                    continue;
                }
                let mut sums = runs.each_ref().map(|run| run.iter().sum::<f64>());
                sums.sort_by(f64::total_cmp);
                timed.push(Timed {
                    case: stage.case(&shown),
                    launches: runs[0].len(),
                    microseconds: sums[RUNS / 2],
                    kernel,
                });
            }
        }
    }
    Ok(timed)
}
