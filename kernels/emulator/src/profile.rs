//! Exact counts, per kernel and per source line. They depend on the kernel and its data only: the same launch counts
//! the same on every machine.

use crate::decode::Kernel;
use crate::decode::kernel::{Class, Op};
use crate::exec::{Count, Outcome};
use serde::Serialize;
use std::collections::BTreeMap;

/// Instructions executed.
#[derive(Debug, Clone, Copy, Default, Serialize, PartialEq, Eq)]
pub struct Instructions {
    /// By warps.
    pub warps: u64,
    /// By lanes that took part: at most 32 per warp.
    pub lanes: u64,
}

/// What a kernel or a source line cost. Units are in the names.
#[derive(Debug, Clone, Default, Serialize, PartialEq, Eq)]
pub struct Cost {
    /// All instructions.
    pub instructions: Instructions,
    /// Branches that sent lanes of one warp two ways.
    pub divergent_branches: u64,
    /// 32-byte sectors of global memory that warps requested, asynchronous copies and atomics included.
    pub global_sectors: u64,
    /// Fewest sectors that could hold the bytes each request asked for.
    pub global_sectors_least: u64,
    /// Wavefronts of shared memory.
    pub shared_wavefronts: u64,
    /// Those of them that bank conflicts caused.
    pub bank_conflicts: u64,
    /// `mma.sync` instructions.
    pub tensor_instructions: u64,
    /// Multiplications and additions in them: 2·16·8·k each.
    pub tensor_operations: u64,
}

/// A line of a kernel's source.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// Source file; empty without line information.
    pub file: String,
    /// Line; 0 without line information.
    pub line: u32,
    /// What it cost.
    #[serde(flatten)]
    pub cost: Cost,
}

/// One kernel, summed over its launches.
#[derive(Debug, Clone, Default, Serialize)]
pub struct KernelProfile {
    /// Launches.
    pub launches: u64,
    /// Blocks.
    pub blocks: u64,
    /// Threads.
    pub threads: u64,
    /// Most shared memory of a block, static and dynamic, in bytes.
    pub shared_bytes: u64,
    /// Bytes of the distinct sectors of global memory read, launch by launch.
    pub global_bytes_read: u64,
    /// Bytes of the distinct sectors written, launch by launch.
    pub global_bytes_written: u64,
    /// The whole kernel.
    #[serde(flatten)]
    pub cost: Cost,
    /// Instructions by class.
    pub classes: BTreeMap<Class, Instructions>,
    /// Source lines, dearest (by warp instructions) first.
    pub lines: Vec<Line>,
}

/// Counts of all kernels, by name.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Profile {
    /// The kernels.
    pub kernels: BTreeMap<String, KernelProfile>,
}

impl Cost {
    fn add(&mut self, count: &Count, op: &Op) {
        self.instructions.add(count);
        self.divergent_branches += count.divergent;
        self.global_sectors += count.sectors;
        self.global_sectors_least += count.least_sectors;
        self.shared_wavefronts += count.wavefronts;
        self.bank_conflicts += count.wavefronts - count.least_wavefronts;
        if let Op::MatrixProduct(product) = op {
            self.tensor_instructions += count.warps;
            self.tensor_operations += count.warps * 2 * 16 * 8 * product.depth as u64;
        }
    }
}

impl Instructions {
    fn add(&mut self, count: &Count) {
        self.warps += count.warps;
        self.lanes += count.lanes;
    }
}

impl Profile {
    /// Adds a launch.
    pub fn add(
        &mut self,
        kernel: &Kernel,
        grid: [u32; 3],
        block: [u32; 3],
        dynamic_shared: usize,
        outcome: &Outcome,
    ) {
        let blocks: u64 = grid.iter().map(|extent| u64::from(*extent)).product();
        let threads: u64 = block.iter().map(|extent| u64::from(*extent)).product();
        let entry = self.kernels.entry(kernel.name.clone()).or_default();
        entry.launches += 1;
        entry.blocks += blocks;
        entry.threads += blocks * threads;
        entry.shared_bytes = entry
            .shared_bytes
            .max((kernel.shared_bytes + dynamic_shared) as u64);
        entry.global_bytes_read += outcome.read;
        entry.global_bytes_written += outcome.written;
        let mut lines: BTreeMap<(String, u32), Cost> = entry
            .lines
            .drain(..)
            .map(|line| ((line.file, line.line), line.cost))
            .collect();
        for (inst, count) in kernel
            .code
            .iter()
            .zip(&outcome.counts)
            .filter(|(_, count)| count.warps > 0)
        {
            entry.cost.add(count, &inst.op);
            entry.classes.entry(inst.class).or_default().add(count);
            let file = kernel
                .files
                .get(&inst.location.file)
                .cloned()
                .unwrap_or_default();
            lines
                .entry((file, inst.location.line))
                .or_default()
                .add(count, &inst.op);
        }
        entry.lines = lines
            .into_iter()
            .map(|((file, line), cost)| Line { file, line, cost })
            .collect();
        entry
            .lines
            .sort_by_key(|line| std::cmp::Reverse(line.cost.instructions.warps));
    }

    /// As JSON: the fields of [`KernelProfile`] under `kernels` and each kernel's name.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers and names are always JSON")
    }
}
