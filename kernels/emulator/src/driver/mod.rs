//! The CUDA driver's functions, as far as `cudarc` 0.19 calls them, over one [`Machine`].
//!
//! Device work is done when the function that queues it returns, in the order of the calls. That is one of the orders that
//! a GPU could choose; what a program forgets to order between streams is found all the same, since it is not the time
//! that decides but what is known to be done (`order`). Towards the host, copies are as late as they may be
//! (`host`). A launch that breaks a rule returns an error, prints what was broken to stderr, and, as on a GPU, leaves the
//! context failed: every later call returns the same error until `cairnEmulatorReset`.
//!
//! | module | what it holds |
//! |---|---|
//! | `device`, `module` | the device and its limits, loaded code |
//! | `memory`, `host` | device memory, pinned memory, copies |
//! | `launch` | what a stream does |
//! | `stream`, `order` | streams, events, and what is ordered before what |
//! | `capture`, `graph` | captures and graphs |
//! | `report` | the functions below |
//!
//! Beside the driver's functions the library exports (all `extern "C"`, texts in UTF-8):
//!
//! | function | what it does |
//! |---|---|
//! | `size_t cairnEmulatorProfileJson(char* out, size_t room)` | writes the [profile](crate::profile) as JSON, gives its length without the final 0 |
//! | `void cairnEmulatorProfileReset()` | forgets all counts |
//! | `size_t cairnEmulatorLastError(char* out, size_t room)` | writes the last error in full, gives its length |
//! | `void cairnEmulatorReset()` | clears a failed context |
//! | `void cairnEmulatorSetSeed(uint64_t seed)` | permutes the order of blocks and warps of later launches; 0 keeps it |
//! | `int cairnEmulatorForget(CUdeviceptr p, size_t bytes)` | counts a range as never written: for arenas that hand memory out anew |
//!
//! The environment: that of [`Options::from_environment`].

mod capture;
mod device;
mod graph;
mod host;
mod launch;
mod memory;
mod module;
mod order;
mod report;
mod stream;

use crate::decode::Kernel;
use crate::{Error, Machine, Module, Options};
use capture::Capture;
use graph::{Executable, Graph};
use host::Pinned;
use launch::Operation;
use order::{Clock, Order};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Instant;

/// `CUresult`.
type Code = i32;
const SUCCESS: Code = 0;
const INVALID_VALUE: Code = 1;
const OUT_OF_MEMORY: Code = 2;
const INVALID_DEVICE: Code = 101;
const INVALID_IMAGE: Code = 200;
const NO_BINARY_FOR_GPU: Code = 209;
const INVALID_PTX: Code = 218;
const FILE_NOT_FOUND: Code = 301;
const INVALID_HANDLE: Code = 400;
const ILLEGAL_STATE: Code = 401;
const NOT_FOUND: Code = 500;
const NOT_READY: Code = 600;
const ILLEGAL_ADDRESS: Code = 700;
const MISALIGNED_ADDRESS: Code = 716;
const LAUNCH_FAILED: Code = 719;
const NOT_SUPPORTED: Code = 801;
const CAPTURE_UNSUPPORTED: Code = 900;
const CAPTURE_INVALIDATED: Code = 901;
const CAPTURE_MERGE: Code = 902;
const CAPTURE_UNMATCHED: Code = 903;
const CAPTURE_UNJOINED: Code = 904;
const CAPTURE_ISOLATION: Code = 905;
const CAPTURE_IMPLICIT: Code = 906;
const CAPTURED_EVENT: Code = 907;
const CAPTURE_WRONG_THREAD: Code = 908;

/// A kernel behind a `CUfunction`.
#[derive(Clone)]
struct Function {
    kernel: Arc<Kernel>,
    /// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`.
    dynamic_limit: usize,
}

/// An event: when it was recorded and after what; in a capture, after which of its nodes.
#[derive(Clone, Default)]
struct Event {
    recorded: Option<Instant>,
    clock: Clock,
    capture: Option<(usize, Vec<usize>)>,
    without_time: bool,
    /// Whether somebody has asked for it since it was recorded.
    is_asked: bool,
}

/// Everything behind the driver's handles, which are numbers.
struct State {
    machine: Machine,
    modules: HashMap<usize, Module>,
    functions: HashMap<usize, Function>,
    /// Per module and name, so that a function asked for twice is one.
    named: HashMap<(usize, String), usize>,
    order: Order,
    events: HashMap<usize, Event>,
    captures: HashMap<usize, Capture>,
    graphs: HashMap<usize, Graph>,
    executables: HashMap<usize, Executable>,
    pinned: Pinned,
    next: usize,
    /// The error that has made the context fail.
    failed: Code,
    last_error: String,
    capability: i32,
}

impl State {
    fn new() -> Self {
        let options = Options::from_environment().unwrap_or_else(|error| {
            eprintln!("cairn emulator: {error}; the defaults are taken");
            Options::default()
        });
        let capability = options.capability as i32;
        State {
            machine: Machine::new(options),
            modules: HashMap::new(),
            functions: HashMap::new(),
            named: HashMap::new(),
            order: Order::new(),
            events: HashMap::new(),
            captures: HashMap::new(),
            graphs: HashMap::new(),
            executables: HashMap::new(),
            pinned: Pinned::default(),
            next: 0x1000,
            failed: SUCCESS,
            last_error: String::new(),
            capability,
        }
    }

    /// A new handle. Handles look like pointers, so they are never 0 and lie apart.
    fn handle(&mut self) -> usize {
        self.next += 16;
        self.next
    }

    /// Notes an error, prints it and gives its code.
    fn fail(&mut self, code: Code, error: &Error) -> Code {
        self.last_error = error.to_string();
        eprintln!("cairn emulator: {}", self.last_error);
        code
    }
}

fn state() -> MutexGuard<'static, State> {
    static STATE: OnceLock<Mutex<State>> = OnceLock::new();
    let mutex = STATE.get_or_init(|| Mutex::new(State::new()));
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Writes a result where the caller wants it.
///
/// # Safety
/// `to` is null or may be written.
unsafe fn put<T>(to: *mut T, value: T) -> Code {
    if to.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: the caller's promise.
    unsafe { to.write(value) };
    SUCCESS
}

/// Copies text with a final 0 into `room` bytes and gives its length.
///
/// # Safety
/// `to` is null or `room` bytes may be written there.
unsafe fn put_text(to: *mut u8, room: usize, text: &str) -> usize {
    if !to.is_null() && room > 0 {
        let length = text.len().min(room - 1);
        // SAFETY: the caller's promise; `length` + 1 bytes fit.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr(), to, length);
            to.add(length).write(0);
        }
    }
    text.len()
}

/// Declares driver functions: name, arguments, body.
macro_rules! api {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $kind:ty),* $(,)?) $body:block)*) => { $(
        $(#[$doc])*
        #[allow(unused_unsafe, clippy::macro_metavars_in_unsafe)] // some bodies touch no pointer
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($arg: $kind),*) -> $crate::driver::Code {
            // SAFETY: callers of the driver pass handles it gave them and pointers as its manual demands.
            unsafe { $body }
        }
    )* };
}
use api;
