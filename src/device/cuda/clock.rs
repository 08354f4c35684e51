//! How long kernels take on a GPU: an event before and one after each launch.

use super::Lap;
use super::context::Cuda;
use crate::Result;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;
use std::cell::RefCell;

/// A launch between two events.
#[derive(Debug)]
struct Pending {
    function: sys::CUfunction,
    events: [sys::CUevent; 2],
}

thread_local! {
    /// The launches of this thread that are timed, in order; none while nobody asks.
    static LAPS: RefCell<Option<Vec<Pending>>> = const { RefCell::new(None) };
}

impl Cuda {
    /// Does `work`, and says how long each kernel took that it launched on this thread. Timing is not nested.
    ///
    /// # Errors
    /// Those of the work, and what the driver says of the events.
    pub fn clocked(&self, work: impl FnOnce() -> Result<()>) -> Result<Vec<Lap>> {
        LAPS.set(Some(Vec::new()));
        let done = work().and_then(|()| self.synchronize());
        let pending = LAPS.take().unwrap_or_default();
        done?;
        pending
            .into_iter()
            .map(|p| self.lap(p).map_err(|e| self.failed("reading the time", e)))
            .collect()
    }

    fn lap(&self, pending: Pending) -> Result<Lap, DriverError> {
        let [from, to] = pending.events;
        // SAFETY: both were recorded, and nothing is queued any more; they are destroyed once.
        let milliseconds = unsafe {
            let time = result::event::elapsed(from, to);
            result::event::destroy(from)?;
            result::event::destroy(to)?;
            time?
        };
        Ok(Lap {
            kernel: self.kernel_of(pending.function),
            microseconds: 1e3 * f64::from(milliseconds),
        })
    }

    /// Calls `launch`, between two events if somebody wants to know how long it takes.
    pub(super) fn timed(
        &self,
        function: sys::CUfunction,
        launch: impl FnOnce() -> Result<(), DriverError>,
    ) -> Result<(), DriverError> {
        if LAPS.with_borrow(Option::is_none) {
            return launch();
        }
        let flags = sys::CUevent_flags::CU_EVENT_DEFAULT;
        let events = [result::event::create(flags)?, result::event::create(flags)?];
        // SAFETY: the stream and the events are alive.
        unsafe { result::event::record(events[0], self.stream()) }?;
        launch()?;
        // SAFETY: as above.
        unsafe { result::event::record(events[1], self.stream()) }?;
        let lap = Pending { function, events };
        LAPS.with_borrow_mut(|laps| laps.as_mut().map(|laps| laps.push(lap)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::device::Device;
    use crate::device::cuda::{Buffer, scan};
    use crate::graph::check::devices;

    #[test]
    fn every_launch_has_its_time_and_none_is_noted_when_nobody_asks() {
        for device in devices() {
            let Device::Cuda(gpu) = device else { continue };
            let cuda = gpu.open().unwrap();
            let run = || {
                let values = Buffer::copied(gpu, &[1u32; 5000])?;
                let [scratch, totals] = [8, 5001].map(|words| Buffer::new::<u32>(gpu, words));
                scan::exclusive(gpu, values.at(), 5000, scratch?.at(), totals?.at())
            };
            run().unwrap();
            let laps = cuda.clocked(run).unwrap();
            let names: Vec<&str> = laps.iter().map(|lap| lap.kernel.as_str()).collect();
            assert_eq!(names, ["scan_sums", "scan_starts", "scan_tiles"]);
            assert!(laps.iter().all(|lap| lap.microseconds > 0.0), "{laps:?}");
            assert!(cuda.clocked(|| Ok(())).unwrap().is_empty());
        }
    }
}
