//! Device memory, pinned host memory, copies and fills.

use super::launch::{Operation, What};
use super::order::Access;
use super::*;
use std::ffi::c_void;

/// The pool that [`cuMemAllocAsync`] takes memory from.
const POOL: usize = 0x9001;
/// Value of `CU_MEMPOOL_ATTR_RELEASE_THRESHOLD`.
const RELEASE_THRESHOLD: i32 = 4;

/// Memory that can be used from now on, or after what a stream has queued so far.
fn allocate(state: &mut State, address: *mut u64, bytes: usize, stream: Option<usize>) -> Code {
    if state.failed != SUCCESS {
        return state.failed;
    }
    if bytes == 0 {
        return INVALID_VALUE;
    }
    let Some(found) = state.machine.memory_mut().allocate(bytes as u64, "") else {
        let (used, limit) = state.machine.memory().usage();
        let what = format!("no room for {bytes} bytes: {used} of {limit} are in use");
        return state.fail(OUT_OF_MEMORY, &Error::Memory(what));
    };
    if let Some(stream) = stream {
        let Some(turn) = state.order.turn(stream) else {
            return INVALID_HANDLE;
        };
        let memory = state.machine.memory();
        let number = memory.find(found).expect("it was allocated just now");
        let fresh = (Access::Write, What::Allocation);
        let noted = state.order.access(memory, number, fresh.0, &turn, &fresh.1);
        noted.expect("nobody can have used it before");
    }
    // SAFETY: `address` comes from the caller of an allocation function, who wants the address there.
    unsafe { put(address, found) }
}

/// Frees memory, after all that `clock` knows.
fn free(state: &mut State, address: u64, clock: &Clock) -> Code {
    if address == 0 {
        return SUCCESS;
    }
    if let Some(number) = state.machine.memory().find(address) {
        let memory = state.machine.memory();
        if let Err(error) = state.order.forget(memory, number, clock) {
            return state.broken(&error);
        }
    }
    match state.machine.free(address) {
        Ok(()) => SUCCESS,
        Err(error) => state.fail(INVALID_VALUE, &error),
    }
}

/// A copy in the legacy stream. The host waits for it, but for an upload from pageable memory, which has only been read.
///
/// # Safety
/// As [`State::submit`].
unsafe fn copy_now(operation: Operation) -> Code {
    let mut state = state();
    if let Some(code) = state.unsafe_call() {
        return code;
    }
    let waits = match operation {
        Operation::Upload(_, from, bytes) => state.pinned.holds(from, bytes),
        _ => true,
    };
    // SAFETY: the caller's promise.
    let code = unsafe { state.submit(0, operation) };
    if code == SUCCESS && waits {
        state.wait_for(0)
    } else {
        code
    }
}

api! {
    fn cuMemAlloc_v2(address: *mut u64, bytes: usize) {
        let mut state = state();
        match state.unsafe_call() {
            Some(code) => code,
            None => allocate(&mut state, address, bytes, None),
        }
    }
    /// Memory of graphs is not implemented.
    fn cuMemAllocAsync(address: *mut u64, bytes: usize, stream: usize) {
        let mut state = state();
        match state.spoil(stream) {
            Some(_) => NOT_SUPPORTED,
            None => allocate(&mut state, address, bytes, Some(stream)),
        }
    }
    fn cuMemFree_v2(address: u64) {
        let mut state = state();
        if let Some(code) = state.unsafe_call() {
            return code;
        }
        let known = state.order.host.clone();
        free(&mut state, address, &known)
    }
    fn cuMemFreeAsync(address: u64, stream: usize) {
        let mut state = state();
        if state.spoil(stream).is_some() {
            return NOT_SUPPORTED;
        }
        let Some(turn) = state.order.turn(stream) else { return INVALID_HANDLE };
        free(&mut state, address, &turn.clock)
    }
    /// There is one pool, which keeps nothing: how much it may keep changes nothing.
    fn cuDeviceGetDefaultMemPool(pool: *mut usize, _device: i32) { put(pool, POOL) }
    fn cuMemPoolSetAttribute(pool: usize, attribute: i32, value: *const u64) {
        match (pool, attribute) {
            (POOL, RELEASE_THRESHOLD) if !value.is_null() => SUCCESS,
            (POOL, _) => NOT_SUPPORTED,
            _ => INVALID_VALUE,
        }
    }
    fn cuMemGetInfo_v2(unused: *mut usize, total: *mut usize) {
        let (used, limit) = state().machine.memory().usage();
        put(unused, (limit - used) as usize);
        put(total, limit as usize)
    }
    fn cuMemHostAlloc(pointer: *mut *mut c_void, bytes: usize, _flags: u32) {
        let mut state = state();
        if let Some(code) = state.unsafe_call() {
            return code;
        }
        match state.pinned.allocate(bytes) {
            Some(memory) => put(pointer, memory as *mut c_void),
            None => OUT_OF_MEMORY,
        }
    }
    fn cuMemAllocHost_v2(pointer: *mut *mut c_void, bytes: usize) { cuMemHostAlloc(pointer, bytes, 0) }
    fn cuMemFreeHost(pointer: *mut c_void) {
        let mut state = state();
        if let Some(code) = state.unsafe_call() {
            return code;
        }
        match state.pinned.free(pointer as usize) {
            Some(Ok(())) => SUCCESS,
            Some(Err(error)) => state.broken(&error),
            None => INVALID_VALUE,
        }
    }
    fn cuMemcpyHtoD_v2(to: u64, from: usize, bytes: usize) { copy_now(Operation::Upload(to, from, bytes)) }
    fn cuMemcpyHtoDAsync_v2(to: u64, from: usize, bytes: usize, stream: usize) {
        state().submit(stream, Operation::Upload(to, from, bytes))
    }
    fn cuMemcpyDtoH_v2(to: usize, from: u64, bytes: usize) { copy_now(Operation::Download(to, from, bytes)) }
    fn cuMemcpyDtoHAsync_v2(to: usize, from: u64, bytes: usize, stream: usize) {
        let mut state = state();
        let waits = !state.pinned.holds(to, bytes);
        let code = state.submit(stream, Operation::Download(to, from, bytes));
        if code == SUCCESS && waits { state.wait_for(stream) } else { code }
    }
    fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) { state().submit(0, Operation::Copy(to, from, bytes)) }
    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: usize) {
        state().submit(stream, Operation::Copy(to, from, bytes))
    }
    fn cuMemsetD8_v2(to: u64, value: u8, count: usize) { state().submit(0, Operation::Fill(to, u32::from(value), 1, count)) }
    fn cuMemsetD8Async(to: u64, value: u8, count: usize, stream: usize) {
        state().submit(stream, Operation::Fill(to, u32::from(value), 1, count))
    }
    fn cuMemsetD16Async(to: u64, value: u16, count: usize, stream: usize) {
        state().submit(stream, Operation::Fill(to, u32::from(value), 2, count))
    }
    fn cuMemsetD32_v2(to: u64, value: u32, count: usize) { state().submit(0, Operation::Fill(to, value, 4, count)) }
    fn cuMemsetD32Async(to: u64, value: u32, count: usize, stream: usize) {
        state().submit(stream, Operation::Fill(to, value, 4, count))
    }
}
