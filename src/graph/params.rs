//! Parameters of a network: names, shapes, values and gradients.

use super::Shape;
use crate::device::random::Random;
use crate::device::{ALIGN, Array, Device, Memory};
use crate::{Error, Result};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// A tensor of a [`Layout`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ParamId(pub(super) usize);

/// What a tensor is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParamKind {
    /// Trained by the optimizer.
    Weight,
    /// Parameter that keeps what it starts with or what a checkpoint gives.
    Fixed,
    /// Running statistic, updated by training forward passes.
    Running,
    /// Integer counter (`num_batches_tracked`), kept outside the float memory.
    Counter,
}

/// How a tensor starts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// Uniform in ±bound.
    Uniform(f32),
    /// Normal around 0 with this standard deviation.
    Normal(f32),
    /// Given points (rows of three), scaled, turned at random and then moved by normal noise.
    Rotated {
        /// The points.
        points: &'static [[f32; 3]],
        /// Factor before the turn.
        scale: f32,
        /// Standard deviation of the noise per coordinate.
        noise: f32,
    },
    /// Every value the same.
    Constant(f32),
}

impl Init {
    /// Writes the first values of a tensor.
    fn fill(self, slot: &mut [f32], random: Random) {
        match self {
            Init::Constant(value) => slot.fill(value),
            Init::Uniform(bound) => {
                for (j, value) in slot.iter_mut().enumerate() {
                    *value = bound * (2.0 * random.uniform_f32(j as u64) - 1.0);
                }
            }
            Init::Normal(deviation) => {
                for (j, value) in slot.iter_mut().enumerate() {
                    *value = deviation * random.normal(j as u64) as f32;
                }
            }
            Init::Rotated {
                points,
                scale,
                noise,
            } => {
                let axes = turn(random);
                let places = slot.chunks_exact_mut(3).zip(points);
                for (number, (place, point)) in places.enumerate() {
                    for axis in 0..3 {
                        let turned: f64 = (0..3).map(|a| f64::from(point[a]) * axes[a][axis]).sum();
                        let moved = random.normal(10 + (3 * number + axis) as u64);
                        place[axis] = (f64::from(scale) * turned + f64::from(noise) * moved) as f32;
                    }
                }
            }
        }
    }
}

/// Three orthonormal rows, turned at random.
fn turn(random: Random) -> [[f64; 3]; 3] {
    let draw = |first: u64| std::array::from_fn::<f64, 3, _>(|a| random.normal(first + a as u64));
    let dot = |a: [f64; 3], b: [f64; 3]| a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
    let unit = |a: [f64; 3]| a.map(|x| x / dot(a, a).sqrt());
    let u = unit(draw(0));
    let v = draw(3);
    let along = dot(u, v);
    let v = unit(std::array::from_fn(|a| v[a] - along * u[a]));
    let w = std::array::from_fn(|a| {
        let (b, c) = ((a + 1) % 3, (a + 2) % 3);
        u[b] * v[c] - u[c] * v[b]
    });
    [u, v, w]
}

/// Name, shape and place of one tensor.
#[derive(Debug, Clone)]
pub struct ParamSpec {
    /// Full name, equal to the official checkpoint's.
    pub name: String,
    /// Dimensions as in the checkpoint; empty for a scalar.
    pub dims: Vec<usize>,
    /// What it is for.
    pub kind: ParamKind,
    /// How it starts.
    pub init: Init,
    offset: usize,
}

impl ParamSpec {
    /// Number of values.
    pub fn len(&self) -> usize {
        self.dims.iter().product()
    }

    /// True when a dimension is 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The shape that ops see: \[C\] is one row, [O, I] is O rows, further dimensions are folded into the row.
    pub fn shape(&self) -> Shape {
        match self.dims.as_slice() {
            [] => Shape::new(1, 1),
            [cols] => Shape::new(1, *cols),
            [rows, rest @ ..] => Shape::new(*rows, rest.iter().product()),
        }
    }
}

/// All tensors of a network in registration order: the order of the official state dict.
#[derive(Debug, Default)]
pub struct Layout {
    specs: Vec<ParamSpec>,
    by_name: HashMap<String, usize>,
    words: usize,
}

impl Layout {
    /// All tensors, in order.
    pub fn specs(&self) -> &[ParamSpec] {
        &self.specs
    }

    /// The tensor called `name`.
    pub fn find(&self, name: &str) -> Option<ParamId> {
        self.by_name.get(name).copied().map(ParamId)
    }

    /// Description of a tensor.
    pub fn spec(&self, id: ParamId) -> &ParamSpec {
        &self.specs[id.0]
    }

    /// Number of trained and fixed values: the parameters, as PyTorch counts them.
    pub fn weight_count(&self) -> usize {
        self.specs
            .iter()
            .filter(|s| matches!(s.kind, ParamKind::Weight | ParamKind::Fixed))
            .map(ParamSpec::len)
            .sum()
    }

    /// Where the trained tensors lie in the flat lists of values and gradients, ascending.
    pub fn trained(&self) -> Vec<Range<usize>> {
        let weights = self.specs.iter().filter(|s| s.kind == ParamKind::Weight);
        weights.map(|s| s.offset..s.offset + s.len()).collect()
    }

    /// Where one float tensor lies in the flat lists of values and gradients.
    pub fn range(&self, id: ParamId) -> Range<usize> {
        let spec = &self.specs[id.0];
        spec.offset..spec.offset + spec.len()
    }

    /// Words of the flat lists, padding included.
    pub fn words(&self) -> usize {
        self.words
    }

    fn register(&mut self, name: String, dims: &[usize], kind: ParamKind, init: Init) -> ParamId {
        let id = self.specs.len();
        let previous = self.by_name.insert(name.clone(), id);
        assert!(previous.is_none(), "parameter {name} is registered twice");
        let spec = ParamSpec {
            name,
            dims: dims.to_vec(),
            kind,
            init,
            offset: self.words,
        };
        if kind != ParamKind::Counter {
            self.words += spec.len().next_multiple_of(ALIGN / 4);
        }
        self.specs.push(spec);
        ParamId(id)
    }
}

/// Registers tensors under a dotted prefix while a network is put together.
#[derive(Debug)]
pub struct Scope<'a> {
    layout: &'a mut Layout,
    prefix: String,
}

impl<'a> Scope<'a> {
    /// The root scope of a layout.
    pub fn root(layout: &'a mut Layout) -> Self {
        Scope {
            layout,
            prefix: String::new(),
        }
    }

    /// A scope one level down.
    pub fn child(&mut self, name: impl std::fmt::Display) -> Scope<'_> {
        Scope {
            prefix: format!("{}{name}.", self.prefix),
            layout: self.layout,
        }
    }

    /// The full name that `name` would get here.
    pub fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Registers a trained tensor.
    pub fn weight(&mut self, name: &str, dims: &[usize], init: Init) -> ParamId {
        let name = format!("{}{name}", self.prefix);
        self.layout.register(name, dims, ParamKind::Weight, init)
    }

    /// Registers a parameter that is not trained.
    pub fn fixed(&mut self, name: &str, dims: &[usize], init: Init) -> ParamId {
        let name = format!("{}{name}", self.prefix);
        self.layout.register(name, dims, ParamKind::Fixed, init)
    }

    /// Registers a running statistic.
    pub fn running(&mut self, name: &str, dims: &[usize], start: f32) -> ParamId {
        let name = format!("{}{name}", self.prefix);
        self.layout
            .register(name, dims, ParamKind::Running, Init::Constant(start))
    }

    /// Registers an integer counter.
    pub fn counter(&mut self, name: &str) -> ParamId {
        let name = format!("{}{name}", self.prefix);
        self.layout
            .register(name, &[], ParamKind::Counter, Init::Constant(0.0))
    }
}

/// The values of all tensors of a layout, in one block of memory.
#[derive(Debug)]
pub struct Params {
    layout: Arc<Layout>,
    values: Memory,
    counters: HashMap<ParamId, i64>,
    derived: Mutex<HashMap<String, Array<f32>>>,
}

impl Params {
    /// All values zero, for those who set every one of them.
    ///
    /// # Errors
    /// Too little memory on the device.
    pub fn zeros(layout: Arc<Layout>, device: Device) -> Result<Self> {
        Ok(Params {
            values: Memory::new(device, layout.words)?,
            layout,
            counters: HashMap::new(),
            derived: Mutex::default(),
        })
    }

    /// Initial values for a seed: a tensor's numbers depend on the seed and its position only.
    ///
    /// # Errors
    /// As [`Params::zeros`].
    pub fn initial(layout: Arc<Layout>, device: Device, seed: u64) -> Result<Self> {
        let mut params = Params::zeros(layout, device)?;
        let host = params.values.host_mut();
        for (i, spec) in params.layout.specs.iter().enumerate() {
            if spec.kind == ParamKind::Counter {
                continue;
            }
            let slot = &mut host[spec.offset..spec.offset + spec.len()];
            spec.init.fill(slot, Random::new(seed, i as u64));
        }
        Ok(params)
    }

    /// Names, shapes and kinds.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// Values of one float tensor.
    pub fn get(&self, id: ParamId) -> &[f32] {
        let spec = &self.layout.specs[id.0];
        &self.values.host()[spec.offset..spec.offset + spec.len()]
    }

    /// Overwrites one float tensor; `values` has exactly its length.
    pub fn set(&mut self, id: ParamId, values: &[f32]) -> Result<()> {
        let spec = &self.layout.specs[id.0];
        if values.len() != spec.len() {
            return Err(Error::weights(
                &spec.name,
                format!("{} values where {} are needed", values.len(), spec.len()),
            ));
        }
        let range = spec.offset..spec.offset + spec.len();
        self.values_mut()[range].copy_from_slice(values);
        Ok(())
    }

    /// Value of a counter.
    pub fn counter(&self, id: ParamId) -> i64 {
        self.counters.get(&id).copied().unwrap_or(0)
    }

    /// Sets a counter.
    pub fn set_counter(&mut self, id: ParamId, value: i64) {
        self.counters.insert(id, value);
    }

    /// All values as one flat list in layout order, each tensor padded to a cache line.
    pub fn values(&self) -> &[f32] {
        self.values.host()
    }

    /// All values for writing; forgets what was derived from them.
    pub fn values_mut(&mut self) -> &mut [f32] {
        self.memory_mut().host_mut()
    }

    /// All values where they are, laid out as [`Params::values`].
    pub fn memory(&self) -> &Memory {
        &self.values
    }

    /// As [`Params::memory`], for writing; forgets what was derived from them.
    pub fn memory_mut(&mut self) -> &mut Memory {
        let derived = self.derived.get_mut();
        derived.unwrap_or_else(|e| e.into_inner()).clear();
        &mut self.values
    }

    /// Something computed from the values (a folded weight), once: `compute` runs when `key` is asked for the first
    /// time since the values changed.
    pub fn derived(&self, key: &str, compute: impl FnOnce(&Params) -> Vec<f32>) -> Array<f32> {
        let cache = || self.derived.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(found) = cache().get(key) {
            return found.clone();
        }
        let made = Array::from(compute(self));
        cache().insert(key.to_string(), made.clone());
        made
    }

    /// Address of one tensor on the device, for reading.
    pub(super) fn address(&self, id: ParamId) -> Result<usize> {
        Ok(self.values.address()? + 4 * self.layout.specs[id.0].offset)
    }

    /// The device that holds the values.
    pub fn device(&self) -> Device {
        self.values.device()
    }

    /// Address of the values on the device, for writing; forgets what was derived from them.
    pub(crate) fn address_mut(&mut self) -> Result<usize> {
        self.memory_mut().address_mut()
    }
}

/// Gradients of all weights, laid out as [`Params::values`].
#[derive(Debug)]
pub struct Gradients {
    layout: Arc<Layout>,
    values: Memory,
}

impl Gradients {
    /// All zero.
    pub fn new(layout: Arc<Layout>, device: Device) -> Result<Self> {
        let values = Memory::new(device, layout.words)?;
        Ok(Gradients { layout, values })
    }

    /// Names and shapes.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// The device that holds the gradients.
    pub fn device(&self) -> Device {
        self.values.device()
    }

    /// Sets every gradient to zero: once per optimizer step, so that several batches can accumulate.
    ///
    /// # Errors
    /// Faults of a GPU.
    pub fn clear(&mut self) -> Result<()> {
        self.values.clear()
    }

    /// All gradients where they are, laid out as [`Gradients::values`].
    pub fn memory(&self) -> &Memory {
        &self.values
    }

    /// As [`Gradients::memory`], for writing.
    pub fn memory_mut(&mut self) -> &mut Memory {
        &mut self.values
    }

    /// Gradient of one tensor.
    pub fn get(&self, id: ParamId) -> &[f32] {
        let spec = &self.layout.specs[id.0];
        &self.values.host()[spec.offset..spec.offset + spec.len()]
    }

    /// All gradients as one flat list; padding is zero.
    pub fn values(&self) -> &[f32] {
        self.values.host()
    }

    /// All gradients for writing.
    pub fn values_mut(&mut self) -> &mut [f32] {
        self.values.host_mut()
    }

    /// Address of one tensor on the device, for adding to.
    pub(super) fn address_mut(&mut self, id: ParamId) -> Result<usize> {
        Ok(self.values.address_mut()? + 4 * self.layout.specs[id.0].offset)
    }
}

#[cfg(test)]
#[path = "params_tests.rs"]
mod tests;
