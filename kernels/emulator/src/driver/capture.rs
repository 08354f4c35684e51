//! Captures: what streams would do is noted in a graph.
//!
//! The nodes that a stream's next operation follows are its *frontier*, which events carry from stream to stream. What may
//! not be done during a capture has the driver's error code and spoils the capture, as there.

use super::graph::{Graph, Node};
use super::*;
use std::thread::ThreadId;

/// `CU_STREAM_CAPTURE_MODE_GLOBAL` and `_THREAD_LOCAL`; the third mode, relaxed, allows everything.
const GLOBAL: i32 = 0;
const THREAD_LOCAL: i32 = 1;

/// A capture under way.
pub struct Capture {
    nodes: Vec<Node>,
    origin: usize,
    mode: i32,
    thread: ThreadId,
    is_valid: bool,
}

impl State {
    /// Notes an operation of a stream that is being captured: the call's result; none where it is to run now.
    pub fn recorded(&mut self, stream: usize, operation: &Operation) -> Option<Code> {
        if stream == 0 {
            return self.implicit();
        }
        let (capture, frontier) = self.order.streams.get_mut(&stream)?.capture.as_mut()?;
        let capture = self.captures.get_mut(capture)?;
        if !capture.is_valid {
            return Some(CAPTURE_INVALIDATED);
        }
        let pageable = |(at, bytes): (usize, usize)| !self.pinned.holds(at, bytes);
        if operation.host_bytes().is_some_and(pageable) {
            capture.is_valid = false;
            return Some(CAPTURE_UNSUPPORTED);
        }
        let after = std::mem::replace(frontier, vec![capture.nodes.len()]);
        let operation = operation.clone();
        capture.nodes.push(Node { operation, after });
        Some(SUCCESS)
    }

    /// The legacy stream would wait for blocking streams, which a capture excludes.
    fn implicit(&mut self) -> Option<Code> {
        let mut spoilt = None;
        for stream in self.order.streams.values().filter(|s| s.is_blocking) {
            let capture = stream.capture.as_ref().map(|(capture, _)| *capture);
            if let Some(capture) = capture.and_then(|c| self.captures.get_mut(&c)) {
                capture.is_valid = false;
                spoilt = Some(CAPTURE_IMPLICIT);
            }
        }
        spoilt
    }

    /// A call that may not be made while something is captured: in a capture of the global mode by anybody, in one of the
    /// thread's own mode by the thread that began it. The capture is spoilt.
    pub fn unsafe_call(&mut self) -> Option<Code> {
        let thread = std::thread::current().id();
        let forbidden = |c: &Capture| {
            c.is_valid && (c.mode == GLOBAL || (c.mode == THREAD_LOCAL && c.thread == thread))
        };
        let mut result = None;
        for capture in self.captures.values_mut().filter(|c| forbidden(c)) {
            capture.is_valid = false;
            result = Some(CAPTURE_UNSUPPORTED);
        }
        result
    }

    /// A call that waits for a stream, or asks for its state. Spoils the capture it is part of.
    pub fn spoil(&mut self, stream: usize) -> Option<Code> {
        let (capture, _) = self.order.streams.get(&stream)?.capture.as_ref()?;
        let capture = self.captures.get_mut(capture)?;
        let was_valid = std::mem::replace(&mut capture.is_valid, false);
        Some(if was_valid {
            CAPTURE_UNSUPPORTED
        } else {
            CAPTURE_INVALIDATED
        })
    }

    /// As [`State::spoil`], of a capture by its handle.
    pub fn spoil_capture(&mut self, capture: usize) {
        if let Some(capture) = self.captures.get_mut(&capture) {
            capture.is_valid = false;
        }
    }

    /// Whether any capture is under way.
    pub fn is_capturing(&self) -> bool {
        !self.captures.is_empty()
    }

    /// Ends the capture that began in `stream`.
    fn end_capture(&mut self, stream: usize) -> Result<Graph, Code> {
        let found = self.order.streams.get(&stream).ok_or(INVALID_HANDLE)?;
        let (handle, frontier) = found.capture.clone().ok_or(ILLEGAL_STATE)?;
        let capture = self.captures.get(&handle).ok_or(ILLEGAL_STATE)?;
        if capture.origin != stream {
            self.spoil_capture(handle);
            return Err(CAPTURE_UNMATCHED);
        }
        if capture.mode == THREAD_LOCAL && capture.thread != std::thread::current().id() {
            return Err(CAPTURE_WRONG_THREAD);
        }
        let joined = ancestors(&capture.nodes, &frontier);
        let streams = self.order.streams.values_mut();
        let mut is_joined = true;
        for stream in streams.filter(|s| s.capture.as_ref().is_some_and(|(c, _)| *c == handle)) {
            let (_, frontier) = stream.capture.take().expect("it takes part");
            is_joined &= frontier.iter().all(|node| joined[*node]);
        }
        let events = self.events.values_mut();
        events.for_each(|event| drop(event.capture.take_if(|(c, _)| *c == handle)));
        let capture = self.captures.remove(&handle).expect("it was found");
        match (capture.is_valid, is_joined) {
            (false, _) => Err(CAPTURE_INVALIDATED),
            (_, false) => Err(CAPTURE_UNJOINED),
            _ => Ok(self.graph(capture.nodes)),
        }
    }
}

/// Which nodes are among `of` or before them.
fn ancestors(nodes: &[Node], of: &[usize]) -> Vec<bool> {
    let mut found = vec![false; nodes.len()];
    of.iter().for_each(|node| found[*node] = true);
    for node in (0..nodes.len()).rev().filter(|_| !nodes.is_empty()) {
        if found[node] {
            nodes[node].after.iter().for_each(|n| found[*n] = true);
        }
    }
    found
}

api! {
    fn cuStreamBeginCapture_v2(stream: usize, mode: i32) {
        let mut state = state();
        if stream == 0 {
            return CAPTURE_UNSUPPORTED;
        }
        let handle = state.handle();
        match state.order.streams.get_mut(&stream) {
            None => return INVALID_HANDLE,
            Some(found) if found.capture.is_some() => return ILLEGAL_STATE,
            Some(found) => found.capture = Some((handle, Vec::new())),
        }
        let thread = std::thread::current().id();
        state.captures.insert(handle, Capture { nodes: Vec::new(), origin: stream, mode, thread, is_valid: true });
        SUCCESS
    }
    fn cuStreamEndCapture(stream: usize, graph: *mut usize) {
        let mut state = state();
        match state.end_capture(stream) {
            Ok(captured) => {
                let handle = state.handle();
                state.graphs.insert(handle, captured);
                put(graph, handle)
            }
            Err(code) => {
                put(graph, 0);
                code
            }
        }
    }
    fn cuStreamIsCapturing(stream: usize, status: *mut i32) {
        let state = state();
        let Some(found) = state.order.streams.get(&stream) else { return INVALID_HANDLE };
        let capture = found.capture.as_ref().and_then(|(capture, _)| state.captures.get(capture));
        put(status, capture.map_or(0, |c| if c.is_valid { 1 } else { 2 }))
    }
}
