//! Networks whose shapes repeat are replayed as CUDA graphs.
//!
//! A network is hundreds of small kernels, and for a small scan the processor takes longer to launch them than the GPU to
//! run them. A CUDA graph is launched with one call and leaves less time between kernels. When does it repeat? The points
//! of the levels differ from scan to scan, so in training on crops and in scans cut into tiles hardly any two runs are
//! alike, and the optimizer is four launches, however many parameters there are. What repeats is a run on the same points
//! (benches, steps on one cloud, views that share their index lists) and frames or tiles of equal size. There too values
//! change that kernels are given by value: places of index lists, the stream of dropout. So a run is replayed like this:
//!
//! - The first run of a shape is launched as it comes, and only its key is kept: the shapes of all values.
//! - A later run of the same shape is recorded instead: kernels and fills with all they are given, in order. The first
//!   recording becomes a graph, a chain of nodes. Later ones are compared with it, one by one, and the nodes whose
//!   arguments differ are given theirs. So what a graph launches is what the run has just asked for, never an older value.
//! - What cannot wait for the end of a recording (a readback) ends it: all is launched as it comes, and a shape to which
//!   that happens is not recorded again; nor is one whose kernels change from run to run.
//!
//! The last few shapes are kept. There is no option. Where the driver has no graphs, everything is launched as it comes.
//!
//! The graph is built from the recording rather than by capturing a stream: nothing else that happens in the process can
//! get into it or break it, and its nodes are known, which setting arguments needs.

use super::context::Cuda;
use super::{Gpu, Grid, Pointer, library};
use crate::Result;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;
use std::cell::RefCell;
use std::ffi::c_void;
use std::ptr::{null, null_mut};

/// Shapes that are kept.
const KEPT: usize = 4;
/// Recordings of one shape with other kernels than the last, after which it is not recorded again.
const MISSES: u32 = 2;

/// One thing for a stream to do.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    /// A kernel and the values of its arguments, each in the low bytes of a word.
    Launch {
        function: sys::CUfunction,
        grid: Grid,
        words: Vec<u64>,
    },
    /// Words that become zero.
    Clear { at: Pointer, words: usize },
}

impl Step {
    /// Whether the node of one can be given the arguments of the other.
    fn fits(&self, other: &Step) -> bool {
        match (self, other) {
            (Step::Launch { function: a, .. }, Step::Launch { function: b, .. }) => a == b,
            (Step::Clear { .. }, Step::Clear { .. }) => true,
            _ => false,
        }
    }
}

thread_local! {
    static TAPE: RefCell<Option<Tape>> = const { RefCell::new(None) };
}

/// What a thread has recorded.
#[derive(Debug)]
struct Tape {
    cuda: *const Cuda,
    steps: Vec<Step>,
    /// Memory to be freed when they are launched.
    freed: Vec<Pointer>,
    /// Everything is launched as it comes.
    is_over: bool,
}

/// While it lives, this thread's launches are recorded.
struct Recording;

impl Recording {
    fn begin(cuda: &Cuda) -> Recording {
        let tape = Tape {
            cuda,
            steps: Vec::new(),
            freed: Vec::new(),
            is_over: false,
        };
        let earlier = TAPE.replace(Some(tape));
        assert!(earlier.is_none(), "recordings are not nested");
        Recording
    }

    fn end(self) -> Tape {
        TAPE.take().expect("it lasts as long as the recording")
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        TAPE.take(); // also where the recorded code panics
    }
}

impl Cuda {
    /// Calls `with` on this thread's recording, if there is one for this GPU that goes on.
    fn with_tape<R>(&self, with: impl FnOnce(&mut Tape) -> R) -> Option<R> {
        TAPE.with_borrow_mut(|tape| {
            let tape = tape.as_mut().filter(|tape| std::ptr::eq(tape.cuda, self));
            tape.filter(|tape| !tape.is_over).map(with)
        })
    }

    /// Queues a step in this thread's stream, or records it.
    pub(super) fn queue(&self, step: Step) -> Result<()> {
        let mut step = Some(step);
        self.with_tape(|tape| tape.steps.extend(step.take()));
        match step {
            Some(step) => self.perform(&step),
            None => Ok(()),
        }
    }

    /// Puts off that memory is freed until what was recorded before is launched. False where nothing is recorded.
    pub(super) fn frees_later(&self, memory: Pointer) -> bool {
        self.with_tape(|tape| tape.freed.push(memory)).is_some()
    }

    /// Launches what this thread has recorded, since something comes that cannot wait. The recording is over.
    pub(super) fn flush(&self) -> Result<()> {
        let recorded = self.with_tape(|tape| {
            tape.is_over = true;
            (
                std::mem::take(&mut tape.steps),
                std::mem::take(&mut tape.freed),
            )
        });
        let Some((steps, freed)) = recorded else {
            return Ok(());
        };
        let launched = steps.iter().try_for_each(|step| self.perform(step));
        freed.into_iter().for_each(|memory| self.free(memory));
        launched
    }

    /// Queues a step in this thread's stream now.
    fn perform(&self, step: &Step) -> Result<()> {
        self.bind()?;
        match step {
            Step::Launch {
                function,
                grid,
                words,
            } => {
                let mut words = words.clone();
                let [x, y, z] = grid.blocks;
                let launch = || {
                    // SAFETY: the function belongs to a module that is never unloaded; the arguments were checked against
                    // its declaration, and little-endian words hold the narrower ones; the addresses are those of live
                    // memory of this GPU, which is freed in stream order only.
                    unsafe {
                        result::launch_kernel(
                            *function,
                            (x, y, z),
                            (grid.threads, 1, 1),
                            grid.shared,
                            self.stream(),
                            &mut pointers(&mut words),
                        )
                    }
                };
                let launched = self.timed(*function, launch);
                launched.map_err(|e| self.failed(&self.name_of(*function), e))
            }
            Step::Clear { at, words } => {
                // SAFETY: the memory holds as many words.
                unsafe { result::memset_d8_async(at.0, 0, 4 * words, self.stream()) }
                    .map_err(|e| self.failed("filling memory", e))
            }
        }
    }
}

/// Where each argument lies.
fn pointers(words: &mut [u64]) -> Vec<*mut c_void> {
    let place = |word: &mut u64| std::ptr::from_mut(word).cast();
    words.iter_mut().map(place).collect()
}

/// An executable graph and the steps that it was given last.
#[derive(Debug)]
struct Chain {
    cuda: &'static Cuda,
    graph: sys::CUgraph,
    executable: sys::CUgraphExec,
    nodes: Vec<sys::CUgraphNode>,
    steps: Vec<Step>,
}

impl Chain {
    /// A graph of `steps`, one after another.
    fn new(cuda: &'static Cuda, steps: Vec<Step>) -> Result<Chain, DriverError> {
        let mut chain = Chain {
            cuda,
            graph: null_mut(),
            executable: null_mut(),
            nodes: Vec::with_capacity(steps.len()),
            steps,
        };
        // SAFETY: results are written where they belong; what nodes are given is copied.
        unsafe {
            sys::cuGraphCreate(&mut chain.graph, 0).result()?;
            for step in &chain.steps {
                let mut node = null_mut();
                let (after, count) = match chain.nodes.last() {
                    Some(last) => (std::ptr::from_ref(last), 1),
                    None => (null(), 0),
                };
                let graph = chain.graph;
                match step {
                    Step::Launch { .. } => launch_node(step, |node_of| {
                        sys::cuGraphAddKernelNode_v2(&mut node, graph, after, count, node_of)
                    }),
                    Step::Clear { at, words } => {
                        let (fill, context) = (clear_node(*at, *words), cuda.context());
                        sys::cuGraphAddMemsetNode(&mut node, graph, after, count, &fill, context)
                    }
                }
                .result()?;
                chain.nodes.push(node);
            }
            let flags = sys::CUgraphInstantiate_flags(0);
            chain.executable = result::graph::instantiate(chain.graph, flags)?;
        }
        Ok(chain)
    }

    /// Whether `steps` differ in arguments only.
    fn fits(&self, steps: &[Step]) -> bool {
        let pairs = || self.steps.iter().zip(steps);
        self.steps.len() == steps.len() && pairs().all(|(mine, theirs)| mine.fits(theirs))
    }

    /// Gives the nodes the arguments of `steps`, which fit.
    fn change(&mut self, steps: Vec<Step>) -> Result<(), DriverError> {
        let pairs = self.steps.iter().zip(&steps).zip(&self.nodes);
        for ((_, new), node) in pairs.filter(|((old, new), _)| old != new) {
            let executable = self.executable;
            // SAFETY: the node is one of the graph's; what it is given is copied.
            let code = unsafe {
                match new {
                    Step::Launch { .. } => launch_node(new, |node_of| {
                        sys::cuGraphExecKernelNodeSetParams_v2(executable, *node, node_of)
                    }),
                    Step::Clear { at, words } => {
                        let (fill, context) = (clear_node(*at, *words), self.cuda.context());
                        sys::cuGraphExecMemsetNodeSetParams(executable, *node, &fill, context)
                    }
                }
            };
            code.result()?;
        }
        self.steps = steps;
        Ok(())
    }

    /// Queues it in this thread's stream.
    fn launch(&self) -> Result<()> {
        // SAFETY: graph and stream are alive; its nodes have the arguments of the steps that are to be launched, which are
        // addresses of live memory.
        unsafe { result::graph::launch(self.executable, self.cuda.stream()) }
            .map_err(|e| self.cuda.failed("replaying a network", e))
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        if self.cuda.bind().is_err() {
            return;
        }
        // SAFETY: made in `new` and destroyed once; the driver finishes launches that are under way.
        unsafe {
            if !self.executable.is_null() {
                let _ = result::graph::exec_destroy(self.executable);
            }
            if !self.graph.is_null() {
                let _ = result::graph::destroy(self.graph);
            }
        }
    }
}

/// Calls `with` on the description of a launch's node.
fn launch_node(
    step: &Step,
    with: impl FnOnce(&sys::CUDA_KERNEL_NODE_PARAMS) -> sys::CUresult,
) -> sys::CUresult {
    let Step::Launch {
        function,
        grid,
        words,
    } = step
    else {
        unreachable!("only launches have such nodes");
    };
    let mut words = words.clone();
    let mut pointers = pointers(&mut words);
    let [x, y, z] = grid.blocks;
    with(&sys::CUDA_KERNEL_NODE_PARAMS {
        func: *function,
        gridDimX: x,
        gridDimY: y,
        gridDimZ: z,
        blockDimX: grid.threads,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: grid.shared,
        kernelParams: pointers.as_mut_ptr(),
        extra: null_mut(),
        kern: null_mut(),
        ctx: null_mut(),
    })
}

fn clear_node(at: Pointer, words: usize) -> sys::CUDA_MEMSET_NODE_PARAMS {
    sys::CUDA_MEMSET_NODE_PARAMS {
        dst: at.0,
        pitch: 0,
        value: 0,
        elementSize: 4,
        width: words,
        height: 1,
    }
}

/// A shape that has been seen.
#[derive(Debug)]
struct Known {
    key: u64,
    chain: Option<Chain>,
    misses: u32,
}

impl Known {
    /// Launches recorded steps.
    fn play(&mut self, cuda: &'static Cuda, steps: Vec<Step>) -> Result<()> {
        if steps.is_empty() {
            return Ok(());
        }
        cuda.bind()?;
        if let Some(chain) = self.chain.take_if(|chain| !chain.fits(&steps)) {
            self.misses += 1;
            drop(chain);
        }
        let made = match self.chain.take() {
            Some(mut chain) => chain.change(steps.clone()).map(|()| chain),
            None => Chain::new(cuda, steps.clone()),
        };
        match made {
            Ok(chain) => self.chain.insert(chain).launch(),
            // Graphs are a matter of speed only.
            Err(_) => {
                self.misses = MISSES;
                steps.iter().try_for_each(|step| cuda.perform(step))
            }
        }
    }
}

/// Runs what repeats as graphs.
#[derive(Debug, Default)]
pub struct Replay {
    /// The last used last.
    known: Vec<Known>,
    #[cfg(test)]
    pub(crate) replayed: usize,
}

// SAFETY: graphs are the driver's and may be used from any thread once the context is current, which every method makes
// sure of; one thread at a time has the exclusive borrow.
unsafe impl Send for Replay {}
// SAFETY: as above; a shared borrow gives nothing.
unsafe impl Sync for Replay {}

impl Replay {
    /// Does `work`, which queues a network of the shape `key` on `gpu`. Whatever a graph may change is the time it takes.
    ///
    /// # Errors
    /// Those of the work and of what it queues.
    pub fn run<R>(&mut self, gpu: Gpu, key: u64, work: impl FnOnce() -> Result<R>) -> Result<R> {
        let cuda = gpu.open()?;
        let Some(at) = self.known.iter().position(|known| known.key == key) else {
            if library::has_graphs() {
                let (chain, misses) = (None, 0);
                self.known.push(Known { key, chain, misses });
                let old = self.known.len().saturating_sub(KEPT);
                self.known.drain(..old);
            }
            return work();
        };
        let mut known = self.known.remove(at);
        let done = match known.misses < MISSES {
            false => work(),
            true => {
                let recording = Recording::begin(cuda);
                let result = work();
                let tape = recording.end();
                if tape.is_over {
                    known.misses = MISSES;
                }
                #[cfg(test)]
                {
                    self.replayed += usize::from(!tape.is_over);
                }
                let done = result.and_then(|r| known.play(cuda, tape.steps).map(|()| r));
                tape.freed.into_iter().for_each(|memory| cuda.free(memory));
                done
            }
        };
        self.known.push(known);
        done
    }
}
