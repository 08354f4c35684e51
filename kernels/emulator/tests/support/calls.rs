//! The driver's functions on buffers of one size, with results that can be compared.

use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{CudaContext, result};
use std::ffi::{CString, c_void};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

const SOURCE: &str = r#"
extern "C" __global__ void scale(const float* x, float factor, float* y) {
    y[threadIdx.x] = x[threadIdx.x] * factor;
}
"#;

/// Values of a buffer.
pub const COUNT: usize = 64;
pub const BYTES: usize = 4 * COUNT;

pub type Status = Result<(), CUresult>;

/// The context, made anew where an earlier test has left it failed. One driver serves the process: tests take turns.
pub struct Driver {
    _turn: MutexGuard<'static, ()>,
    _context: Arc<CudaContext>,
    pub scale: sys::CUfunction,
}

pub fn driver() -> Driver {
    static TURN: Mutex<()> = Mutex::new(());
    static LOADED: OnceLock<libloading::Library> = OnceLock::new();
    let turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let library = LOADED.get_or_init(|| {
        // SAFETY: the emulator has no initialisers.
        unsafe { libloading::Library::new(super::emulator_library()) }.unwrap()
    });
    // SAFETY: asks whether the library can be loaded.
    assert!(unsafe { sys::is_culib_present() });
    let context = CudaContext::new(0).unwrap();
    context.bind_to_thread().unwrap();
    // SAFETY: the type is the one that the emulator documents; the PTX ends in 0.
    let scale = unsafe {
        library
            .get::<unsafe extern "C" fn()>(b"cairnEmulatorReset")
            .unwrap()();
        let ptx = CString::new(super::compile(SOURCE, &[])).unwrap();
        let module = result::module::load_data(ptx.as_ptr().cast()).unwrap();
        result::module::get_function(module, CString::new("scale").unwrap()).unwrap()
    };
    Driver {
        _turn: turn,
        _context: context,
        scale,
    }
}

pub fn stream() -> sys::CUstream {
    result::stream::create(result::stream::StreamKind::NonBlocking).unwrap()
}

pub fn event() -> sys::CUevent {
    result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).unwrap()
}

/// Memory that any stream may use.
pub fn memory() -> u64 {
    // SAFETY: a plain allocation.
    unsafe { result::malloc_sync(BYTES) }.unwrap()
}

/// A pinned buffer of `COUNT` values.
pub fn pinned(value: f32) -> &'static mut [f32] {
    // SAFETY: the block has room for that many and is never freed.
    unsafe {
        let base = result::malloc_host(BYTES, 0).unwrap().cast::<f32>();
        (0..COUNT).for_each(|at| base.add(at).write(value));
        std::slice::from_raw_parts_mut(base, COUNT)
    }
}

pub fn status(code: CUresult) -> Status {
    match code {
        CUresult::CUDA_SUCCESS => Ok(()),
        other => Err(other),
    }
}

pub fn upload(to: u64, from: &[f32], stream: sys::CUstream) -> Status {
    // SAFETY: both sides have `BYTES` bytes.
    status(unsafe { sys::cuMemcpyHtoDAsync_v2(to, from.as_ptr().cast(), BYTES, stream) })
}

pub fn download(to: &mut [f32], from: u64, stream: sys::CUstream) -> Status {
    // SAFETY: both sides have `BYTES` bytes.
    status(unsafe { sys::cuMemcpyDtoHAsync_v2(to.as_mut_ptr().cast(), from, BYTES, stream) })
}

pub fn record(event: sys::CUevent, stream: sys::CUstream) -> Status {
    // SAFETY: both are alive.
    status(unsafe { sys::cuEventRecord(event, stream) })
}

pub fn wait(stream: sys::CUstream, event: sys::CUevent) -> Status {
    // SAFETY: both are alive.
    status(unsafe { sys::cuStreamWaitEvent(stream, event, 0) })
}

pub fn synchronize(stream: sys::CUstream) -> Status {
    // SAFETY: it is alive.
    status(unsafe { sys::cuStreamSynchronize(stream) })
}

/// What the emulator says about the last error.
pub fn said() -> String {
    let text = CUresult::CUDA_ERROR_LAUNCH_FAILED;
    result::DriverError(text)
        .error_string()
        .unwrap()
        .to_string_lossy()
        .into_owned()
}

impl Driver {
    pub fn scale(&self, x: u64, mut factor: f32, y: u64, stream: sys::CUstream) -> Status {
        let (mut x, mut y) = (x, y);
        let mut params = [
            (&raw mut x).cast::<c_void>(),
            (&raw mut factor).cast(),
            (&raw mut y).cast(),
        ];
        // SAFETY: the arguments are the kernel's.
        let launched = unsafe {
            result::launch_kernel(
                self.scale,
                (1, 1, 1),
                (COUNT as u32, 1, 1),
                0,
                stream,
                &mut params,
            )
        };
        launched.map_err(|e| e.0)
    }
}
