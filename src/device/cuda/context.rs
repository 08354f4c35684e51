//! An open GPU.

use super::compile::{self, Target};
use super::lane;
use super::probe::{capability, usable};
use super::replay::Step;
use super::staging::{Readback, Staging};
use super::{Arg, Code, Gpu, Grid, Kernels, block, library, signature};
use crate::Result;
use crate::device::Precision;
use cudarc::driver::result::{self, DriverError, stream::StreamKind};
use cudarc::driver::{CudaContext, sys};
use std::collections::HashMap;
use std::ffi::CString;
use std::sync::{Arc, Mutex};

/// What compiled code is kept by.
type Key = (*const Kernels, Precision);

/// An open GPU: one context, the main stream, and a stream for uploads.
#[derive(Debug)]
pub struct Cuda {
    gpu: Gpu,
    context: Arc<CudaContext>,
    main: sys::CUstream,
    copies: sys::CUstream,
    staging: Mutex<Staging>,
    readback: Mutex<Readback>,
    between: Mutex<Event>,
    target: Target,
    capability: u32,
    functions: Mutex<HashMap<(Key, String), Arc<Function>>>,
    modules: Mutex<HashMap<Key, (Code, sys::CUmodule)>>,
}

/// A kernel that is loaded.
#[derive(Debug)]
struct Function {
    handle: sys::CUfunction,
    /// What it takes.
    declared: Vec<signature::Kind>,
    /// What to call it in an error.
    name: String,
}

// SAFETY: the handle of a function may be used from any thread once its context is current.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

fn full_name(kernels: &Kernels, kernel: &str) -> String {
    format!("kernel {kernel} ({}.cu)", kernels.name)
}

/// An event that orders streams.
#[derive(Debug)]
pub(super) struct Event(pub sys::CUevent);

// SAFETY: an event may be used from any thread once its context is current.
unsafe impl Send for Event {}

// SAFETY: the handles are the driver's, which may be used from any thread once the context is current there; every
// method makes it so first. The pointers to `Kernels` are keys and never followed.
unsafe impl Send for Cuda {}
// SAFETY: as above; the maps are behind locks.
unsafe impl Sync for Cuda {}

impl Code {
    fn key(self) -> Key {
        (std::ptr::from_ref(self.kernels), self.precision)
    }
}

impl Cuda {
    pub(super) fn open(gpu: Gpu) -> Result<&'static Cuda> {
        Cuda::opened(gpu).map_err(|fault| gpu.error(fault))
    }

    /// As [`Cuda::open`], with an error of half a sentence.
    pub(super) fn opened(gpu: Gpu) -> Result<&'static Cuda, String> {
        // Never closed: memory of statics may outlive any owner, and a process uses few GPUs.
        static OPEN: Mutex<Vec<&'static Cuda>> = Mutex::new(Vec::new());
        let mut open = OPEN.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(cuda) = open.iter().find(|c| c.gpu == gpu) {
            return Ok(cuda);
        }
        let cuda: &'static Cuda = Box::leak(Box::new(Cuda::new(gpu)?));
        open.push(cuda);
        Ok(cuda)
    }

    fn new(gpu: Gpu) -> Result<Cuda, String> {
        match gpu {
            Gpu::Card(_) => library::driver(),
            Gpu::Emulator => library::emulator(),
        }?;
        library::nvrtc()?;
        let context = usable(gpu)?;
        let capability = capability(&context).map_err(|e| e.to_string())?;
        let known = compile::capabilities();
        let target = match gpu {
            Gpu::Card(_) if known.contains(&capability) => Target::Machine(capability),
            _ => {
                let newest = known.iter().filter(|c| **c <= capability).max();
                Target::Ptx(*newest.ok_or("NVRTC compiles for newer GPUs only")?)
            }
        };
        context.bind_to_thread().map_err(|e| e.to_string())?;
        let text = |e: DriverError| e.to_string();
        block::keep_freed_memory(&context).map_err(text)?;
        let stream = || result::stream::create(StreamKind::NonBlocking).map_err(text);
        Ok(Cuda {
            gpu,
            context,
            main: stream()?,
            copies: stream()?,
            staging: Mutex::new(Staging::new().map_err(text)?),
            readback: Mutex::default(),
            between: Mutex::new(Event(lane::event().map_err(text)?)),
            target,
            capability,
            functions: Mutex::default(),
            modules: Mutex::default(),
        })
    }

    /// Compute capability, as major · 10 + minor: which instructions there are.
    pub fn capability(&self) -> u32 {
        self.capability
    }

    /// What may slow copies down, as half a sentence.
    pub fn note(&self) -> Option<&'static str> {
        let staging = self.staging.lock().unwrap_or_else(|e| e.into_inner());
        let note = "the driver gives no pinned memory, so copies make the processor wait";
        (!staging.is_pinned()).then_some(note)
    }

    pub(super) fn gpu(&self) -> Gpu {
        self.gpu
    }

    /// The stream that this thread works in: its lane's, or the main one.
    pub(super) fn stream(&self) -> sys::CUstream {
        lane::current(self).map_or(self.main, |lane| lane.stream)
    }

    pub(super) fn main(&self) -> sys::CUstream {
        self.main
    }

    /// The stream of uploads.
    pub(super) fn copies(&self) -> sys::CUstream {
        self.copies
    }

    pub(super) fn staging(&self) -> &Mutex<Staging> {
        &self.staging
    }

    /// Where readbacks of the main stream arrive.
    pub(super) fn readback(&self) -> &Mutex<Readback> {
        &self.readback
    }

    /// The event that orders streams.
    pub(super) fn between(&self) -> &Mutex<Event> {
        &self.between
    }

    /// What the GPU is called.
    ///
    /// # Errors
    /// What the driver says.
    pub fn name(&self) -> Result<String> {
        let name = self.context.name();
        name.map_err(|e| self.failed("asking for its name", e))
    }

    pub(super) fn cudarc(&self) -> &CudaContext {
        &self.context
    }

    pub(super) fn context(&self) -> sys::CUcontext {
        self.context.cu_ctx()
    }

    pub(super) fn has_async_alloc(&self) -> bool {
        self.context.has_async_alloc()
    }

    /// Makes `stream` wait for `event`.
    pub(super) fn wait_event(
        &self,
        stream: sys::CUstream,
        event: sys::CUevent,
    ) -> Result<(), DriverError> {
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: streams and events are alive while they can be named.
        unsafe { result::stream::wait_event(stream, event, flags) }
    }

    pub(super) fn failed(&self, doing: &str, error: DriverError) -> crate::Error {
        self.gpu.error(format!("{doing}: {error}"))
    }

    pub(super) fn bind(&self) -> Result<()> {
        self.context
            .bind_to_thread()
            .map_err(|e| self.failed("choosing the context", e))
    }

    /// Queues `kernel` of a file. A grid without blocks runs nothing.
    ///
    /// # Errors
    /// What the compiler or the driver says, with the name of the kernel. A fault inside the kernel may show at a later
    /// call, since work is queued; on the emulator it shows here.
    ///
    /// # Panics
    /// When `args` do not fit the kernel's declaration.
    pub fn launch(
        &self,
        code: impl Into<Code>,
        kernel: &str,
        grid: Grid,
        args: &[Arg],
    ) -> Result<()> {
        let code = code.into();
        if grid.is_empty() {
            let declared = signature::parameters(code.kernels.source, kernel);
            signature::check(kernel, &declared, args);
            return Ok(());
        }
        self.bind()?;
        let function = self.function(code, kernel)?;
        signature::check(kernel, &function.declared, args);
        self.queue(Step::Launch {
            function: function.handle,
            grid,
            words: args.iter().map(|arg| arg.bits()).collect(),
        })
    }

    fn function(&self, code: Code, kernel: &str) -> Result<Arc<Function>> {
        let kernels = code.kernels;
        let key = (code.key(), kernel.to_string());
        let mut functions = self.functions.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(function) = functions.get(&key) {
            return Ok(function.clone());
        }
        let declared = signature::parameters(kernels.source, kernel);
        let module = self.module(code)?;
        let name = CString::new(kernel).expect("kernel names hold no zero byte");
        let failed = |e| self.failed(&full_name(kernels, kernel), e);
        // SAFETY: the module is loaded and never unloaded.
        let handle = unsafe { result::module::get_function(module, name) }.map_err(failed)?;
        self.allow_shared_memory(handle).map_err(failed)?;
        let name = full_name(kernels, kernel);
        let function = Arc::new(Function {
            handle,
            declared,
            name,
        });
        functions.insert(key, function.clone());
        Ok(function)
    }

    /// Name of a kernel.
    pub(super) fn kernel_of(&self, function: sys::CUfunction) -> String {
        let functions = self.functions.lock().unwrap_or_else(|e| e.into_inner());
        let named = functions.iter().find(|(_, f)| f.handle == function);
        named.map_or_else(String::new, |((_, kernel), _)| kernel.clone())
    }

    /// What to call a kernel in an error.
    pub(super) fn name_of(&self, function: sys::CUfunction) -> String {
        let functions = self.functions.lock().unwrap_or_else(|e| e.into_inner());
        let named = functions.values().find(|f| f.handle == function);
        named.map_or_else(|| "a kernel".into(), |function| function.name.clone())
    }

    /// Most bytes of shared memory that a block can have.
    ///
    /// # Errors
    /// What the driver says.
    pub fn shared_memory(&self) -> Result<usize> {
        use sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN as MOST;
        let most = self.context.attribute(MOST);
        let most = most.map_err(|e| self.failed("asking for its shared memory", e))?;
        Ok(most.max(0) as usize)
    }

    /// Lets a kernel use as much dynamic shared memory as the GPU has; without asking it gets 48 KiB at most.
    fn allow_shared_memory(&self, function: sys::CUfunction) -> Result<(), DriverError> {
        use sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN as MOST;
        use sys::CUfunction_attribute_enum as Function;
        let most = self.context.attribute(MOST)?;
        // SAFETY: the function is loaded in the current context.
        unsafe {
            let fixed = result::function::get_function_attribute(
                function,
                Function::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES,
            )?;
            result::function::set_function_attribute(
                function,
                Function::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                (most - fixed).max(0),
            )
        }
    }

    fn module(&self, code: Code) -> Result<sys::CUmodule> {
        let (key, kernels) = (code.key(), code.kernels);
        let mut modules = self.modules.lock().unwrap_or_else(|e| e.into_inner());
        if let Some((_, module)) = modules.get(&key) {
            return Ok(*module);
        }
        let name = kernels.name;
        let image = compile::image(kernels, code.precision, self.target)
            .map_err(|fault| self.gpu.error(format!("{name}.cu: {fault}")))?;
        // SAFETY: the image is machine code with its own length or PTX that ends in a zero byte.
        let module = unsafe { result::module::load_data(image.as_ptr().cast()) }
            .map_err(|e| self.failed(&format!("loading {name}.cu"), e))?;
        modules.insert(key, (code, module));
        Ok(module)
    }

    /// The kernel files of which something ran, by name.
    pub fn loaded(&self) -> Vec<&'static Kernels> {
        let modules = self.modules.lock().unwrap_or_else(|e| e.into_inner());
        let mut loaded: Vec<_> = modules.values().map(|(code, _)| code.kernels).collect();
        loaded.sort_by_key(|kernels| kernels.name);
        loaded.dedup_by_key(|kernels| kernels.name);
        loaded
    }

    /// Waits until everything that is queued in this thread's stream is done.
    ///
    /// # Errors
    /// A fault of any kernel that ran since the last call.
    pub fn synchronize(&self) -> Result<()> {
        self.flush()?;
        self.bind()?;
        // SAFETY: the stream is alive.
        unsafe { result::stream::synchronize(self.stream()) }
            .map_err(|e| self.failed("waiting for the GPU", e))
    }
}
