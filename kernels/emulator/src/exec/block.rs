//! A block: its warps take turns until all have exited.

use super::barrier::Barrier;
use super::launch::{Launch, WorkerState};
use super::shadow::Shadow;
use super::stamp::Stamp;
use super::traffic::Count;
use super::warp::{Status, Warp, special};
use crate::decode::kernel::Inst;
use crate::violation::{Violation, ViolationKind};

/// Different violations after which a launch ends.
const MOST_VIOLATIONS: usize = 16;

/// Shared memory of a block.
pub struct Shared {
    /// Its words.
    pub words: Vec<u32>,
    /// Per word, one bit for each byte that has been written.
    pub written: Vec<u8>,
    /// Bytes that the block may use.
    pub bytes: u64,
    /// Who accessed what.
    pub shadow: Shadow,
}

/// Runs blocks one after another, with all the room that they need.
pub struct Worker<'a> {
    pub launch: &'a Launch<'a>,
    pub state: &'a mut WorkerState,
    /// The blocks that this worker runs. They lie side by side, so that the records of two workers, which are compared
    /// at the end, have little memory in common.
    pub share: std::ops::Range<usize>,
    pub first_run: u32,
    pub run: u32,
    pub block: [u32; 3],
    pub warps: Vec<Warp>,
    pub shared: Shared,
    pub barriers: Vec<Barrier>,
    pub counts: Vec<Count>,
    pub violations: Vec<Violation>,
    /// The block, and with it the launch, cannot go on.
    pub fatal: bool,
    /// Instructions that may still be executed.
    pub budget: u64,
}

impl<'a> Worker<'a> {
    /// A worker that has run nothing.
    pub fn new(
        launch: &'a Launch<'a>,
        state: &'a mut WorkerState,
        share: std::ops::Range<usize>,
    ) -> Self {
        let kernel = launch.kernel;
        let threads = launch.threads();
        let warps = threads.div_ceil(32);
        let bytes = (kernel.shared_bytes + launch.dynamic_shared) as u64;
        let words = bytes.div_ceil(4) as usize;
        let mut worker = Worker {
            launch,
            first_run: state.next_run,
            run: state.next_run,
            state,
            share,
            block: [0; 3],
            warps: (0..warps)
                .map(|warp| {
                    Warp::new(
                        kernel.rows,
                        kernel.preds,
                        (threads - 32 * warp).min(32),
                        kernel.local_bytes,
                    )
                })
                .collect(),
            shared: Shared {
                words: vec![0; words],
                written: vec![0; words],
                bytes,
                shadow: Shadow::default(),
            },
            barriers: vec![Barrier::default(); 16],
            counts: vec![Count::default(); kernel.code.len()],
            violations: Vec::new(),
            fatal: false,
            budget: launch.instruction_limit,
        };
        worker.state.start();
        for warp in &mut worker.warps {
            for &(reg, value, wide) in &kernel.constants {
                if wide {
                    warp.registers.set_long(reg, u32::MAX, &[value; 32]);
                } else {
                    warp.registers.set_word(reg, u32::MAX, &[value as u32; 32]);
                }
            }
        }
        worker
    }

    /// Runs this worker's share of the blocks.
    pub fn run_all(&mut self) {
        for at in self.share.clone() {
            if self.fatal {
                return;
            }
            self.run_block(at);
        }
    }

    fn run_block(&mut self, at: usize) {
        self.start_block(at);
        let order = self.launch.warp_order(at, self.warps.len());
        while !self.fatal {
            let mut progress = false;
            for &warp in &order {
                if self.warps[warp].status == Status::Ready {
                    self.run_warp(warp);
                    progress = true;
                }
                if self.fatal {
                    return;
                }
            }
            if self.warps.iter().all(|warp| warp.status == Status::Done) {
                self.check_barriers_at_end();
                return;
            }
            if !progress {
                self.report_stuck_barriers();
            }
        }
    }

    fn start_block(&mut self, at: usize) {
        let launch = self.launch;
        self.run = self.state.next_run;
        self.state.next_run += 1;
        self.block = launch.block_index(launch.block_at(at));
        self.shared.written.fill(0);
        self.shared.shadow.start();
        self.barriers
            .iter_mut()
            .for_each(|barrier| *barrier = Barrier::default());
        let (block, dynamic) = (self.block, launch.dynamic_shared as u32);
        for (number, warp) in self.warps.iter_mut().enumerate() {
            warp.start();
            for &(reg, which) in &launch.kernel.specials {
                warp.set_special(reg, |lane| {
                    special(
                        which,
                        (32 * number + lane) as u32,
                        block,
                        launch.block,
                        launch.grid,
                        dynamic,
                    )
                });
            }
        }
    }

    /// Notes a violation; the same one at the same instruction is counted.
    pub fn report(
        &mut self,
        kind: ViolationKind,
        warp: usize,
        lane: usize,
        inst: &Inst,
        detail: String,
    ) {
        let same =
            |have: &&mut Violation| have.kind == kind && have.ptx_line == inst.location.ptx_line;
        if let Some(have) = self.violations.iter_mut().find(same) {
            have.times += 1;
            return;
        }
        let kernel = self.launch.kernel;
        let file = kernel
            .files
            .get(&inst.location.file)
            .cloned()
            .unwrap_or_default();
        self.violations.push(Violation {
            kind,
            kernel: kernel.name.clone(),
            block: self.block,
            thread: self.launch.thread_index((32 * warp + lane) as u32),
            instruction: inst.text.clone(),
            source: (file, inst.location.line),
            ptx_line: inst.location.ptx_line,
            detail,
            times: 1,
        });
        self.fatal |= self.violations.len() >= MOST_VIOLATIONS;
    }

    /// Notes a violation after which the block cannot go on.
    pub fn stop(
        &mut self,
        kind: ViolationKind,
        warp: usize,
        lane: usize,
        inst: &Inst,
        detail: String,
    ) {
        self.report(kind, warp, lane, inst, detail);
        self.fatal = true;
    }

    /// The thread of a stamp, in words.
    pub fn whose(&self, stamp: Stamp) -> String {
        let [x, y, z] = self.launch.thread_index(32 * stamp.warp() + stamp.lane());
        let block = self
            .launch
            .block_of_run(stamp.run() - self.first_run, &self.share);
        let [bx, by, bz] = block;
        if stamp.run() == self.run {
            format!("thread ({x},{y},{z}) of this block")
        } else {
            format!("thread ({x},{y},{z}) of block ({bx},{by},{bz})")
        }
    }
}
