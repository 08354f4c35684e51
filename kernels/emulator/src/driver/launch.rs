//! What a stream does: at once, or recorded into a graph.

use super::order::{Access, Turn};
use super::*;
use crate::ViolationKind;
use std::ffi::c_void;
use std::fmt;

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

/// What accessed memory, to be named in an error.
#[derive(Clone)]
pub enum What {
    Kernel(Arc<Kernel>),
    Fill,
    Copy,
    Upload,
    Download,
    Allocation,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            What::Kernel(kernel) => write!(f, "kernel {}", kernel.name),
            What::Fill => f.write_str("a fill"),
            What::Copy => f.write_str("a copy"),
            What::Upload => f.write_str("an upload"),
            What::Download => f.write_str("a download"),
            What::Allocation => f.write_str("its allocation"),
        }
    }
}

impl Operation {
    /// Host bytes that it reads or writes.
    pub fn host_bytes(&self) -> Option<(usize, usize)> {
        match *self {
            Operation::Upload(_, from, bytes) => Some((from, bytes)),
            Operation::Download(to, _, bytes) => Some((to, bytes)),
            _ => None,
        }
    }

    fn what(&self) -> Option<What> {
        Some(match self {
            Operation::Launch(function, ..) => What::Kernel(function.kernel.clone()),
            Operation::Fill(..) => What::Fill,
            Operation::Copy(..) => What::Copy,
            Operation::Upload(..) => What::Upload,
            Operation::Download(..) => What::Download,
            Operation::Host(..) => return None,
        })
    }
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
        if let Some(code) = self.recorded(stream, &operation) {
            return code;
        }
        let Some(turn) = self.order.turn(stream) else {
            return INVALID_HANDLE;
        };
        // SAFETY: the caller's promise.
        unsafe { self.perform(&operation, &turn) }
    }

    /// Runs an operation in its turn.
    ///
    /// # Safety
    /// As [`State::submit`].
    pub unsafe fn perform(&mut self, operation: &Operation, turn: &Turn) -> Code {
        if self.failed != SUCCESS {
            return self.failed;
        }
        // SAFETY: the caller's promise.
        let done = unsafe { self.execute(operation, turn) };
        match done.and_then(|()| self.note_accesses(operation, turn)) {
            Ok(()) => SUCCESS,
            Err(error) => self.broken(&error),
        }
    }

    /// Gives the code of an error. A broken rule leaves the context failed.
    pub fn broken(&mut self, error: &Error) -> Code {
        let code = code_of(error);
        if matches!(error, Error::Violations(_) | Error::Order(_)) {
            self.failed = code;
        }
        self.fail(code, error)
    }

    /// # Safety
    /// As [`State::submit`].
    unsafe fn execute(&mut self, operation: &Operation, turn: &Turn) -> Result<(), Error> {
        let memory = self.machine.memory_mut();
        match operation {
            Operation::Launch(function, grid, block, dynamic, params) => {
                self.machine
                    .launch(&function.kernel, *grid, *block, *dynamic, params)
            }
            Operation::Fill(to, value, bytes, count) => memory.fill(*to, *value, *bytes, *count),
            Operation::Copy(to, from, bytes) => memory.copy(*to, *from, *bytes),
            Operation::Upload(_, 0, _) | Operation::Download(0, ..) => Ok(()),
            Operation::Upload(to, from, bytes) => {
                if self.pinned.holds(*from, *bytes) {
                    self.pinned.upload(*from, *bytes, turn)?;
                }
                // SAFETY: the caller's promise.
                let source = unsafe { std::slice::from_raw_parts(*from as *const u8, *bytes) };
                memory.write(*to, source)
            }
            Operation::Download(to, from, bytes) if self.pinned.holds(*to, *bytes) => {
                let mut data = vec![0; *bytes];
                memory.read(*from, &mut data)?;
                self.pinned.download(*to, data, turn)
            }
            Operation::Download(to, from, bytes) => {
                // SAFETY: the caller's promise.
                let target = unsafe { std::slice::from_raw_parts_mut(*to as *mut u8, *bytes) };
                memory.read(*from, target)
            }
            Operation::Host(function, argument) => {
                // What is ordered before the function has happened when it runs.
                self.pinned.settle(&turn.clock)?;
                function(*argument as *mut c_void);
                Ok(())
            }
        }
    }

    /// Checks the order of an operation's accesses to device memory.
    fn note_accesses(&mut self, operation: &Operation, turn: &Turn) -> Result<(), Error> {
        let Some(what) = operation.what() else {
            return Ok(());
        };
        let memory = self.machine.memory();
        let mut note =
            |number: usize, access| self.order.access(memory, number, access, turn, &what);
        let mut at = |address: u64, bytes: usize, access| match memory.find(address) {
            Some(number) if bytes > 0 => note(number, access),
            _ => Ok(()),
        };
        match *operation {
            Operation::Fill(to, _, bytes, count) => at(to, bytes * count, Access::Write),
            Operation::Copy(to, from, bytes) => {
                at(from, bytes, Access::Read)?;
                at(to, bytes, Access::Write)
            }
            Operation::Upload(to, _, bytes) => at(to, bytes, Access::Write),
            Operation::Download(_, from, bytes) => at(from, bytes, Access::Read),
            Operation::Launch(..) | Operation::Host(..) => {
                for touched in self.machine.touched() {
                    if touched.is_read {
                        note(touched.allocation, Access::Read)?;
                    }
                    if touched.is_written {
                        note(touched.allocation, Access::Write)?;
                    }
                }
                Ok(())
            }
        }
    }
}

/// What a GPU's driver would return, or what comes nearest.
fn code_of(error: &Error) -> Code {
    let violations = match error {
        Error::Violations(violations) => violations,
        Error::Order(_) => return LAUNCH_FAILED,
        _ => return INVALID_VALUE,
    };
    match violations.first().map(|violation| violation.kind) {
        Some(ViolationKind::OutOfBounds | ViolationKind::UseAfterFree) => ILLEGAL_ADDRESS,
        Some(ViolationKind::Misaligned) => MISALIGNED_ADDRESS,
        _ => LAUNCH_FAILED,
    }
}

/// A launch as its caller describes it.
pub struct Asked {
    pub function: usize,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared: u32,
    pub params: *mut *mut c_void,
    pub extra: *mut *mut c_void,
}

impl State {
    /// The operation, with copies of the parameters.
    ///
    /// # Safety
    /// `params` points at as many pointers as the kernel has parameters, each to a value of its size.
    pub unsafe fn operation(&mut self, asked: &Asked) -> Result<Operation, Code> {
        let Some(found) = self.functions.get(&asked.function).cloned() else {
            return Err(INVALID_HANDLE);
        };
        if !asked.extra.is_null() {
            let what = "parameters through `extra` are not implemented".into();
            return Err(self.fail(NOT_SUPPORTED, &launch_error(&found, what)));
        }
        if asked.shared as usize > found.dynamic_limit {
            let what = format!(
                "{} bytes of dynamic shared memory, {} are allowed",
                asked.shared, found.dynamic_limit
            );
            return Err(self.fail(INVALID_VALUE, &launch_error(&found, what)));
        }
        let mut buffer = vec![0; found.kernel.param_bytes()];
        for (index, param) in found.kernel.params.iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe {
                let from = *asked.params.add(index) as *const u8;
                std::ptr::copy_nonoverlapping(
                    from,
                    buffer[param.offset..].as_mut_ptr(),
                    param.bytes,
                );
            }
        }
        let shared = asked.shared as usize;
        Ok(Operation::Launch(
            found,
            asked.grid,
            asked.block,
            shared,
            buffer,
        ))
    }
}

api! {
    #[allow(clippy::too_many_arguments)] // the driver's own signature
    fn cuLaunchKernel(
        function: usize, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32,
        shared: u32, stream: usize, params: *mut *mut c_void, extra: *mut *mut c_void,
    ) {
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        let mut state = state();
        match state.operation(&Asked { function, grid, block, shared, params, extra }) {
            Ok(operation) => state.submit(stream, operation),
            Err(code) => code,
        }
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
