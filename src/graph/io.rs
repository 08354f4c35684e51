//! What ops see of a run: their inputs, outputs, saved values, scratch and gradients, on the host or on a GPU.

use super::Shape;
use crate::device::random::Random;
use crate::device::{Cores, Device, Gpu, Pointer, Precision};
use std::marker::PhantomData;

/// A value at its address on the device.
#[derive(Debug, Clone, Copy)]
pub(super) struct Binding {
    pub address: usize,
    pub shape: Shape,
}

impl Binding {
    /// Where the value lies on a GPU.
    pub(super) fn pointer(self) -> Pointer {
        Pointer(self.address as u64)
    }

    /// SAFETY: the address is that of `shape.len()` initialised words of host memory which nobody writes during 'a.
    pub(super) unsafe fn read<'a>(self) -> &'a [f32] {
        if self.shape.is_empty() {
            return &[];
        }
        // SAFETY: promised by the caller.
        unsafe { std::slice::from_raw_parts(self.address as *const f32, self.shape.len()) }
    }

    /// SAFETY: the address is that of `shape.len()` words of host memory which nobody else touches during 'a.
    pub(super) unsafe fn write<'a>(self) -> &'a mut [f32] {
        if self.shape.is_empty() {
            return &mut [];
        }
        // SAFETY: promised by the caller.
        unsafe { std::slice::from_raw_parts_mut(self.address as *mut f32, self.shape.len()) }
    }
}

fn take(slot: &mut Option<Binding>, what: &str) -> Binding {
    slot.take()
        .unwrap_or_else(|| panic!("{what} is not there, or was taken before"))
}

/// Slices are for the CPU; on a GPU ops ask for addresses.
fn host(device: Device) {
    assert!(device == Device::Cpu, "values on {device} are no slices");
}

/// What an op sees while it computes its outputs. Every mutable slice can be taken once. The accessors without an
/// ending give host slices on the CPU, those that end in `_on` give addresses on the GPU.
#[derive(Debug)]
pub struct Forward<'a> {
    pub(super) device: Device,
    pub(super) precision: Precision,
    pub(super) random: Random,
    pub(super) inputs: Vec<Binding>,
    pub(super) outputs: Vec<Option<Binding>>,
    pub(super) saved: Vec<Option<Binding>>,
    pub(super) scratch: Option<Binding>,
    pub(super) arena: PhantomData<&'a mut [f32]>,
}

impl<'a> Forward<'a> {
    /// Where to run.
    pub fn device(&self) -> Device {
        self.device
    }

    /// `gpu` with the precision of the run, for kernels that multiply matrices.
    pub fn cores(&self, gpu: Gpu) -> Cores {
        Cores {
            gpu,
            precision: self.precision,
        }
    }

    /// The random stream of this node at this step; backward sees the same one.
    pub fn random(&self) -> Random {
        self.random
    }

    /// Shape of input `i`.
    pub fn shape(&self, i: usize) -> Shape {
        self.inputs[i].shape
    }

    /// Number of inputs; ops may take optional ones at the end.
    pub fn inputs(&self) -> usize {
        self.inputs.len()
    }

    /// Values of input `i`.
    pub fn input(&self, i: usize) -> &'a [f32] {
        host(self.device);
        // SAFETY: the timeline keeps inputs apart from everything this node writes; parameters and given inputs lie
        // outside the arena and are borrowed shared by the graph.
        unsafe { self.inputs[i].read() }
    }

    /// Output `i`, to be filled. Can be taken once.
    pub fn output(&mut self, i: usize) -> &'a mut [f32] {
        host(self.device);
        let slot = take(&mut self.outputs[i], "output");
        // SAFETY: the timeline gives every output its own place, and taking the slot makes the borrow unique.
        unsafe { slot.write() }
    }

    /// True when backward follows, so that what is saved has to be written.
    pub fn saves(&self) -> bool {
        !self.saved.is_empty()
    }

    /// What is saved for backward, slot `i`. Can be taken once, and only when [`Forward::saves`].
    pub fn saved(&mut self, i: usize) -> &'a mut [f32] {
        host(self.device);
        let slot = take(&mut self.saved[i], "saved value");
        // SAFETY: as for outputs.
        unsafe { slot.write() }
    }

    /// Scratch of the size that the plan asked for. Can be taken once.
    pub fn scratch(&mut self) -> &'a mut [f32] {
        host(self.device);
        let slot = take(&mut self.scratch, "scratch");
        // SAFETY: as for outputs.
        unsafe { slot.write() }
    }

    /// Address of input `i` on a GPU.
    pub fn input_on(&self, i: usize) -> Pointer {
        self.inputs[i].pointer()
    }

    /// Address of output `i` on a GPU.
    pub fn output_on(&self, i: usize) -> Pointer {
        self.outputs[i]
            .expect("slices are not taken on a GPU")
            .pointer()
    }

    /// Address of what is saved in slot `i` on a GPU; `None` unless [`Forward::saves`].
    pub fn saved_on(&self, i: usize) -> Option<Pointer> {
        self.saved.get(i)?.map(Binding::pointer)
    }

    /// Address of the scratch on a GPU.
    pub fn scratch_on(&self) -> Pointer {
        self.scratch
            .expect("slices are not taken on a GPU")
            .pointer()
    }
}

/// What an op sees while it adds up the gradients of its inputs; accessors as in [`Forward`].
#[derive(Debug)]
pub struct Backward<'a> {
    pub(super) device: Device,
    pub(super) precision: Precision,
    pub(super) random: Random,
    pub(super) shapes: Vec<Shape>,
    pub(super) inputs: Vec<Option<Binding>>,
    pub(super) outputs: Vec<Option<Binding>>,
    pub(super) saved: Vec<Binding>,
    pub(super) d_outputs: Vec<Option<Binding>>,
    pub(super) d_inputs: Vec<Option<Binding>>,
    pub(super) scratch: Option<Binding>,
    pub(super) arena: PhantomData<&'a mut [f32]>,
}

impl<'a> Backward<'a> {
    /// Where to run.
    pub fn device(&self) -> Device {
        self.device
    }

    /// `gpu` with the precision of the run, for kernels that multiply matrices.
    pub fn cores(&self, gpu: Gpu) -> Cores {
        Cores {
            gpu,
            precision: self.precision,
        }
    }

    /// The random stream that forward saw.
    pub fn random(&self) -> Random {
        self.random
    }

    /// Shape of input `i`.
    pub fn shape(&self, i: usize) -> Shape {
        self.shapes[i]
    }

    /// Number of inputs.
    pub fn inputs(&self) -> usize {
        self.shapes.len()
    }

    /// Values of input `i`, which the plan must name in `reads_inputs`.
    pub fn input(&self, i: usize) -> &'a [f32] {
        host(self.device);
        let slot = self.inputs[i].expect("the plan names every input that backward reads");
        // SAFETY: alive until this step by the timeline, and apart from everything this step writes.
        unsafe { slot.read() }
    }

    /// Values of output `i`, which the plan must name in `reads_outputs`.
    pub fn output(&self, i: usize) -> &'a [f32] {
        host(self.device);
        let slot = self.outputs[i].expect("the plan names every output that backward reads");
        // SAFETY: as for inputs.
        unsafe { slot.read() }
    }

    /// What forward saved in slot `i`.
    pub fn saved(&self, i: usize) -> &'a [f32] {
        host(self.device);
        // SAFETY: as for inputs.
        unsafe { self.saved[i].read() }
    }

    /// Gradient of output `i`; `None` when nothing depends on that output.
    pub fn d_output(&self, i: usize) -> Option<&'a [f32]> {
        host(self.device);
        // SAFETY: as for inputs.
        self.d_outputs[i].map(|slot| unsafe { slot.read() })
    }

    /// True when input `i` wants its gradient.
    pub fn wants(&self, i: usize) -> bool {
        self.d_inputs[i].is_some()
    }

    /// Gradient of input `i`, to be added to; `None` when it is not wanted or was taken before.
    pub fn d_input(&mut self, i: usize) -> Option<&'a mut [f32]> {
        host(self.device);
        // SAFETY: the timeline gives every gradient its own place (recording refuses the same value twice), and taking
        // the slot makes the borrow unique.
        self.d_inputs[i].take().map(|slot| unsafe { slot.write() })
    }

    /// Scratch of the size that the plan asked for. Can be taken once.
    pub fn scratch(&mut self) -> &'a mut [f32] {
        host(self.device);
        let slot = take(&mut self.scratch, "scratch");
        // SAFETY: as for outputs of forward.
        unsafe { slot.write() }
    }

    /// Address of input `i` on a GPU; the plan must name it in `reads_inputs`.
    pub fn input_on(&self, i: usize) -> Pointer {
        let slot = self.inputs[i].expect("the plan names every input that backward reads");
        slot.pointer()
    }

    /// Address of output `i` on a GPU; the plan must name it in `reads_outputs`.
    pub fn output_on(&self, i: usize) -> Pointer {
        let slot = self.outputs[i].expect("the plan names every output that backward reads");
        slot.pointer()
    }

    /// Address of what forward saved in slot `i` on a GPU.
    pub fn saved_on(&self, i: usize) -> Pointer {
        self.saved[i].pointer()
    }

    /// Address of the gradient of output `i` on a GPU; `None` when nothing depends on that output.
    pub fn d_output_on(&self, i: usize) -> Option<Pointer> {
        self.d_outputs[i].map(Binding::pointer)
    }

    /// Address of the gradient of input `i` on a GPU, to be added to; `None` when it is not wanted.
    pub fn d_input_on(&self, i: usize) -> Option<Pointer> {
        self.d_inputs[i].map(Binding::pointer)
    }

    /// Address of the scratch on a GPU.
    pub fn scratch_on(&self) -> Pointer {
        self.scratch
            .expect("slices are not taken on a GPU")
            .pointer()
    }
}
