//! Streams and events.
//!
//! Whoever asks whether work is done hears "not yet" the first time and "yes" the second: a program must be ready for
//! both.

use super::order::Clock;
use super::*;

/// `CU_STREAM_NON_BLOCKING`.
const NON_BLOCKING: u32 = 1;
/// `CU_EVENT_DISABLE_TIMING`.
const WITHOUT_TIME: u32 = 2;

impl State {
    /// The host waits for all that `clock` knows.
    pub fn wait(&mut self, clock: &Clock) -> Code {
        if self.failed != SUCCESS {
            return self.failed;
        }
        self.order.host.join(clock);
        match self.pinned.settle(&self.order.host) {
            Ok(()) => SUCCESS,
            Err(error) => self.broken(&error),
        }
    }

    /// The host waits for a stream.
    pub fn wait_for(&mut self, stream: usize) -> Code {
        match self.order.before(stream) {
            Some((_, clock)) => self.wait(&clock),
            None => INVALID_HANDLE,
        }
    }

    /// The clock of an event that is not part of a capture.
    fn event_clock(&mut self, event: usize) -> Result<Clock, Code> {
        let Some(event) = self.events.get(&event) else {
            return Err(INVALID_HANDLE);
        };
        match &event.capture {
            None => Ok(event.clock.clone()),
            Some((capture, _)) => {
                let capture = *capture;
                self.spoil_capture(capture);
                Err(CAPTURED_EVENT)
            }
        }
    }
}

api! {
    fn cuStreamCreate(stream: *mut usize, flags: u32) {
        let mut state = state();
        let handle = state.handle();
        state.order.add(handle, flags & NON_BLOCKING == 0);
        put(stream, handle)
    }
    fn cuStreamCreateWithPriority(stream: *mut usize, flags: u32, _priority: i32) { cuStreamCreate(stream, flags) }
    fn cuStreamDestroy_v2(stream: usize) {
        let mut state = state();
        state.spoil(stream);
        if state.order.streams.remove(&stream).is_some() { SUCCESS } else { INVALID_HANDLE }
    }
    fn cuStreamSynchronize(stream: usize) {
        let mut state = state();
        match state.spoil(stream) {
            Some(code) => code,
            None => state.wait_for(stream),
        }
    }
    fn cuStreamQuery(stream: usize) {
        let mut state = state();
        if let Some(code) = state.spoil(stream) {
            return code;
        }
        let Some((_, clock)) = state.order.before(stream) else { return INVALID_HANDLE };
        let host = state.order.host.clone();
        let Some(found) = state.order.streams.get_mut(&stream) else { return INVALID_HANDLE };
        if host == clock || found.asked.as_ref() == Some(&clock) {
            return state.wait(&clock);
        }
        found.asked = Some(clock);
        NOT_READY
    }
    /// A stream that waits for an event of a capture joins that capture.
    fn cuStreamWaitEvent(stream: usize, event: usize, _flags: u32) {
        let mut state = state();
        let Some(event) = state.events.get(&event).cloned() else { return INVALID_HANDLE };
        let Some(current) = state.order.streams.get_mut(&stream) else { return INVALID_HANDLE };
        match (&mut current.capture, event.capture) {
            (None, None) => {
                state.order.after(stream, &event.clock);
                SUCCESS
            }
            (own @ None, Some(capture)) => {
                *own = Some(capture);
                SUCCESS
            }
            (Some((own, frontier)), Some((other, nodes))) if *own == other => {
                nodes.into_iter().for_each(|node| if !frontier.contains(&node) { frontier.push(node) });
                SUCCESS
            }
            (Some((own, _)), other) => {
                let own = *own;
                state.spoil_capture(own);
                match other {
                    // What lies before a capture cannot be waited for inside.
                    None => CAPTURE_ISOLATION,
                    Some((other, _)) => {
                        state.spoil_capture(other);
                        CAPTURE_MERGE
                    }
                }
            }
        }
    }
    fn cuEventCreate(event: *mut usize, flags: u32) {
        let mut state = state();
        let handle = state.handle();
        state.events.insert(handle, Event { without_time: flags & WITHOUT_TIME != 0, ..Event::default() });
        put(event, handle)
    }
    fn cuEventDestroy_v2(event: usize) {
        if state().events.remove(&event).is_some() { SUCCESS } else { INVALID_HANDLE }
    }
    fn cuEventRecord(event: usize, stream: usize) {
        let mut state = state();
        let Some((_, clock)) = state.order.before(stream) else { return INVALID_HANDLE };
        let capture = state.order.streams.get(&stream).and_then(|s| s.capture.clone());
        let Some(event) = state.events.get_mut(&event) else { return INVALID_HANDLE };
        *event = Event { recorded: Some(Instant::now()), capture, clock, is_asked: false, ..*event };
        SUCCESS
    }
    fn cuEventSynchronize(event: usize) {
        let mut state = state();
        match state.event_clock(event) {
            Ok(clock) => state.wait(&clock),
            Err(code) => code,
        }
    }
    fn cuEventQuery(event: usize) {
        let mut state = state();
        if let Some(code) = state.unsafe_call() {
            return code;
        }
        let clock = match state.event_clock(event) {
            Ok(clock) => clock,
            Err(code) => return code,
        };
        let Some(event) = state.events.get_mut(&event) else { return INVALID_HANDLE };
        let was_asked = std::mem::replace(&mut event.is_asked, true);
        if event.recorded.is_none() || was_asked { state.wait(&clock) } else { NOT_READY }
    }
    /// Wall-clock milliseconds of the emulation, not of any GPU.
    fn cuEventElapsedTime(milliseconds: *mut f32, start: usize, end: usize) {
        let state = state();
        let (Some(start), Some(end)) = (state.events.get(&start), state.events.get(&end)) else { return INVALID_HANDLE };
        match (start.recorded, end.recorded) {
            (Some(from), Some(to)) if !start.without_time && !end.without_time => {
                put(milliseconds, to.saturating_duration_since(from).as_secs_f32() * 1e3)
            }
            _ => INVALID_HANDLE,
        }
    }
    fn cuEventElapsedTime_v2(milliseconds: *mut f32, start: usize, end: usize) { cuEventElapsedTime(milliseconds, start, end) }
}
