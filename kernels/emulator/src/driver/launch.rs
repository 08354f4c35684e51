//! What a stream does: at once, or recorded into a graph.

use super::*;
use crate::ViolationKind;
use std::ffi::c_void;

/// Something for the device to do, in the order of its stream.
#[derive(Clone)]
pub enum Operation {
    /// Runs a kernel: function, grid, block, dynamic shared bytes, parameter buffer.
    Launch(Function, [u32; 3], [u32; 3], usize, Vec<u8>),
    /// Fills: address, value, bytes per value, values.
    Fill(u64, u32, usize, usize),
    /// Device to device: to, from, bytes.
    Copy(u64, u64, usize),
    /// Host to device: to, from, bytes.
    Upload(u64, usize, usize),
    /// Device to host: to, from, bytes.
    Download(usize, u64, usize),
    /// A host function and its argument.
    Host(extern "C" fn(*mut c_void), usize),
}

impl State {
    /// Runs an operation now, or records it where the stream is being captured.
    ///
    /// # Safety
    /// Host ranges of the operation are valid until it has run, which for a graph is every time it is launched.
    pub unsafe fn submit(&mut self, stream: usize, operation: Operation) -> Code {
        if self.failed != SUCCESS {
            return self.failed;
        }
        match self.streams.get(&stream) {
            None => INVALID_HANDLE,
            Some(Some(capture)) => {
                let recording = self.recordings.entry(*capture).or_default();
                recording.push(operation);
                SUCCESS
            }
            // SAFETY: the caller's promise.
            Some(None) => unsafe { self.perform(&operation) },
        }
    }

    /// Runs an operation.
    ///
    /// # Safety
    /// As [`State::submit`].
    pub unsafe fn perform(&mut self, operation: &Operation) -> Code {
        if self.failed != SUCCESS {
            return self.failed;
        }
        let memory = self.machine.memory_mut();
        let done = match operation {
            Operation::Launch(function, grid, block, dynamic, params) => {
                self.machine
                    .launch(&function.kernel, *grid, *block, *dynamic, params)
            }
            Operation::Fill(to, value, bytes, count) => memory.fill(*to, *value, *bytes, *count),
            Operation::Copy(to, from, bytes) => memory.copy(*to, *from, *bytes),
            Operation::Upload(to, from, bytes) => {
                // SAFETY: the caller's promise.
                let source = unsafe {
                    std::slice::from_raw_parts(
                        *from as *const u8,
                        if *from == 0 { 0 } else { *bytes },
                    )
                };
                memory.write(*to, source)
            }
            Operation::Download(to, from, bytes) => {
                // SAFETY: the caller's promise.
                let target = unsafe {
                    std::slice::from_raw_parts_mut(
                        *to as *mut u8,
                        if *to == 0 { 0 } else { *bytes },
                    )
                };
                memory.read(*from, target)
            }
            Operation::Host(function, argument) => {
                function(*argument as *mut c_void);
                Ok(())
            }
        };
        match done {
            Ok(()) => SUCCESS,
            Err(error) => {
                let code = code_of(&error);
                if matches!(error, Error::Violations(_)) {
                    self.failed = code;
                }
                self.fail(code, &error)
            }
        }
    }
}

/// What a GPU's driver would return, or what comes nearest.
fn code_of(error: &Error) -> Code {
    let Error::Violations(violations) = error else {
        return INVALID_VALUE;
    };
    match violations.first().map(|violation| violation.kind) {
        Some(ViolationKind::OutOfBounds | ViolationKind::UseAfterFree) => ILLEGAL_ADDRESS,
        Some(ViolationKind::Misaligned) => MISALIGNED_ADDRESS,
        _ => LAUNCH_FAILED,
    }
}

api! {
    #[allow(clippy::too_many_arguments)] // the driver's own signature
    fn cuLaunchKernel(
        function: usize, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32,
        shared: u32, stream: usize, params: *mut *mut c_void, extra: *mut *mut c_void,
    ) {
        let mut state = state();
        let Some(found) = state.functions.get(&function).cloned() else { return INVALID_HANDLE };
        if !extra.is_null() {
            return state.fail(NOT_SUPPORTED, &launch_error(&found, "parameters through `extra` are not implemented".into()));
        }
        if shared as usize > found.dynamic_limit {
            let what = format!("{shared} bytes of dynamic shared memory, {} are allowed", found.dynamic_limit);
            return state.fail(INVALID_VALUE, &launch_error(&found, what));
        }
        let mut buffer = vec![0; found.kernel.param_bytes()];
        for (index, param) in found.kernel.params.iter().enumerate() {
            let from = *params.add(index) as *const u8;
            std::ptr::copy_nonoverlapping(from, buffer[param.offset..].as_mut_ptr(), param.bytes);
        }
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        state.submit(stream, Operation::Launch(found, grid, block, shared as usize, buffer))
    }
    fn cuLaunchHostFunc(stream: usize, function: extern "C" fn(*mut c_void), argument: *mut c_void) {
        state().submit(stream, Operation::Host(function, argument as usize))
    }
}

fn launch_error(function: &Function, what: String) -> Error {
    Error::Launch {
        kernel: function.kernel.name.clone(),
        what,
    }
}
