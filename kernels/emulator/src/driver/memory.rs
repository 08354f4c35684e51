//! Device memory, pinned host memory, copies and fills.

use super::launch::Operation;
use super::*;
use std::alloc::{Layout, alloc, dealloc};
use std::ffi::c_void;

fn allocate(address: *mut u64, bytes: usize) -> Code {
    let mut state = state();
    if state.failed != SUCCESS {
        return state.failed;
    }
    if bytes == 0 {
        return INVALID_VALUE;
    }
    match state.machine.memory_mut().allocate(bytes as u64, "") {
        // SAFETY: `address` comes from the caller of an allocation function, who wants the address there.
        Some(found) => unsafe { put(address, found) },
        None => {
            let (used, limit) = state.machine.memory().usage();
            let what = format!("no room for {bytes} bytes: {used} of {limit} are in use");
            state.fail(OUT_OF_MEMORY, &Error::Memory(what))
        }
    }
}

fn free(address: u64) -> Code {
    let mut state = state();
    if address == 0 {
        return SUCCESS;
    }
    match state.machine.free(address) {
        Ok(()) => SUCCESS,
        Err(error) => state.fail(INVALID_VALUE, &error),
    }
}

api! {
    fn cuMemAlloc_v2(address: *mut u64, bytes: usize) { allocate(address, bytes) }
    fn cuMemAllocAsync(address: *mut u64, bytes: usize, _stream: usize) { allocate(address, bytes) }
    fn cuMemFree_v2(address: u64) { free(address) }
    /// While a stream is captured, memory stays: the graph uses it every time it is launched.
    fn cuMemFreeAsync(address: u64, stream: usize) {
        if matches!(state().streams.get(&stream), Some(Some(_))) {
            return SUCCESS;
        }
        free(address)
    }
    fn cuMemGetInfo_v2(unused: *mut usize, total: *mut usize) {
        let (used, limit) = state().machine.memory().usage();
        put(unused, (limit - used) as usize);
        put(total, limit as usize)
    }
    fn cuMemHostAlloc(pointer: *mut *mut c_void, bytes: usize, _flags: u32) {
        let Ok(layout) = Layout::from_size_align(bytes.max(1), 4096) else { return INVALID_VALUE };
        let memory = alloc(layout);
        if memory.is_null() {
            return OUT_OF_MEMORY;
        }
        state().pinned.insert(memory as usize, layout);
        put(pointer, memory.cast())
    }
    fn cuMemAllocHost_v2(pointer: *mut *mut c_void, bytes: usize) { cuMemHostAlloc(pointer, bytes, 0) }
    fn cuMemFreeHost(pointer: *mut c_void) {
        match state().pinned.remove(&(pointer as usize)) {
            Some(layout) => {
                dealloc(pointer.cast(), layout);
                SUCCESS
            }
            None => INVALID_VALUE,
        }
    }
    fn cuMemcpyHtoD_v2(to: u64, from: usize, bytes: usize) { state().submit(0, Operation::Upload(to, from, bytes)) }
    fn cuMemcpyHtoDAsync_v2(to: u64, from: usize, bytes: usize, stream: usize) {
        state().submit(stream, Operation::Upload(to, from, bytes))
    }
    fn cuMemcpyDtoH_v2(to: usize, from: u64, bytes: usize) { state().submit(0, Operation::Download(to, from, bytes)) }
    fn cuMemcpyDtoHAsync_v2(to: usize, from: u64, bytes: usize, stream: usize) {
        state().submit(stream, Operation::Download(to, from, bytes))
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
