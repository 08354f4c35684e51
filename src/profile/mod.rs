//! What the CUDA kernels cost, known exactly and without a GPU: `cairn kernels`.
//!
//! Every case of [`cases`] runs on the emulator, which counts; the assembler says what each kernel takes on a given
//! GPU; [`gpus`] bounds its time on four cards, [`stopwatch`] takes it on a real one. [`table`] holds the counts that a change must not make worse, [`excess`]
//! what kernels that memory bounds may request at most. [`network`]
//! adds up the bounds of a whole network, [`attention`] the bytes of its attention, both beside the [`official`] code.
//!
//! | count | meaning |
//! |---|---|
//! | instructions | PTX instructions executed by warps; the assembler may merge some |
//! | moved | sectors of 32 bytes of global memory that warps requested, in bytes; some of it caches serve |
//! | least | distinct sectors read and distinct sectors written, in bytes, launch by launch: each once |
//! | conflicts | wavefronts of shared memory beyond the fewest |
//! | divergent | branches that sent the lanes of a warp two ways |
//! | tensor | multiplications and additions on tensor cores |

pub mod attention;
pub mod cases;
pub mod excess;
pub mod gpus;
pub mod network;
pub mod official;
pub mod stopwatch;
pub mod table;

use crate::device::cuda::{self, Cuda, Kernels, Resources};
use crate::device::{Cores, Gpu, Precision};
use crate::{Error, Result};
use cases::{Run, STAGES};
use gpus::Work;
use rayon::prelude::*;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// What the emulator counted.
#[derive(Debug, Clone, Default, Deserialize, PartialEq)]
pub struct Cost {
    /// Instructions.
    pub instructions: Instructions,
    /// Branches that sent lanes of one warp two ways.
    pub divergent_branches: u64,
    /// Sectors of 32 bytes of global memory that were requested.
    pub global_sectors: u64,
    /// Wavefronts of shared memory.
    pub shared_wavefronts: u64,
    /// Those of them that bank conflicts caused.
    pub bank_conflicts: u64,
    /// Multiplications and additions on tensor cores.
    pub tensor_operations: u64,
}

/// Instructions executed.
#[derive(Debug, Clone, Copy, Default, Deserialize, PartialEq)]
pub struct Instructions {
    /// By warps.
    pub warps: u64,
    /// By lanes that took part.
    pub lanes: u64,
}

/// What a source line cost.
#[derive(Debug, Clone, Deserialize)]
struct LineCost {
    file: String,
    line: u32,
    instructions: Instructions,
}

/// What a kernel cost, summed over its launches.
#[derive(Debug, Clone, Deserialize)]
struct KernelCost {
    launches: u64,
    blocks: u64,
    threads: u64,
    shared_bytes: u64,
    global_bytes_read: u64,
    global_bytes_written: u64,
    #[serde(flatten)]
    cost: Cost,
    classes: BTreeMap<String, Instructions>,
    lines: Vec<LineCost>,
}

impl KernelCost {
    /// What the bounds are made of, with products in `precision`.
    fn work(&self, precision: Precision) -> Work {
        let tensor = self.cost.tensor_operations;
        Work {
            bytes: self.global_bytes_read + self.global_bytes_written,
            instructions: self.cost.instructions.warps,
            wavefronts: self.cost.shared_wavefronts,
            tensor: match precision {
                Precision::F32 => tensor,
                Precision::Bf16 | Precision::F16 => tensor / 2,
            },
        }
    }
}

/// What the emulator counted, by kernel.
#[derive(Debug, Deserialize)]
struct Counts {
    kernels: BTreeMap<String, KernelCost>,
}

impl Counts {
    /// Everything since the last call.
    fn take() -> Result<Counts> {
        let text = cuda::take_counts()?;
        serde_json::from_str(&text)
            .map_err(|e| Gpu::Emulator.error(format!("its profile is of another version: {e}")))
    }
}

/// A source line and its share of the instructions.
#[derive(Debug, Clone)]
pub struct Line {
    /// Where it is, as `relu.cu:9`.
    pub place: String,
    /// Its text.
    pub text: &'static str,
    /// Share of the kernel's instructions, 0 to 1.
    pub share: f64,
}

/// A kernel in one case.
#[derive(Debug, Clone)]
pub struct Row {
    /// Name of the case and its size, as `relu/1024x48`.
    pub case: String,
    /// Name of the kernel.
    pub kernel: String,
    /// In which it multiplies, if it does.
    pub precision: Precision,
    /// Launches.
    pub launches: u64,
    /// Threads of a block.
    pub block: u32,
    /// Bytes of shared memory of a block, at most.
    pub shared: u32,
    /// Bytes of the distinct sectors of global memory read, and written.
    pub least: [u64; 2],
    /// What the bounds are made of.
    pub work: Work,
    /// What was counted.
    pub cost: Cost,
    /// Instructions by class.
    pub classes: BTreeMap<String, Instructions>,
    /// Source lines, dearest first.
    pub lines: Vec<Line>,
    /// What the kernel takes on the GPU asked for; none for code that is not compiled for it.
    pub resources: Option<Resources>,
}

impl Row {
    /// Bytes that requests moved.
    pub fn moved(&self) -> u64 {
        32 * self.cost.global_sectors
    }

    /// Fewest bytes: each sector read once, each written once.
    pub fn least(&self) -> u64 {
        self.least[0] + self.least[1]
    }
}

/// The cases and kernels that are looked at.
struct Wanted<'a> {
    filter: &'a str,
    /// The filter is part of the names of cases, of which all kernels are wanted.
    names_cases: bool,
}

impl<'a> Wanted<'a> {
    fn new(filter: &'a str) -> Wanted<'a> {
        let names_cases = cases::all().any(|(shown, ..)| shown.contains(filter));
        Wanted {
            filter,
            names_cases,
        }
    }

    /// The cases to run on a GPU.
    fn cases(&self, cuda: &Cuda) -> impl Iterator<Item = (String, Precision, &'static str, Run)> {
        let capability = cuda.capability();
        cases::all()
            .filter(|(shown, ..)| !self.names_cases || shown.contains(self.filter))
            .filter(move |(_, precision, ..)| capability >= precision.capability())
    }

    /// Whether to show a kernel of `file` that the case `name` has run. Every graph uses the executor's own kernels; its
    /// case says what they cost.
    fn has(&self, kernel: &str, file: &Kernels, name: &str) -> bool {
        let foreign = file.name == "executor" && name != "executor";
        !foreign && (self.names_cases || kernel.contains(self.filter))
    }
}

/// Runs the cases whose name contains `filter` on the emulator or, where there are none, all of them for the kernels whose
/// name does, with `growth` times the points; resources are those on a GPU of `capability` (major · 10 + minor), if one is
/// named.
///
/// # Errors
/// What is missing (NVRTC, the emulator), or what a kernel does wrong.
pub fn measure(filter: &str, growth: usize, capability: Option<u32>) -> Result<Vec<Row>> {
    let gpu = Gpu::Emulator;
    let cuda = gpu.open()?;
    Counts::take()?;
    let mut rows = Vec::new();
    let wanted = Wanted::new(filter);
    for (shown, precision, name, run) in wanted.cases(cuda) {
        for stage in STAGES.map(|stage| cases::size(name, stage).grown(growth)) {
            run(Cores { gpu, precision }, stage)?;
            let counts = Counts::take()?;
            let loaded = cuda.loaded();
            for (kernel, cost) in counts.kernels {
                let file = home(&loaded, &kernel)?;
                // Kernels without products are the same in every precision.
                let again = precision != Precision::F32 && cost.cost.tensor_operations == 0;
                if !again && wanted.has(&kernel, file, name) {
                    let case = stage.case(&shown);
                    rows.push(row((case, precision), kernel, cost, file));
                }
            }
        }
    }
    if let Some(capability) = capability {
        add_resources(&mut rows, &cuda.loaded(), capability)?;
    }
    Ok(rows)
}

/// GPUs that no kernel may spill registers on, as major · 10 + minor.
pub const ARCHITECTURES: [u32; 6] = [75, 80, 86, 89, 90, 120];

/// What the kernels of a file take on each of [`ARCHITECTURES`].
pub type Assembled = [Vec<Resources>; ARCHITECTURES.len()];

/// What every kernel takes, by file and precision.
///
/// # Errors
/// There is no NVRTC, or it does not compile a file.
pub fn assemble() -> Result<Vec<(Precision, Assembled)>> {
    let forms: Vec<_> = cuda::FILES.iter().flat_map(forms).collect();
    let assemble = |&(file, precision): &(&Kernels, Precision)| {
        let mut all = ARCHITECTURES.map(|_| Vec::new());
        for (slot, capability) in all.iter_mut().zip(ARCHITECTURES) {
            if capability >= precision.capability() {
                *slot = cuda::resources(file, precision, capability)?;
            }
        }
        Ok((precision, all))
    };
    forms.par_iter().map(assemble).collect()
}

/// A file in every precision that its code depends on.
fn forms(file: &Kernels) -> impl Iterator<Item = (&Kernels, Precision)> {
    let depends = move |p: &Precision| *p == Precision::F32 || file.multiplies();
    let forms = Precision::ALL.into_iter().filter(depends);
    forms.map(move |precision| (file, precision))
}

/// The file of a kernel.
fn home(loaded: &[&'static Kernels], kernel: &str) -> Result<&'static Kernels> {
    let name = format!(" {kernel}(");
    let found = loaded.iter().find(|file| file.source.contains(&name));
    found.copied().ok_or_else(|| {
        Error::argument("kernel", format!("{kernel} is in none of the loaded files"))
    })
}

fn row(
    (case, precision): (String, Precision),
    kernel: String,
    cost: KernelCost,
    file: &'static Kernels,
) -> Row {
    let all = cost.cost.instructions.warps.max(1) as f64;
    let lines = cost.lines.iter().filter_map(|line| {
        let name = line.file.rsplit('/').next()?;
        Some(Line {
            place: format!("{name}:{}", line.line),
            text: cuda::source_line(file, name, line.line)?.trim(),
            share: line.instructions.warps as f64 / all,
        })
    });
    Row {
        case,
        kernel,
        precision,
        launches: cost.launches,
        work: cost.work(precision),
        block: (cost.threads / cost.blocks.max(1)) as u32,
        shared: cost.shared_bytes as u32,
        least: [cost.global_bytes_read, cost.global_bytes_written],
        lines: lines.collect(),
        cost: cost.cost,
        classes: cost.classes,
        resources: None,
    }
}

fn add_resources(rows: &mut [Row], loaded: &[&'static Kernels], capability: u32) -> Result<()> {
    let mut known: BTreeMap<(&str, Precision), Vec<Resources>> = BTreeMap::new();
    for row in rows {
        let file = home(loaded, &row.kernel)?;
        if capability < row.precision.capability() {
            continue;
        }
        let all = match known.entry((file.name, row.precision)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(cuda::resources(file, row.precision, capability)?),
        };
        let found = all.iter().find(|r| r.kernel == row.kernel);
        row.resources = found.cloned();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::graph::check::devices;

    #[test]
    fn no_kernel_spills_registers() {
        if !devices().contains(&Device::Cuda(Gpu::Emulator)) {
            return;
        }
        let forms = cuda::FILES.iter().flat_map(forms);
        let forms: Vec<(&Kernels, Precision, u32)> = forms
            .flat_map(|(file, precision)| ARCHITECTURES.map(|arch| (file, precision, arch)))
            .filter(|(_, precision, arch)| *arch >= precision.capability())
            .collect();
        forms.par_iter().for_each(|(file, precision, arch)| {
            let kernels = cuda::resources(file, *precision, *arch).unwrap();
            let declared = file.source.matches("extern \"C\" __global__").count();
            assert!(
                kernels.len() <= declared && !kernels.is_empty(),
                "{}",
                file.name
            );
            for kernel in kernels {
                let name = &kernel.kernel;
                assert!(
                    kernel.registers > 0,
                    "{name} in {precision} on sm_{arch}: no report"
                );
                assert_eq!(
                    kernel.spills, [0; 2],
                    "{name} in {precision} spills on sm_{arch}"
                );
                assert_eq!(
                    kernel.stack, 0,
                    "{name} in {precision} has arrays in memory on sm_{arch}"
                );
            }
        });
    }
}
