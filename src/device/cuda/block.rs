//! GPU memory, and the order of its uses in several streams.
//!
//! A block belongs to the stream that it was made in, main or a lane ([`super::lane`]). Whoever asks for its address in
//! another stream makes that stream wait for what is queued in the block's own, unless the main stream has waited for it
//! already through a mark. A block is freed in the stream of the thread that drops it, after everything that is queued in
//! any stream that has used it.
//!
//! Uploads go through a stream of their own, so that they overlap with whatever computes.

use super::Pointer;
use super::context::Cuda;
use super::lane::{self, Lane};
use super::replay::Step;
use crate::Result;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::{CudaContext, sys};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

/// GPU memory, freed when dropped.
#[derive(Debug)]
pub(crate) struct Block {
    cuda: &'static Cuda,
    base: Pointer,
    /// The lane that it was made in; none is the main stream.
    home: Option<Arc<Lane>>,
    /// The piece of the home lane's work that asked for it last.
    piece: AtomicU64,
    /// Other streams that have used it.
    guests: Mutex<Vec<Option<Arc<Lane>>>>,
}

fn same(a: &Option<Arc<Lane>>, b: &Option<Arc<Lane>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    }
}

impl Block {
    /// Memory of `bytes` bytes, holding anything.
    ///
    /// # Errors
    /// Too little memory, or what the driver says.
    pub fn new(cuda: &'static Cuda, bytes: usize) -> Result<Block> {
        Ok(Block::at_address(
            cuda,
            cuda.allocate(bytes, cuda.stream())?,
        ))
    }

    /// A copy of `bytes`, which may be reused when this returns.
    ///
    /// # Errors
    /// As [`Block::new`].
    pub fn copied(cuda: &'static Cuda, bytes: &[u8]) -> Result<Block> {
        // Made in the stream of the copies, which then need not wait for anything that computes.
        let base = cuda.allocate(bytes.len(), cuda.copies())?;
        let copied = cuda.stage(bytes, base);
        cuda.order(cuda.copies(), cuda.stream())?;
        let block = Block::at_address(cuda, base);
        copied.map(|()| block)
    }

    fn at_address(cuda: &'static Cuda, base: Pointer) -> Block {
        let home = lane::current(cuda);
        Block {
            cuda,
            base,
            piece: AtomicU64::new(home.as_ref().map_or(0, |lane| lane.piece())),
            home,
            guests: Mutex::default(),
        }
    }

    fn stream_of(&self, lane: &Option<Arc<Lane>>) -> sys::CUstream {
        lane.as_ref().map_or(self.cuda.main(), |lane| lane.stream)
    }

    /// Makes this thread's stream wait for the block's own, unless it has.
    fn wait_for_home(&self, here: &Option<Arc<Lane>>) -> Result<()> {
        let piece = self.piece.load(SeqCst);
        match (&self.home, here) {
            (Some(home), None) if home.is_awaited(piece) => Ok(()),
            _ => self
                .cuda
                .order(self.stream_of(&self.home), self.stream_of(here)),
        }
    }

    /// Its address, for what this thread queues from now on.
    pub fn at(&self) -> Pointer {
        let here = lane::current(self.cuda);
        if same(&self.home, &here) {
            if let Some(lane) = here {
                self.piece.store(lane.piece(), SeqCst);
            }
            return self.base;
        }
        // A failure here is an earlier fault that the next call reports.
        let _ = self.wait_for_home(&here);
        let mut guests = self.guests.lock().unwrap_or_else(|e| e.into_inner());
        if !guests.iter().any(|guest| same(guest, &here)) {
            guests.push(here);
        }
        self.base
    }

    /// As [`Block::at`], of memory that others may have been given: it is written after they have read it.
    pub fn at_mut(&mut self) -> Pointer {
        let _ = self.wait_for_guests(&lane::current(self.cuda));
        self.at()
    }

    /// Makes this thread's stream wait for others that have used the block.
    fn wait_for_guests(&self, here: &Option<Arc<Lane>>) -> Result<()> {
        let guests = self.guests.lock().unwrap_or_else(|e| e.into_inner());
        let mut others = guests.iter().filter(|guest| !same(guest, here));
        others.try_for_each(|guest| self.cuda.order(self.stream_of(guest), self.stream_of(here)))
    }

    /// Copies `bytes` into it. They may be reused when this returns.
    ///
    /// # Errors
    /// What the driver says.
    pub fn upload(&mut self, bytes: &[u8]) -> Result<()> {
        let base = self.at_mut();
        let (here, copies) = (self.cuda.stream(), self.cuda.copies());
        self.cuda.order(here, copies)?;
        let copied = self.cuda.stage(bytes, base);
        self.cuda.order(copies, here)?;
        copied
    }

    /// Copies `bytes` from `offset` of it, once all that this thread's stream does to it is done.
    ///
    /// # Errors
    /// What the driver says, also of work queued before.
    pub fn download(&self, offset: usize, bytes: &mut [u8]) -> Result<()> {
        let from = Pointer(self.at().0 + offset as u64);
        self.cuda.download(from, bytes)
    }

    /// Fills the first `words` 32-bit words with zero.
    ///
    /// # Errors
    /// What the driver says.
    pub fn zero(&mut self, words: usize) -> Result<()> {
        let base = self.at_mut();
        self.cuda.zero(base, words)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let here = lane::current(self.cuda);
        if !same(&self.home, &here) {
            let _ = self.wait_for_home(&here);
        }
        // A failure here is an earlier fault that the next call reports.
        let _ = self.wait_for_guests(&here);
        self.cuda.free(self.base);
    }
}

/// Lets the GPU's memory pool keep what is freed. By default it gives all of it back to the system whenever the host waits
/// for the GPU, and allocations after that map memory anew.
pub(super) fn keep_freed_memory(context: &CudaContext) -> Result<(), DriverError> {
    if !context.has_async_alloc() {
        return Ok(());
    }
    let mut most = u64::MAX;
    let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the device is the context's, the pool is its own, and the attribute is a 64-bit number.
    unsafe {
        let pool = result::device::get_default_mem_pool(context.cu_device())?;
        result::mem_pool::set_attribute(pool, threshold, std::ptr::from_mut(&mut most).cast())
    }
}

impl Cuda {
    /// Memory of `bytes` bytes for what is queued in `stream` from now on, holding anything.
    fn allocate(&self, bytes: usize, stream: sys::CUstream) -> Result<Pointer> {
        self.bind()?;
        let bytes = bytes.max(4);
        // SAFETY: the stream is alive; every use of the memory is queued in it, or in another that waits for it.
        let allocated = unsafe {
            match self.has_async_alloc() {
                true => result::malloc_async(stream, bytes),
                false => result::malloc_sync(bytes),
            }
        };
        match allocated {
            Ok(address) => Ok(Pointer(address)),
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                Err(self.gpu().error(format!(
                    "cannot allocate {} MiB; use fewer points per batch or a larger voxel size",
                    bytes >> 20
                )))
            }
            Err(e) => Err(self.failed("allocating memory", e)),
        }
    }

    /// Frees what [`Cuda::allocate`] gave, after everything that is queued in this thread's stream so far.
    pub(super) fn free(&self, memory: Pointer) {
        if self.frees_later(memory) {
            return;
        }
        if self.bind().is_err() {
            return; // the GPU is lost, and its memory with it
        }
        let stream = self.stream();
        // SAFETY: the owner frees once; queued work that uses the memory comes before in the stream, or is waited for.
        let freed = unsafe {
            match self.has_async_alloc() {
                true => result::free_async(memory.0, stream),
                false => {
                    result::stream::synchronize(stream).and_then(|()| result::free_sync(memory.0))
                }
            }
        };
        // A failure here is an earlier fault that the next call reports.
        let _ = freed;
    }

    /// Queues a copy in the stream of the copies.
    fn stage(&self, bytes: &[u8], to: Pointer) -> Result<()> {
        self.bind()?;
        let mut staging = self.staging().lock().unwrap_or_else(|e| e.into_inner());
        let queued = staging.upload(bytes, to.0, self.copies());
        queued.map_err(|e| self.failed("copying to the GPU", e))
    }

    /// Copies from the GPU and waits for it.
    pub(crate) fn download(&self, from: Pointer, bytes: &mut [u8]) -> Result<()> {
        self.flush()?;
        self.bind()?;
        let lane = lane::current(self);
        let readback = lane.as_ref().map_or(self.readback(), |lane| &lane.readback);
        let mut readback = readback.lock().unwrap_or_else(|e| e.into_inner());
        let arrived = readback.download(from.0, bytes, self.stream());
        arrived.map_err(|e| self.failed("copying from the GPU", e))
    }

    /// Fills `words` 32-bit words with zero.
    pub(crate) fn zero(&self, memory: Pointer, words: usize) -> Result<()> {
        if words == 0 {
            return Ok(());
        }
        self.queue(Step::Clear { at: memory, words })
    }

    /// What is queued in `to` from now on comes after what is queued in `from` so far. The host waits for nothing.
    fn order(&self, from: sys::CUstream, to: sys::CUstream) -> Result<()> {
        if from == to {
            return Ok(());
        }
        if from == self.stream() {
            self.flush()?;
        }
        self.bind()?;
        // One event serves all: a wait is for what the event holds when the wait is queued.
        let between = self.between().lock().unwrap_or_else(|e| e.into_inner());
        // SAFETY: streams and event are alive.
        unsafe { result::event::record(between.0, from) }
            .and_then(|()| self.wait_event(to, between.0))
            .map_err(|e| self.failed("ordering streams", e))
    }
}
