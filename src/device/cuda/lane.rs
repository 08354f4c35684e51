//! Threads that work ahead: each in a stream of its own.
//!
//! Work that nobody says anything about is queued in the main stream of its GPU. A thread that prepares what others will
//! need, such as the index lists of the next batch, opens a *lane*: its launches, fills, readbacks and allocations go to a
//! stream of their own, so they run beside the main stream and a readback there waits for the lane only. Whoever takes
//! over what it made waits for a [`Mark`].
//!
//! Memory remembers the lane that it was made in ([`super::block`]), so a mark that is forgotten costs time, not results.

use super::Gpu;
use super::context::Cuda;
use super::staging::Readback;
use crate::Result;
use cudarc::driver::result::{self, DriverError, stream::StreamKind};
use cudarc::driver::sys;
use std::cell::RefCell;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

thread_local! {
    static CURRENT: RefCell<Option<Arc<Lane>>> = const { RefCell::new(None) };
}

/// The stream of a thread that works ahead.
#[derive(Debug)]
pub(super) struct Lane {
    pub cuda: &'static Cuda,
    pub stream: sys::CUstream,
    /// Number of the piece of work under way, from 1. A mark ends a piece.
    piece: AtomicU64,
    /// The last piece that the main stream has waited for.
    awaited: AtomicU64,
    pub readback: Mutex<Readback>,
}

// SAFETY: a stream is the driver's and may be used from any thread once the context is current; the rest is shared safely.
unsafe impl Send for Lane {}
// SAFETY: as above.
unsafe impl Sync for Lane {}

impl Lane {
    fn new(cuda: &'static Cuda) -> Result<Lane, DriverError> {
        let stream = result::stream::create(StreamKind::NonBlocking)?;
        Ok(Lane {
            cuda,
            stream,
            piece: AtomicU64::new(1),
            awaited: AtomicU64::new(0),
            readback: Mutex::default(),
        })
    }

    /// The piece of work under way.
    pub fn piece(&self) -> u64 {
        self.piece.load(SeqCst)
    }

    /// Whether the main stream has waited for a piece.
    pub fn is_awaited(&self, piece: u64) -> bool {
        self.awaited.load(SeqCst) >= piece
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if self.cuda.bind().is_ok() {
            // SAFETY: made in `new` and destroyed once; the driver finishes what is queued first.
            let _ = unsafe { result::stream::destroy(self.stream) };
        }
    }
}

/// The lane of this thread on `cuda`; none is the main stream.
pub(super) fn current(cuda: &Cuda) -> Option<Arc<Lane>> {
    CURRENT.with_borrow(|lane| {
        lane.as_ref()
            .filter(|lane| std::ptr::eq(lane.cuda, cuda))
            .cloned()
    })
}

/// While it lives, this thread works ahead.
#[derive(Debug)]
pub struct Ahead(PhantomData<*const ()>);

impl Ahead {
    /// Opens a lane of `gpu` for this thread.
    ///
    /// # Errors
    /// What the driver says.
    ///
    /// # Panics
    /// When this thread has one.
    pub fn begin(gpu: Gpu) -> Result<Ahead> {
        let cuda = gpu.open()?;
        cuda.bind()?;
        let lane = Lane::new(cuda).map_err(|e| cuda.failed("opening a stream", e))?;
        let earlier = CURRENT.replace(Some(Arc::new(lane)));
        assert!(earlier.is_none(), "a thread works ahead in one stream");
        Ok(Ahead(PhantomData))
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        CURRENT.take();
    }
}

/// The end of a piece of work in a lane.
#[derive(Debug)]
pub struct Mark {
    lane: Arc<Lane>,
    piece: u64,
    event: sys::CUevent,
}

// SAFETY: as for `Lane`, whose event this is.
unsafe impl Send for Mark {}
// SAFETY: as above.
unsafe impl Sync for Mark {}

impl Mark {
    /// Ends what this thread has queued in its lane of `gpu`; none where it works in the main stream, in which order is
    /// order.
    ///
    /// # Errors
    /// What the driver says.
    pub fn set(gpu: Gpu) -> Result<Option<Mark>> {
        let cuda = gpu.open()?;
        let Some(lane) = current(cuda) else {
            return Ok(None);
        };
        cuda.bind()?;
        let failed = |e| cuda.failed("marking the end of prepared work", e);
        let event = event().map_err(failed)?;
        let piece = lane.piece.fetch_add(1, SeqCst);
        let mark = Mark { lane, piece, event };
        // SAFETY: event and stream are alive.
        unsafe { result::event::record(event, mark.lane.stream) }.map_err(failed)?;
        Ok(Some(mark))
    }

    /// What this thread queues from now on comes after the mark. The host waits for nothing.
    ///
    /// # Errors
    /// What the driver says.
    pub fn wait(&self) -> Result<()> {
        let cuda = self.lane.cuda;
        cuda.bind()?;
        cuda.wait_event(cuda.stream(), self.event)
            .map_err(|e| cuda.failed("waiting for prepared work", e))?;
        if current(cuda).is_none() {
            self.lane.awaited.fetch_max(self.piece, SeqCst);
        }
        Ok(())
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        if self.lane.cuda.bind().is_ok() {
            // SAFETY: made in `set` and destroyed once; waits for it that are queued stay valid.
            let _ = unsafe { result::event::destroy(self.event) };
        }
    }
}

/// A new event, without a time.
pub(super) fn event() -> Result<sys::CUevent, DriverError> {
    result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
}

#[cfg(test)]
mod tests {
    use crate::device::cuda::{Buffer, Grid, args, kernels};
    use crate::device::{Array, Device, Gpu};
    use crate::graph::check::devices;

    kernels!("executor");

    /// y += x
    fn accumulate(gpu: Gpu, x: &Array<f32>, y: &Buffer) {
        let args = args![x.on(gpu).unwrap(), x.len(), y.at()];
        let grid = Grid::strided(x.len());
        gpu.launch(&KERNELS, "accumulate", grid, args).unwrap();
    }

    /// A list of ones that kernels in a lane have made twos of.
    fn prepare(gpu: Gpu, ones: &Array<f32>) -> Array<f32> {
        let sums = Buffer::copied(gpu, &ones[..]).unwrap();
        accumulate(gpu, ones, &sums);
        Array::of_buffer(sums, ones.len())
    }

    // On the emulator, whatever the streams do not order is an error.
    #[test]
    fn what_a_lane_has_made_can_be_used_outside_with_and_without_a_mark() {
        for device in devices() {
            let Device::Cuda(gpu) = device else { continue };
            for marks in [false, true] {
                let ones = Array::from(vec![1.0f32; 1000]);
                // Made in the main stream, used in the lane.
                ones.on(gpu).unwrap();
                let (twos, mark) = std::thread::scope(|scope| {
                    let lane = scope.spawn(|| {
                        let _ahead = device.ahead().unwrap();
                        let first = prepare(gpu, &ones);
                        let mark = marks.then(|| device.mark().unwrap().expect("a lane's mark"));
                        assert_eq!(prepare(gpu, &ones)[999], 2.0, "read in the lane");
                        (first, mark)
                    });
                    lane.join().unwrap()
                });
                if let Some(mark) = mark {
                    mark.wait().unwrap();
                }
                let sums = Buffer::zeroed(gpu, 1000).unwrap();
                accumulate(gpu, &twos, &sums);
                accumulate(gpu, &ones, &sums);
                drop((twos, ones));
                assert_eq!(sums.read::<f32>(1000).unwrap(), [3.0; 1000]);
            }
        }
    }

    #[test]
    fn a_lane_may_drop_last_what_others_have_used() {
        for device in devices() {
            let Device::Cuda(gpu) = device else { continue };
            let sums = Buffer::zeroed(gpu, 1000).unwrap();
            std::thread::scope(|scope| {
                let (to_main, main) = std::sync::mpsc::channel();
                let (to_lane, lane) = std::sync::mpsc::channel();
                scope.spawn(move || {
                    let _ahead = device.ahead().unwrap();
                    let twos = prepare(gpu, &Array::from(vec![1.0f32; 1000]));
                    to_main.send(twos.clone()).unwrap();
                    lane.recv().unwrap();
                    drop(twos);
                });
                let twos: Array<f32> = main.recv().unwrap();
                accumulate(gpu, &twos, &sums);
                drop(twos);
                to_lane.send(()).unwrap();
            });
            assert_eq!(sums.read::<f32>(1000).unwrap(), [2.0; 1000]);
        }
    }

    #[test]
    fn the_main_stream_has_no_marks() {
        for device in devices() {
            assert!(device.mark().unwrap().is_none());
        }
    }
}
