//! Compiling a kernel file with NVRTC.

use super::{FILES, HEADERS, Kernels, cache};
use crate::device::Precision;
use cudarc::nvrtc::sys as nvrtc;
use std::ffi::{CStr, CString, c_char};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Flags of every compilation. Line numbers serve the emulator's and the profiler's reports and cost nothing.
const OPTIONS: [&str; 3] = [
    "--std=c++17",
    "--generate-line-info",
    "--device-as-default-execution-space",
];

/// What the code is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Machine code of exactly this compute capability (major · 10 + minor).
    Machine(u32),
    /// PTX of this compute capability, for the emulator and for GPUs newer than the compiler.
    Ptx(u32),
}

impl Target {
    fn option(self) -> String {
        match self {
            Target::Machine(capability) => format!("--gpu-architecture=sm_{capability}"),
            Target::Ptx(capability) => format!("--gpu-architecture=compute_{capability}"),
        }
    }
}

/// Version of NVRTC, which must be loaded.
pub fn version() -> (i32, i32) {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: writes two integers.
    unsafe { nvrtc::nvrtcVersion(&mut major, &mut minor) };
    (major, minor)
}

/// Compute capabilities that NVRTC, which must be loaded, compiles for.
pub fn capabilities() -> Vec<u32> {
    let mut count = 0;
    // SAFETY: writes one integer.
    unsafe { nvrtc::nvrtcGetNumSupportedArchs(&mut count) };
    let mut list = vec![0i32; count.max(0) as usize];
    // SAFETY: writes as many integers as it has just said.
    unsafe { nvrtc::nvrtcGetSupportedArchs(list.as_mut_ptr()) };
    list.into_iter().map(|c| c as u32).collect()
}

/// The flag that tells kernels in which precision they multiply; see `kernels/common.cuh`.
fn flag(precision: Precision) -> Option<&'static str> {
    match precision {
        Precision::F32 => None,
        Precision::Bf16 => Some("--define-macro=PRODUCTS_BF16"),
        Precision::F16 => Some("--define-macro=PRODUCTS_F16"),
    }
}

/// The flags of a compilation.
fn options(precision: Precision, target: Target) -> Vec<String> {
    let options = OPTIONS.into_iter().chain(flag(precision));
    let mut options: Vec<String> = options.map(String::from).collect();
    options.push(target.option());
    options
}

/// Code of `kernels` with products in `precision` for `target`, from the cache or the compiler. PTX ends in a zero byte, as
/// the driver wants it. A file that the cache lacks is taken for a sign that it lacks most: machine code of all is made side
/// by side then.
///
/// # Errors
/// What NVRTC says.
pub fn image(kernels: &Kernels, precision: Precision, target: Target) -> Result<Vec<u8>, String> {
    let options = options(precision, target);
    let entry = cache::Entry::new(kernels.name, &key(kernels, &options));
    if let Some(image) = entry.read() {
        return Ok(image);
    }
    if matches!(target, Target::Machine(_)) && entry.is_kept() {
        fill_cache(precision, target);
        if let Some(image) = entry.read() {
            return Ok(image);
        }
    }
    let image = compile(kernels, &options, target)?;
    entry.write(&image);
    Ok(image)
}

/// Compiles all files that depend on `precision` and that the cache lacks. Faults show when a file is needed. The threads
/// are its own: those of the pool might take up work that waits for this.
fn fill_cache(precision: Precision, target: Target) {
    let options = options(precision, target);
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(kernels) = FILES.get(next.fetch_add(1, Ordering::Relaxed)) {
            let entry = cache::Entry::new(kernels.name, &key(kernels, &options));
            let is_wanted = precision == Precision::F32 || kernels.multiplies();
            if is_wanted && entry.read().is_none() {
                let _ = compile(kernels, &options, target).map(|image| entry.write(&image));
            }
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        (0..threads).for_each(|_| drop(scope.spawn(work)));
    });
}

fn compile(kernels: &Kernels, options: &[String], target: Target) -> Result<Vec<u8>, String> {
    let program = Program::new(kernels)?;
    program.compile(options)?;
    match target {
        Target::Machine(_) => program.output(
            nvrtc::nvrtcGetCUBINSize,
            nvrtc::nvrtcGetCUBIN,
            "machine code",
        ),
        Target::Ptx(_) => program.output(nvrtc::nvrtcGetPTXSize, nvrtc::nvrtcGetPTX, "PTX"),
    }
}

/// What the assembler says about the machine code of `kernels` with products in `precision`: registers, spills and shared memory of each.
///
/// # Errors
/// What NVRTC says.
pub fn assembler_log(
    kernels: &Kernels,
    precision: Precision,
    capability: u32,
) -> Result<String, String> {
    let mut options = options(precision, Target::Machine(capability));
    let entry = cache::Entry::new(&format!("{}.ptxas", kernels.name), &key(kernels, &options));
    if let Some(log) = entry.read().and_then(|log| String::from_utf8(log).ok()) {
        return Ok(log);
    }
    let program = Program::new(kernels)?;
    options.push("--ptxas-options=-v".into());
    program.compile(&options)?;
    let log = program.log();
    entry.write(log.as_bytes());
    Ok(log)
}

/// Everything that decides the code.
fn key(kernels: &Kernels, options: &[String]) -> Vec<String> {
    let (major, minor) = version();
    let compiler = format!("nvrtc {major}.{minor} {}", options.join(" "));
    let mut parts = vec![kernels.source.to_string(), compiler];
    parts.extend(HEADERS.iter().map(|(_, text)| text.to_string()));
    parts
}

fn text(words: &str) -> CString {
    CString::new(words).expect("sources and options hold no zero byte")
}

type SizeOf = unsafe fn(nvrtc::nvrtcProgram, *mut usize) -> nvrtc::nvrtcResult;
type ReadInto = unsafe fn(nvrtc::nvrtcProgram, *mut c_char) -> nvrtc::nvrtcResult;

/// A program of NVRTC, destroyed when dropped.
struct Program(nvrtc::nvrtcProgram);

impl Program {
    fn new(kernels: &Kernels) -> Result<Program, String> {
        let (source, name) = (text(kernels.source), text(&format!("{}.cu", kernels.name)));
        let headers = HEADERS.map(|(_, header)| text(header));
        let mut program = std::ptr::null_mut();
        // SAFETY: every pointer is to a string that outlives the call; NVRTC copies them.
        let result = unsafe {
            nvrtc::nvrtcCreateProgram(
                &mut program,
                source.as_ptr(),
                name.as_ptr(),
                HEADERS.len() as i32,
                headers.each_ref().map(|h| h.as_ptr()).as_ptr(),
                HEADERS.map(|(name, _)| name.as_ptr()).as_ptr(),
            )
        };
        check(result, "creating a program")?;
        Ok(Program(program))
    }

    fn compile(&self, options: &[String]) -> Result<(), String> {
        let options: Vec<CString> = options.iter().map(|o| text(o)).collect();
        let pointers: Vec<*const c_char> = options.iter().map(|o| o.as_ptr()).collect();
        // SAFETY: the program is alive and the option strings outlive the call.
        let result =
            unsafe { nvrtc::nvrtcCompileProgram(self.0, pointers.len() as i32, pointers.as_ptr()) };
        check(result, "compiling").map_err(|fault| format!("{fault}\n{}", self.log()))
    }

    /// What the compiler had to say; empty where it cannot be read.
    fn log(&self) -> String {
        let log = self.output(
            nvrtc::nvrtcGetProgramLogSize,
            nvrtc::nvrtcGetProgramLog,
            "log",
        );
        let log = log.unwrap_or_default();
        let log = CStr::from_bytes_until_nul(&log).unwrap_or_default();
        log.to_string_lossy().trim_end().to_string()
    }

    fn output(&self, size_of: SizeOf, read: ReadInto, what: &str) -> Result<Vec<u8>, String> {
        let mut size = 0;
        // SAFETY: the program is alive; one integer is written.
        check(unsafe { size_of(self.0, &mut size) }, what)?;
        let mut bytes = vec![0u8; size];
        // SAFETY: the buffer has the size that NVRTC has just asked for.
        check(unsafe { read(self.0, bytes.as_mut_ptr().cast()) }, what)?;
        Ok(bytes)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: created in `new` and destroyed once.
        unsafe { nvrtc::nvrtcDestroyProgram(&mut self.0) };
    }
}

fn check(result: nvrtc::nvrtcResult, what: &str) -> Result<(), String> {
    match result {
        nvrtc::nvrtcResult::NVRTC_SUCCESS => Ok(()),
        other => Err(format!("NVRTC: {what}: {other:?}")),
    }
}
