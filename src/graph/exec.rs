//! Running a recorded graph: forward in order, then backward in reverse order, all values in one arena.

mod bound;

use super::io::Binding;
use super::timeline::Timeline;
use super::{Gradients, Graph, ParamId, Params, Var};
use crate::device::cuda::{Buffer, Grid, Replay, args, kernels};
use crate::device::{Device, Gpu, Memory, Pointer, Precision};
use crate::{Error, Result};
use bound::Bound;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::marker::PhantomData;
use std::time::{Duration, Instant};

kernels!("executor");

/// Direction of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Outputs from inputs.
    Forward,
    /// Input gradients from output gradients.
    Backward,
}

/// Time that all nodes of one op took since the executor was made.
#[derive(Debug, Clone, Copy, Default)]
pub struct Timing {
    /// Number of steps.
    pub steps: usize,
    /// Time of all of them.
    pub time: Duration,
}

/// Runs graphs, one after another, in an arena that grows to the largest.
#[derive(Debug)]
pub struct Executor {
    device: Device,
    precision: Precision,
    arena: Option<Memory>,
    replay: Replay,
    timings: BTreeMap<(&'static str, Phase), Timing>,
}

/// What a run left behind. Reading borrows the executor.
#[derive(Debug)]
pub struct Run<'e> {
    device: Device,
    values: Vec<Option<Kept>>,
    gradients: Vec<Option<Kept>>,
    updates: Vec<(ParamId, Binding, f32)>,
    counts: Vec<ParamId>,
    executor: PhantomData<&'e mut Executor>,
}

/// A value that is kept after the run.
#[derive(Debug)]
enum Kept {
    /// In the arena, on the host.
    Here(Binding),
    /// Read back from a GPU.
    Copied(Vec<f32>),
}

impl Kept {
    fn new(device: Device, binding: Binding) -> Result<Kept> {
        match device {
            Device::Cpu => Ok(Kept::Here(binding)),
            Device::Cuda(gpu) => {
                let mut words = vec![0.0f32; binding.shape.len()];
                let bytes = bytemuck::cast_slice_mut(&mut words);
                gpu.open()?.download(binding.pointer(), bytes)?;
                Ok(Kept::Copied(words))
            }
        }
    }

    fn read(&self) -> &[f32] {
        match self {
            // SAFETY: kept values live until the arena is used again, which the run's borrow of the executor excludes.
            Kept::Here(binding) => unsafe { binding.read() },
            Kept::Copied(words) => words,
        }
    }
}

impl Run<'_> {
    /// A value that the graph was asked to keep.
    pub fn read(&self, var: Var) -> &[f32] {
        let kept = self.values[var.0].as_ref();
        kept.expect("only kept values can be read after a run")
            .read()
    }

    /// A gradient that the graph was asked to keep; `None` when no seed depends on the value.
    pub fn gradient(&self, var: Var) -> Option<&[f32]> {
        self.gradients[var.0].as_ref().map(Kept::read)
    }

    /// Moves the running statistics and counters as the graph asked. Call it once, after the graph is dropped.
    ///
    /// # Errors
    /// Faults of a GPU.
    pub fn commit(&self, params: &mut Params) -> Result<()> {
        match self.device {
            Device::Cpu => {
                for &(id, batch, momentum) in &self.updates {
                    // SAFETY: as for values.
                    let batch = unsafe { batch.read() };
                    let moved = params.get(id).iter().zip(batch);
                    let moved: Vec<f32> = moved
                        .map(|(r, b)| (1.0 - momentum) * r + momentum * b)
                        .collect();
                    params.set(id, &moved)?;
                }
            }
            Device::Cuda(gpu) => self.update_on(gpu, params)?,
        }
        for &id in &self.counts {
            params.set_counter(id, params.counter(id) + 1);
        }
        Ok(())
    }

    /// Moves all running statistics by one launch, since a network has a hundred of them; those that move twice, by two.
    fn update_on(&self, gpu: Gpu, params: &mut Params) -> Result<()> {
        let mut rounds: Vec<Vec<[u64; 3]>> = Vec::new();
        let mut moved: BTreeMap<usize, usize> = BTreeMap::new();
        for &(id, batch, momentum) in &self.updates {
            let (first, count) = (params.layout().range(id).start, batch.shape.len());
            let is_32_bits = first.max(count) <= u32::MAX as usize;
            assert!(is_32_bits, "parameters are counted in 32 bits");
            let round = moved.entry(first).or_default();
            if *round == rounds.len() {
                rounds.push(Vec::new());
            }
            let place = first as u64 | (count as u64) << 32;
            rounds[*round].push([batch.pointer().0, place, u64::from(momentum.to_bits())]);
            *round += 1;
        }
        for updates in rounds {
            let table = Buffer::copied(gpu, &updates)?;
            let running = Pointer(params.address_mut()? as u64);
            let args = args![table.at(), running];
            let grid = Grid::new(updates.len(), 32);
            gpu.launch(&KERNELS, "running_updates", grid, args)?;
        }
        Ok(())
    }
}

impl Executor {
    /// An executor without an arena yet; matrix products are taken in f32.
    pub fn new(device: Device) -> Self {
        Executor {
            device,
            precision: Precision::F32,
            arena: None,
            replay: Replay::default(),
            timings: BTreeMap::new(),
        }
    }

    /// The executor with matrix products in `precision`.
    ///
    /// # Errors
    /// A device that cannot, see [`Precision::check`]: nothing runs in another precision than the one asked for.
    pub fn in_precision(self, precision: Precision) -> Result<Self> {
        precision.check(self.device)?;
        Ok(Executor { precision, ..self })
    }

    /// In which precision matrix products are taken.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Bytes of the arena.
    pub fn arena_bytes(&self) -> usize {
        self.arena.as_ref().map_or(0, |a| 4 * a.len())
    }

    /// Time per op and phase since the executor was made.
    pub fn timings(&self) -> &BTreeMap<(&'static str, Phase), Timing> {
        &self.timings
    }

    /// Runs `graph` forward and, when it has seeds, backward. Parameter gradients are added to `gradients`, which has
    /// to be given when there are seeds. On a GPU, a graph whose shapes were seen before may be [replayed](Replay).
    pub fn run(&mut self, graph: &Graph<'_>, gradients: Option<&mut Gradients>) -> Result<Run<'_>> {
        let bound = self.bind(graph, gradients)?;
        let mut nothing = |_, _| Ok(());
        match self.device {
            Device::Cpu => self.steps(&bound, &mut nothing)?,
            Device::Cuda(gpu) => {
                let mut replay = std::mem::take(&mut self.replay);
                let key = shape_key(graph);
                let done = replay.run(gpu, key, || self.steps(&bound, &mut nothing));
                self.replay = replay;
                done?;
            }
        }
        bound.into_run()
    }

    /// As [`Executor::run`]; `watch` is called after every node, with its number in [`Graph::nodes`]. Nothing is replayed.
    pub fn run_watched(
        &mut self,
        graph: &Graph<'_>,
        gradients: Option<&mut Gradients>,
        watch: &mut dyn FnMut(usize, Phase) -> Result<()>,
    ) -> Result<Run<'_>> {
        let bound = self.bind(graph, gradients)?;
        self.steps(&bound, watch)?;
        bound.into_run()
    }

    /// Finds a place for everything.
    fn bind<'g>(
        &mut self,
        graph: &'g Graph<'g>,
        mut gradients: Option<&mut Gradients>,
    ) -> Result<Bound<'g>> {
        self.check_devices(graph, &gradients)?;
        let timeline = Timeline::new(graph, self.device);
        if self.arena.as_ref().is_none_or(|a| a.len() < timeline.words) {
            self.arena = None;
            self.arena = Some(Memory::new(self.device, timeline.words)?);
        }
        let base = match &mut self.arena {
            Some(arena) => arena.address_mut()?,
            None => 0,
        };
        Bound::new(graph, timeline, base, self, &mut gradients)
    }

    fn steps(
        &mut self,
        bound: &Bound<'_>,
        watch: &mut dyn FnMut(usize, Phase) -> Result<()>,
    ) -> Result<()> {
        let graph = bound.graph;
        for i in 0..graph.nodes.len() {
            self.timed(graph, i, Phase::Forward, || bound.forward(i))?;
            watch(i, Phase::Forward)?;
        }
        if !graph.seeds.is_empty() {
            bound.zero_first_touched(graph.nodes.len())?;
            bound.plant_seeds()?;
            for i in (0..graph.nodes.len()).rev() {
                self.timed(graph, i, Phase::Backward, || bound.backward(i))?;
                watch(i, Phase::Backward)?;
            }
        }
        Ok(())
    }

    /// Values are never copied between devices behind the caller's back.
    fn check_devices(&self, graph: &Graph<'_>, gradients: &Option<&mut Gradients>) -> Result<()> {
        let others = gradients.iter().map(|g| g.device());
        for device in others.chain([graph.params.device()]) {
            if device != self.device {
                let fault = format!(
                    "parameters or gradients on {device}, executor on {}",
                    self.device
                );
                return Err(Error::argument("device", fault));
            }
        }
        Ok(())
    }

    fn timed(
        &mut self,
        graph: &Graph<'_>,
        node: usize,
        phase: Phase,
        step: impl FnOnce() -> Result<bool>,
    ) -> Result<()> {
        let start = Instant::now();
        if step()? {
            let name = graph.nodes[node].op.name();
            let timing = self.timings.entry((name, phase)).or_default();
            timing.steps += 1;
            timing.time += start.elapsed();
        }
        Ok(())
    }
}

/// A number for the ops of a graph and the shapes of all values, by which a run is taken to repeat an earlier one.
fn shape_key(graph: &Graph<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    for node in &graph.nodes {
        node.op.name().hash(&mut hasher);
    }
    for value in &graph.values {
        (value.shape.rows, value.shape.cols).hash(&mut hasher);
    }
    graph.seeds.len().hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
#[path = "exec_tests.rs"]
mod tests;
