//! Streams, events, graphs.

use super::*;

api! {
    fn cuStreamCreate(stream: *mut usize, _flags: u32) {
        let mut state = state();
        let handle = state.handle();
        state.streams.insert(handle, None);
        put(stream, handle)
    }
    fn cuStreamCreateWithPriority(stream: *mut usize, flags: u32, _priority: i32) { cuStreamCreate(stream, flags) }
    fn cuStreamDestroy_v2(stream: usize) {
        if state().streams.remove(&stream).is_some() { SUCCESS } else { INVALID_HANDLE }
    }
    fn cuStreamSynchronize(stream: usize) {
        let state = state();
        match state.streams.get(&stream) {
            None => INVALID_HANDLE,
            Some(Some(_)) => CAPTURE_INVALIDATED,
            Some(None) => state.failed,
        }
    }
    fn cuStreamQuery(stream: usize) { cuStreamSynchronize(stream) }
    /// A stream that waits for an event of a capture joins that capture.
    fn cuStreamWaitEvent(stream: usize, event: usize, _flags: u32) {
        let mut state = state();
        let Some(&Event { capture, .. }) = state.events.get(&event) else { return INVALID_HANDLE };
        let Some(current) = state.streams.get_mut(&stream) else { return INVALID_HANDLE };
        if let Some(capture) = capture {
            *current = Some(capture);
        }
        SUCCESS
    }
    fn cuStreamBeginCapture_v2(stream: usize, _mode: i32) {
        let mut state = state();
        let capture = state.handle();
        match state.streams.get_mut(&stream) {
            Some(current @ None) => *current = Some(capture),
            _ => return INVALID_HANDLE,
        }
        state.recordings.insert(capture, Vec::new());
        SUCCESS
    }
    fn cuStreamEndCapture(stream: usize, graph: *mut usize) {
        let mut state = state();
        let Some(&Some(capture)) = state.streams.get(&stream) else { return INVALID_HANDLE };
        state.streams.values_mut().filter(|current| **current == Some(capture)).for_each(|current| *current = None);
        state.events.values_mut().filter(|event| event.capture == Some(capture)).for_each(|event| event.capture = None);
        // The recording is the graph.
        put(graph, capture)
    }
    fn cuStreamIsCapturing(stream: usize, status: *mut i32) {
        match state().streams.get(&stream) {
            Some(capture) => put(status, i32::from(capture.is_some())),
            None => INVALID_HANDLE,
        }
    }
    fn cuGraphInstantiateWithFlags(executable: *mut usize, graph: usize, _flags: u64) {
        let mut state = state();
        let Some(recording) = state.recordings.get(&graph).cloned() else { return INVALID_HANDLE };
        let handle = state.handle();
        state.recordings.insert(handle, recording);
        put(executable, handle)
    }
    fn cuGraphLaunch(executable: usize, stream: usize) {
        let mut state = state();
        if !state.streams.contains_key(&stream) {
            return INVALID_HANDLE;
        }
        let Some(recording) = state.recordings.get(&executable).cloned() else { return INVALID_HANDLE };
        for operation in &recording {
            let code = state.submit(stream, operation.clone());
            if code != SUCCESS {
                return code;
            }
        }
        SUCCESS
    }
    fn cuGraphUpload(executable: usize, _stream: usize) {
        if state().recordings.contains_key(&executable) { SUCCESS } else { INVALID_HANDLE }
    }
    fn cuGraphDestroy(graph: usize) {
        if state().recordings.remove(&graph).is_some() { SUCCESS } else { INVALID_HANDLE }
    }
    fn cuGraphExecDestroy(executable: usize) {
        if state().recordings.remove(&executable).is_some() { SUCCESS } else { INVALID_HANDLE }
    }
    fn cuEventCreate(event: *mut usize, flags: u32) {
        let mut state = state();
        let handle = state.handle();
        // CU_EVENT_DISABLE_TIMING
        state.events.insert(handle, Event { without_time: flags & 2 != 0, ..Event::default() });
        put(event, handle)
    }
    fn cuEventDestroy_v2(event: usize) {
        if state().events.remove(&event).is_some() { SUCCESS } else { INVALID_HANDLE }
    }
    fn cuEventRecord(event: usize, stream: usize) {
        let mut state = state();
        let Some(&capture) = state.streams.get(&stream) else { return INVALID_HANDLE };
        let Some(event) = state.events.get_mut(&event) else { return INVALID_HANDLE };
        event.capture = capture;
        event.recorded = Some(Instant::now());
        SUCCESS
    }
    fn cuEventSynchronize(event: usize) {
        let state = state();
        if state.events.contains_key(&event) { state.failed } else { INVALID_HANDLE }
    }
    fn cuEventQuery(event: usize) { cuEventSynchronize(event) }
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
