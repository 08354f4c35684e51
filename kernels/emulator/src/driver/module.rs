//! Modules, functions, occupancy.

use super::device::{shared_limits, thread_limits};
use super::*;
use std::ffi::{CStr, c_char, c_void};

/// Dynamic shared memory that a function may have without asking.
const DEFAULT_SHARED: usize = 48 << 10;

fn load(module: *mut usize, ptx: &str) -> Code {
    let mut state = state();
    if state.failed != SUCCESS {
        return state.failed;
    }
    match state.machine.load(ptx) {
        Ok(loaded) => {
            let handle = state.handle();
            state.modules.insert(handle, loaded);
            // SAFETY: `module` comes from the caller of a load function, who wants the handle there.
            unsafe { put(module, handle) }
        }
        Err(error) => state.fail(INVALID_PTX, &error),
    }
}

/// Loads an image in memory: PTX text. Compiled code cannot be executed.
///
/// # Safety
/// `image` is text that ends in 0, or an ELF file.
unsafe fn load_image(module: *mut usize, image: *const c_void) -> Code {
    if image.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: the caller's promise; an image has at least four bytes, or ends before them.
    let text = unsafe { CStr::from_ptr(image.cast()) };
    let what = if text.to_bytes().starts_with(b"\x7fELF") {
        "a CUBIN was given"
    } else if text.to_bytes().starts_with(&[0x50, 0xed, 0x55, 0xba]) {
        "a fat binary was given"
    } else if let Ok(ptx) = text.to_str() {
        return load(module, ptx);
    } else {
        "the image is no text"
    };
    state().fail(NO_BINARY_FOR_GPU, &Error::Image(what))
}

/// Blocks of a function that fit a multiprocessor by threads and shared memory. Registers are not known from PTX.
fn occupancy(state: &State, function: usize, threads: i32, dynamic: usize) -> Option<i32> {
    let function = state.functions.get(&function)?;
    if threads <= 0 || threads as u32 > function.kernel.max_threads {
        return Some(0);
    }
    let (most_threads, most_blocks) = thread_limits(state.capability);
    let (_, multiprocessor) = shared_limits(state.capability);
    let by_threads = most_threads / (threads as usize).next_multiple_of(32);
    // The system keeps 1 KiB of each block's share.
    let reserved = if state.capability >= 80 { 1 << 10 } else { 0 };
    let by_shared = multiprocessor / (function.kernel.shared_bytes + dynamic + reserved).max(1);
    Some(by_threads.min(by_shared).min(most_blocks) as i32)
}

api! {
    fn cuModuleLoadData(module: *mut usize, image: *const c_void) { load_image(module, image) }
    fn cuModuleLoadDataEx(module: *mut usize, image: *const c_void, _count: u32, _options: *mut i32, _values: *mut *mut c_void) {
        load_image(module, image)
    }
    fn cuModuleLoad(module: *mut usize, path: *const c_char) {
        let path = CStr::from_ptr(path).to_string_lossy();
        match std::fs::read_to_string(&*path) {
            Ok(text) => load(module, &text),
            Err(error) => state().fail(FILE_NOT_FOUND, &Error::Missing(format!("{path}: {error}"))),
        }
    }
    fn cuModuleUnload(module: usize) {
        let mut state = state();
        let Some(unloaded) = state.modules.remove(&module) else { return INVALID_HANDLE };
        let gone: Vec<usize> = state.named.iter().filter(|((of, _), _)| *of == module).map(|(_, handle)| *handle).collect();
        state.named.retain(|(of, _), _| *of != module);
        gone.iter().for_each(|handle| drop(state.functions.remove(handle)));
        match state.machine.unload(&unloaded) {
            Ok(()) => SUCCESS,
            Err(error) => state.fail(INVALID_HANDLE, &error),
        }
    }
    fn cuModuleGetFunction(function: *mut usize, module: usize, name: *const c_char) {
        let mut state = state();
        let name = CStr::from_ptr(name).to_string_lossy().into_owned();
        if let Some(&handle) = state.named.get(&(module, name.clone())) {
            return put(function, handle);
        }
        let Some(found) = state.modules.get(&module) else { return INVALID_HANDLE };
        match found.kernel(&name).cloned() {
            Ok(kernel) => {
                let handle = state.handle();
                let dynamic_limit = DEFAULT_SHARED.saturating_sub(kernel.shared_bytes);
                state.functions.insert(handle, Function { kernel, dynamic_limit });
                state.named.insert((module, name), handle);
                put(function, handle)
            }
            Err(error) => state.fail(NOT_FOUND, &error),
        }
    }
    fn cuModuleGetGlobal_v2(address: *mut u64, bytes: *mut usize, module: usize, name: *const c_char) {
        let mut state = state();
        let name = CStr::from_ptr(name).to_string_lossy();
        let Some(found) = state.modules.get(&module) else { return INVALID_HANDLE };
        match found.variable(&name) {
            Ok((at, size)) => {
                // Either may be null.
                put(address, at);
                put(bytes, size as usize);
                SUCCESS
            }
            Err(error) => state.fail(NOT_FOUND, &error),
        }
    }
    fn cuFuncGetAttribute(value: *mut i32, attribute: i32, function: usize) {
        let state = state();
        let Some(function) = state.functions.get(&function) else { return INVALID_HANDLE };
        match attribute {
            0 => put(value, function.kernel.max_threads as i32),
            1 => put(value, function.kernel.shared_bytes as i32),
            2 => put(value, 0),
            3 => put(value, function.kernel.local_bytes as i32),
            5 | 6 => put(value, state.capability),
            8 => put(value, function.dynamic_limit as i32),
            // Registers and the rest are the compiler's business: ask NVRTC for the CUBIN's.
            _ => NOT_SUPPORTED,
        }
    }
    fn cuFuncSetAttribute(function: usize, attribute: i32, value: i32) {
        let mut state = state();
        let (most, _) = shared_limits(state.capability);
        let Some(function) = state.functions.get_mut(&function) else { return INVALID_HANDLE };
        match attribute {
            8 if value < 0 || value as usize + function.kernel.shared_bytes > most => INVALID_VALUE,
            8 => {
                function.dynamic_limit = value as usize;
                SUCCESS
            }
            // Preferred carve-out: a hint.
            9 => SUCCESS,
            _ => NOT_SUPPORTED,
        }
    }
    fn cuFuncSetCacheConfig(_function: usize, _config: i32) { SUCCESS }
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks: *mut i32, function: usize, threads: i32, dynamic: usize) {
        match occupancy(&state(), function, threads, dynamic) {
            Some(found) => put(blocks, found),
            None => INVALID_HANDLE,
        }
    }
    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks: *mut i32, function: usize, threads: i32, dynamic: usize, _flags: u32) {
        match occupancy(&state(), function, threads, dynamic) {
            Some(found) => put(blocks, found),
            None => INVALID_HANDLE,
        }
    }
    fn cuOccupancyAvailableDynamicSMemPerBlock(bytes: *mut usize, function: usize, blocks: i32, _threads: i32) {
        let state = state();
        let (most, multiprocessor) = shared_limits(state.capability);
        let Some(function) = state.functions.get(&function) else { return INVALID_HANDLE };
        if blocks <= 0 {
            return INVALID_VALUE;
        }
        put(bytes, (multiprocessor / blocks as usize).min(most).saturating_sub(function.kernel.shared_bytes + 1024))
    }
}
