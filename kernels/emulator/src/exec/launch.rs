//! A launch: its blocks in their order, on as many threads as can work without influencing each other.
//!
//! Blocks of a kernel without global atomics or volatile accesses cannot influence each other unless they race, and
//! races are found: each worker thread keeps its own records, which are compared at the end. So results and counts do
//! not depend on the number of threads. All other kernels run on one thread, in the order that the seed gives.

use super::block::Worker;
use super::shadow::Shadow;
use super::stamp::MAX_TIME;
use super::traffic::Count;
use crate::Error;
use crate::decode::Kernel;
use crate::lanes::tensor::TensorCores;
use crate::memory::Memory;
use crate::violation::{Violation, ViolationKind};
use std::collections::{BTreeSet, HashMap};

/// What a launch needs.
pub struct Launch<'a> {
    /// The kernel.
    pub kernel: &'a Kernel,
    /// Device memory.
    pub memory: &'a Memory,
    /// Parameter buffer.
    pub params: &'a [u8],
    /// Blocks in each direction.
    pub grid: [u32; 3],
    /// Threads of a block in each direction.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: usize,
    /// Permutes the order of blocks and warps; 0 keeps it.
    pub seed: u64,
    /// Warp instructions after which a worker gives up.
    pub instruction_limit: u64,
    /// How products of matrices are added up.
    pub tensor_cores: TensorCores,
}

/// What a launch did.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Counts per instruction.
    pub counts: Vec<Count>,
    /// Bytes of the distinct sectors of global memory read.
    pub read: u64,
    /// Bytes of those written.
    pub written: u64,
    /// Allocations accessed.
    pub touched: Vec<Touched>,
}

/// How a launch accessed an allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Touched {
    /// Number of the allocation.
    pub allocation: usize,
    /// Whether anything of it was read.
    pub is_read: bool,
    /// Whether anything of it was written.
    pub is_written: bool,
}

/// Race records of one worker thread, kept from launch to launch.
pub struct WorkerState {
    /// Records by allocation.
    shadows: Vec<Option<Box<Shadow>>>,
    /// Allocations with records of this launch.
    touched: Vec<usize>,
    /// Number of the next block to run.
    pub next_run: u32,
}

impl WorkerState {
    /// Starts a launch.
    pub fn start(&mut self) {
        for number in self.touched.drain(..) {
            if let Some(shadow) = &mut self.shadows[number] {
                shadow.start();
            }
        }
    }

    /// The records of an allocation.
    #[inline(always)]
    pub fn shadow(&mut self, allocation: usize) -> &mut Shadow {
        if allocation >= self.shadows.len() {
            self.shadows.resize_with(allocation + 1, || None);
        }
        let shadow = self.shadows[allocation].get_or_insert_with(Box::default);
        if !shadow.is_touched() {
            self.touched.push(allocation);
        }
        shadow
    }
}

/// The worker threads' records.
pub struct Workers {
    states: Vec<WorkerState>,
}

impl Workers {
    /// Room for `count` threads.
    pub fn new(count: usize) -> Self {
        let state = || WorkerState {
            shadows: Vec::new(),
            touched: Vec::new(),
            next_run: 1,
        };
        Workers {
            states: (0..count.max(1)).map(|_| state()).collect(),
        }
    }

    /// Number of threads.
    pub fn count(&self) -> usize {
        self.states.len()
    }

    /// Drops the records of a freed allocation.
    pub fn forget(&mut self, allocation: usize) {
        for state in &mut self.states {
            if let Some(shadow) = state.shadows.get_mut(allocation) {
                *shadow = None;
            }
        }
    }

    /// Runs are numbered with 32 bits: before they run out, all records are dropped and numbering starts anew.
    fn make_room(&mut self, blocks: usize) {
        for state in &mut self.states {
            if (u32::MAX - state.next_run) as usize <= blocks {
                state.shadows.clear();
                state.touched.clear();
                state.next_run = 1;
            }
        }
    }
}

impl Launch<'_> {
    /// Threads of a block.
    pub fn threads(&self) -> u32 {
        self.block.iter().product()
    }

    /// Number of blocks.
    pub fn block_count(&self) -> usize {
        self.grid.iter().map(|extent| *extent as usize).product()
    }

    /// The block that is run as the `at`-th: with a seed, a fixed permutation of all.
    pub fn block_at(&self, at: usize) -> usize {
        let count = self.block_count();
        if self.seed == 0 {
            return at;
        }
        // A multiplier without a common factor with the count permutes; a start shifts.
        let random = mix(self.seed);
        let mut step = (random as usize % count).max(1);
        while common_factor(step, count) != 1 {
            step += 1;
        }
        ((at as u128 * step as u128 + (random >> 32) as u128) % count as u128) as usize
    }

    /// The order in which the warps of the `at`-th block take turns.
    pub fn warp_order(&self, at: usize, warps: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..warps).collect();
        if self.seed != 0 {
            let mut random = mix(self.seed ^ at as u64);
            for last in (1..warps).rev() {
                random = mix(random);
                order.swap(last, random as usize % (last + 1));
            }
        }
        order
    }

    /// Index of a block from its number.
    pub fn block_index(&self, number: usize) -> [u32; 3] {
        let [x, y, _] = self.grid.map(|extent| extent as usize);
        [number % x, number / x % y, number / (x * y)].map(|index| index as u32)
    }

    /// Index of a thread from its number.
    pub fn thread_index(&self, number: u32) -> [u32; 3] {
        let [x, y, _] = self.block;
        [number % x, number / x % y, number / (x * y)]
    }

    /// Index of the block that a worker ran as its `run`-th.
    pub fn block_of_run(&self, run: u32, share: &std::ops::Range<usize>) -> [u32; 3] {
        self.block_index(self.block_at(share.start + run as usize))
    }

    fn check(&self) -> Result<(), Error> {
        let fail = |what: String| {
            Err(Error::Launch {
                kernel: self.kernel.name.clone(),
                what,
            })
        };
        let threads: u64 = self.block.iter().map(|extent| u64::from(*extent)).product();
        if self.block_count() == 0 || threads == 0 {
            return fail(format!(
                "an empty grid {:?} or block {:?}",
                self.grid, self.block
            ));
        }
        if threads > u64::from(self.kernel.max_threads) {
            return fail(format!(
                "{threads} threads in a block, at most {} are declared",
                self.kernel.max_threads
            ));
        }
        if self.block[2] > 64
            || self.grid[1] > 65535
            || self.grid[2] > 65535
            || self.grid[0] > i32::MAX as u32
        {
            return fail(format!(
                "grid {:?} or block {:?} is larger than a GPU takes",
                self.grid, self.block
            ));
        }
        if self.params.len() < self.kernel.param_bytes() {
            return fail("parameters are missing".into());
        }
        if self.block_count() >= u32::MAX as usize {
            return fail("more than 2^32 blocks".into());
        }
        Ok(())
    }
}

/// Runs a kernel.
///
/// # Errors
/// [`Error::Launch`] for sizes that do not fit the kernel, [`Error::Violations`] for what it did wrong.
pub fn run(launch: &Launch, workers: &mut Workers) -> Result<Outcome, Error> {
    launch.check()?;
    workers.make_room(launch.block_count());
    let blocks = launch.block_count();
    let count = if launch.kernel.blocks_communicate {
        1
    } else {
        workers.count().min(blocks)
    };
    let mut running: Vec<Worker> = workers.states[..count]
        .iter_mut()
        .enumerate()
        .map(|(index, state)| {
            let share = index * blocks / count..(index + 1) * blocks / count;
            Worker::new(launch, state, share)
        })
        .collect();
    std::thread::scope(|scope| {
        let mut all = running.iter_mut();
        let first = all.next();
        for worker in all {
            scope.spawn(|| worker.run_all());
        }
        if let Some(worker) = first {
            worker.run_all();
        }
    });
    finish(launch, running)
}

fn finish(launch: &Launch, mut workers: Vec<Worker>) -> Result<Outcome, Error> {
    let mut violations: Vec<Violation> = Vec::new();
    if workers.iter().all(|worker| worker.violations.is_empty()) {
        for a in 0..workers.len() {
            for b in a + 1..workers.len() {
                compare(launch, [&workers[a], &workers[b]], &mut violations);
            }
        }
    }
    for worker in &mut workers {
        violations.append(&mut worker.violations);
    }
    if !violations.is_empty() {
        return Err(Error::Violations(violations));
    }
    let (touched, [read, written]) = touched(&workers);
    let mut outcome = Outcome {
        counts: vec![Count::default(); launch.kernel.code.len()],
        read,
        written,
        touched,
    };
    for worker in &workers {
        outcome
            .counts
            .iter_mut()
            .zip(&worker.counts)
            .for_each(|(sum, count)| sum.add(count));
    }
    Ok(outcome)
}

/// The allocations that a launch accessed, and the bytes of the distinct sectors that it read and wrote: those that any
/// worker did, each once.
fn touched(workers: &[Worker]) -> (Vec<Touched>, [u64; 2]) {
    let all = workers.iter().flat_map(|worker| &worker.state.touched);
    let allocations: BTreeSet<usize> = all.copied().collect();
    let (mut all, mut sum) = (Vec::new(), [0; 2]);
    for allocation in allocations {
        let mut sectors = HashMap::new();
        for worker in workers {
            if let Some(Some(shadow)) = worker.state.shadows.get(allocation) {
                shadow.add_sectors(worker.first_run, &mut sectors);
            }
        }
        for of in sectors.values() {
            sum[0] += 32 * u64::from(of.read.count_ones());
            sum[1] += 32 * u64::from(of.written.count_ones());
        }
        all.push(Touched {
            allocation,
            is_read: sectors.values().any(|of| of.read != 0),
            is_written: sectors.values().any(|of| of.written != 0),
        });
    }
    (all, sum)
}

/// Finds races between blocks of two workers.
fn compare(launch: &Launch, [a, b]: [&Worker; 2], violations: &mut Vec<Violation>) {
    for &number in &a.state.touched {
        let (Some(mine), Some(Some(theirs))) =
            (&a.state.shadows[number], b.state.shadows.get(number))
        else {
            continue;
        };
        mine.compare(a.first_run, theirs, b.first_run, &mut |overlap| {
            let [x, y] = overlap.writes;
            let pair = match (x, y) {
                (Some(x), Some(y)) => Some((x, y, "both write")),
                (Some(x), None) => {
                    overlap.reads[1].map(|y| (x, y, "the first writes, the second reads"))
                }
                (None, Some(y)) => {
                    overlap.reads[0].map(|x| (x, y, "the first reads, the second writes"))
                }
                (None, None) => None,
            };
            let Some((x, y, what)) = pair else { return };
            if let Some(have) = violations
                .iter_mut()
                .find(|have| have.kind == ViolationKind::Race)
            {
                have.times += 1;
                return;
            }
            let address = launch.memory.allocation(number).base + overlap.offset;
            violations.push(Violation {
                kind: ViolationKind::Race,
                kernel: launch.kernel.name.clone(),
                block: launch.block_of_run(x.run() - a.first_run, &a.share),
                thread: launch.thread_index(32 * x.warp() + x.lane()),
                instruction: String::new(),
                source: Default::default(),
                ptx_line: 0,
                detail: format!(
                    "{}, and {}: {what}",
                    launch.memory.describe(address),
                    b.whose(y)
                ),
                times: 1,
            });
        });
    }
}

/// The steps that a warp can take before stamps run out.
pub const MOST_STEPS: u32 = MAX_TIME - 1;

fn common_factor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { common_factor(b, a % b) }
}

/// A number that looks random (splitmix64).
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
