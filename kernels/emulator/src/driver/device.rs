//! Initialisation, the device, its attributes, contexts, errors.

use super::*;
use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::{CString, c_char, c_void};

/// The one context.
const CONTEXT: usize = 0xca1;

thread_local! {
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

/// Shared memory of a block that asks for more than 48 KiB, and of a multiprocessor, in bytes.
pub fn shared_limits(capability: i32) -> (usize, usize) {
    let multiprocessor = match capability {
        75 => 64,
        80 | 87 => 164,
        86 | 89 | 120.. => 100,
        _ => 228,
    };
    let block = if capability == 75 {
        64
    } else {
        multiprocessor - 1
    };
    (block << 10, multiprocessor << 10)
}

/// Threads and blocks of a multiprocessor.
pub fn thread_limits(capability: i32) -> (usize, usize) {
    match capability {
        75 => (1024, 16),
        86 | 89 | 120.. => (1536, if capability == 86 { 16 } else { 24 }),
        _ => (2048, 32),
    }
}

/// Values of `CUdevice_attribute`; none for what is unknown.
fn attribute(number: i32, capability: i32) -> Option<i32> {
    let (block, multiprocessor) = shared_limits(capability);
    let (threads, blocks) = thread_limits(capability);
    Some(match number {
        1..=3 => 1024,
        4 => 64,
        5 => i32::MAX,
        6 | 7 => 65535,
        8 => 48 << 10,
        9 => 64 << 10,
        10 => 32,
        11 => i32::MAX,
        12 | 82 => 65536,
        13 | 36 => 1_000_000,
        14 => 512,
        16 => 1,
        37 => 64,
        38 => 1 << 20,
        39 => threads as i32,
        41 | 115 => 1,
        75 => capability / 10,
        76 => capability % 10,
        81 => multiprocessor as i32,
        97 => block as i32,
        106 => blocks as i32,
        // Managed memory, cooperative launches, texture limits and so on: none of it.
        _ if number > 0 && number < 200 => 0,
        _ => return None,
    })
}

api! {
    fn cuInit(_flags: u32) { SUCCESS }
    fn cuDriverGetVersion(version: *mut i32) { put(version, 13000) }
    /// NVRTC asks for private tables and lives without them.
    fn cuGetExportTable(table: *mut *const c_void, _id: *const c_void) {
        put(table, std::ptr::null());
        NOT_FOUND
    }
    fn cuDeviceGet(device: *mut i32, ordinal: i32) {
        if ordinal == 0 { put(device, 0) } else { INVALID_DEVICE }
    }
    fn cuDeviceGetCount(count: *mut i32) { put(count, 1) }
    fn cuDeviceGetName(name: *mut u8, room: i32, _device: i32) {
        put_text(name, room.max(0) as usize, "Cairn PTX emulator");
        SUCCESS
    }
    fn cuDeviceGetUuid(uuid: *mut [u8; 16], _device: i32) { put(uuid, *b"cairn-emulator-0") }
    fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], _device: i32) { put(uuid, *b"cairn-emulator-0") }
    fn cuDeviceTotalMem_v2(bytes: *mut usize, _device: i32) { put(bytes, state().machine.memory().usage().1 as usize) }
    fn cuDeviceGetAttribute(value: *mut i32, number: i32, _device: i32) {
        match attribute(number, state().capability) {
            Some(found) => put(value, found),
            None => INVALID_VALUE,
        }
    }
    fn cuDevicePrimaryCtxRetain(context: *mut usize, _device: i32) { put(context, CONTEXT) }
    fn cuDevicePrimaryCtxRelease_v2(_device: i32) { SUCCESS }
    fn cuCtxSetCurrent(context: usize) {
        CURRENT.set(context);
        SUCCESS
    }
    fn cuCtxGetCurrent(context: *mut usize) { put(context, CURRENT.get()) }
    fn cuCtxGetDevice(device: *mut i32) { put(device, 0) }
    fn cuCtxSetFlags(_flags: u32) { SUCCESS }
    fn cuCtxSynchronize() {
        let mut state = state();
        if state.is_capturing() {
            return state.unsafe_call().unwrap_or(CAPTURE_UNSUPPORTED);
        }
        let everything = state.order.everything();
        state.wait(&everything)
    }
    fn cuCtxGetStreamPriorityRange(least: *mut i32, greatest: *mut i32) {
        put(least, 0);
        put(greatest, 0)
    }
    fn cuProfilerStart() { SUCCESS }
    fn cuProfilerStop() { SUCCESS }
    fn cuGetErrorName(code: Code, text: *mut *const c_char) {
        match name(code) {
            Some(name) => put(text, name.as_ptr().cast()),
            None => INVALID_VALUE,
        }
    }
    /// The last error in full where the code is its own, so that a program's message says what was broken.
    fn cuGetErrorString(code: Code, text: *mut *const c_char) {
        let Some(name) = name(code) else { return INVALID_VALUE };
        let state = state();
        if state.last_error.is_empty() || code == SUCCESS {
            return put(text, name.as_ptr().cast());
        }
        put(text, kept(&state.last_error))
    }
}

/// A text that lives as long as the process, as callers expect. Equal texts are kept once.
fn kept(text: &str) -> *const c_char {
    static KEPT: OnceLock<Mutex<HashMap<String, CString>>> = OnceLock::new();
    let mut kept = KEPT
        .get_or_init(Default::default)
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    kept.entry(text.into())
        .or_insert_with(|| CString::new(text.replace('\0', " ")).unwrap_or_default())
        .as_ptr()
}

/// Names end in 0, since callers are C.
fn name(code: Code) -> Option<&'static str> {
    Some(match code {
        SUCCESS => "CUDA_SUCCESS\0",
        INVALID_VALUE => "CUDA_ERROR_INVALID_VALUE\0",
        OUT_OF_MEMORY => "CUDA_ERROR_OUT_OF_MEMORY\0",
        INVALID_DEVICE => "CUDA_ERROR_INVALID_DEVICE\0",
        INVALID_IMAGE => "CUDA_ERROR_INVALID_IMAGE\0",
        NO_BINARY_FOR_GPU => "CUDA_ERROR_NO_BINARY_FOR_GPU\0",
        INVALID_PTX => "CUDA_ERROR_INVALID_PTX\0",
        FILE_NOT_FOUND => "CUDA_ERROR_FILE_NOT_FOUND\0",
        INVALID_HANDLE => "CUDA_ERROR_INVALID_HANDLE\0",
        NOT_FOUND => "CUDA_ERROR_NOT_FOUND\0",
        ILLEGAL_ADDRESS => "CUDA_ERROR_ILLEGAL_ADDRESS\0",
        MISALIGNED_ADDRESS => "CUDA_ERROR_MISALIGNED_ADDRESS\0",
        LAUNCH_FAILED => "CUDA_ERROR_LAUNCH_FAILED\0",
        NOT_SUPPORTED => "CUDA_ERROR_NOT_SUPPORTED\0",
        ILLEGAL_STATE => "CUDA_ERROR_ILLEGAL_STATE\0",
        NOT_READY => "CUDA_ERROR_NOT_READY\0",
        CAPTURE_UNSUPPORTED => "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED\0",
        CAPTURE_INVALIDATED => "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED\0",
        CAPTURE_MERGE => "CUDA_ERROR_STREAM_CAPTURE_MERGE\0",
        CAPTURE_UNMATCHED => "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED\0",
        CAPTURE_UNJOINED => "CUDA_ERROR_STREAM_CAPTURE_UNJOINED\0",
        CAPTURE_ISOLATION => "CUDA_ERROR_STREAM_CAPTURE_ISOLATION\0",
        CAPTURE_IMPLICIT => "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT\0",
        CAPTURED_EVENT => "CUDA_ERROR_CAPTURED_EVENT\0",
        CAPTURE_WRONG_THREAD => "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD\0",
        _ => return None,
    })
}
