//! Finding and loading the driver, NVRTC and the emulator.
//!
//! cudarc opens libraries by name and panics when there is none. So libraries are looked for first, and what lies
//! outside the system's paths is loaded by its absolute path: opening it again by name then finds it in the process.

use libloading::Library;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

/// File names of NVRTC that cudarc asks for.
const NVRTC: [&str; 3] = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"];

/// Loads NVRTC once per process and gives its file; there is none where the system's loader found it by name. Errors
/// say where it was looked for and how to get it.
pub fn nvrtc() -> Result<Option<PathBuf>, String> {
    static FOUND: OnceLock<Result<Option<PathBuf>, String>> = OnceLock::new();
    FOUND.get_or_init(load_nvrtc).clone()
}

fn load_nvrtc() -> Result<Option<PathBuf>, String> {
    for folder in nvrtc_folders() {
        let Some(file) = NVRTC
            .iter()
            .map(|name| folder.join(name))
            .find(|f| f.is_file())
        else {
            continue;
        };
        // NVRTC opens its built-in headers by name, so they have to be in the process before.
        for builtins in matching(&folder, "libnvrtc-builtins.so") {
            keep_loaded(&builtins)?;
        }
        keep_loaded(&file)?;
        return Ok(Some(file));
    }
    // SAFETY: opens a library by name and closes it again; NVRTC's initialisers have no precondition.
    if unsafe { cudarc::nvrtc::sys::is_culib_present() } {
        return Ok(None);
    }
    Err(
        "NVRTC, the compiler of its kernels, was not found beside the program, in CUDA_HOME, in Python's packages or \
         on the system; get it with `pip install nvidia-cuda-nvrtc`, or name its folder in CAIRN_NVRTC"
            .into(),
    )
}

/// Loads a library for the rest of the process.
fn keep_loaded(file: &Path) -> Result<(), String> {
    // SAFETY: NVIDIA's libraries and the emulator may be initialised on any thread at any time.
    match unsafe { Library::new(file) } {
        Ok(library) => {
            std::mem::forget(library);
            Ok(())
        }
        Err(error) => Err(format!("{} cannot be loaded: {error}", file.display())),
    }
}

/// Where NVRTC may lie, in order of preference; the system's own paths come after all of these.
pub fn nvrtc_folders() -> Vec<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let mut folders: Vec<PathBuf> = variable("CAIRN_NVRTC").into_iter().collect();
    for folder in program_folders() {
        // What `kernels/fetch-nvrtc` leaves in the folder that Cargo builds in.
        folders.push(folder.join("nvrtc/nvidia/cu13/lib"));
        folders.push(folder);
    }
    for home in ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(variable) {
        folders.extend(["lib64", "lib"].map(|lib| home.join(lib)));
    }
    for packages in python_packages() {
        folders.push(packages.join("nvidia/cu13/lib"));
        folders.push(packages.join("nvidia/cuda_nvrtc/lib"));
    }
    folders.push("/usr/local/cuda/lib64".into());
    folders
}

/// The folder of the program and its parents: a test of this project runs up to two folders below that of Cargo.
fn program_folders() -> Vec<PathBuf> {
    let Ok(program) = std::env::current_exe() else {
        return Vec::new();
    };
    program
        .ancestors()
        .skip(1)
        .take(3)
        .map(Path::to_path_buf)
        .collect()
}

/// Package folders of the active Python: its virtual environment, else the interpreters on the path, and the user's.
fn python_packages() -> Vec<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let mut roots: Vec<PathBuf> = ["VIRTUAL_ENV", "CONDA_PREFIX"]
        .into_iter()
        .filter_map(variable)
        .collect();
    let path = std::env::var_os("PATH").unwrap_or_default();
    for folder in std::env::split_paths(&path) {
        let python = folder.join("python3").canonicalize();
        roots.extend(python.ok().and_then(|p| Some(p.parent()?.parent()?.into())));
    }
    roots.extend(variable("HOME").map(|home| home.join(".local")));
    let mut found = Vec::new();
    for root in roots {
        for version in matching(&root.join("lib"), "python3") {
            found.extend(["site-packages", "dist-packages"].map(|name| version.join(name)));
        }
    }
    found
}

/// Entries of `folder` whose name starts with `prefix`, sorted.
fn matching(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let starts = |name: &OsStr| name.to_str().is_some_and(|n| n.starts_with(prefix));
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut found: Vec<PathBuf> = entries
        .filter_map(|e| e.ok().filter(|e| starts(&e.file_name())).map(|e| e.path()))
        .collect();
    found.sort();
    found
}

/// What answers driver calls in this process. Both carry the same name, so it is one or the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Driver {
    Real,
    Emulator,
}

/// What is wrong on a machine without a driver.
pub const NO_DRIVER: &str = "there is no NVIDIA driver";

/// Which of them this process has loaded. A search that failed leaves the way open for the other.
static DRIVER: Mutex<Option<Driver>> = Mutex::new(None);

fn claim(wanted: Driver, load: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    let mut driver = DRIVER.lock().unwrap_or_else(|e| e.into_inner());
    match *driver {
        Some(loaded) if loaded == wanted => Ok(()),
        Some(Driver::Emulator) => Err("this process already runs on the emulator".into()),
        Some(Driver::Real) => Err("this process already uses the NVIDIA driver".into()),
        None => {
            load()?;
            *driver = Some(wanted);
            Ok(())
        }
    }
}

/// Makes the real driver answer.
pub fn driver() -> Result<(), String> {
    claim(Driver::Real, || {
        // SAFETY: opens a library by name and closes it again; the driver's initialisers have no precondition.
        match unsafe { cudarc::driver::sys::is_culib_present() } {
            true => Ok(()),
            false => Err(NO_DRIVER.into()),
        }
    })
}

/// Makes the emulator answer.
pub fn emulator() -> Result<(), String> {
    claim(Driver::Emulator, load_emulator)
}

type Write = unsafe extern "C" fn(*mut u8, usize) -> usize;
type Reset = unsafe extern "C" fn();

/// What the emulator counted since the last call, as the JSON that its `profile` module describes.
pub fn take_counts() -> Result<String, String> {
    emulator()?;
    let missing = |e: libloading::Error| format!("an emulator of another version: {e}");
    // SAFETY: the library is the emulator, which is loaded, and these are the types of its functions; the text is
    // written into a buffer of the size that was just asked for.
    unsafe {
        let library = cudarc::driver::sys::culib();
        let write = library.get::<Write>(b"cairnEmulatorProfileJson\0");
        let reset = library.get::<Reset>(b"cairnEmulatorProfileReset\0");
        let (write, reset) = (write.map_err(missing)?, reset.map_err(missing)?);
        let length = write(std::ptr::null_mut(), 0);
        let mut text = vec![0u8; length + 1];
        write(text.as_mut_ptr(), text.len());
        reset();
        text.truncate(length);
        String::from_utf8(text).map_err(|e| e.to_string())
    }
}

/// Whether the driver that is loaded has what graphs are built, changed and launched with; cudarc panics where it has not.
pub fn has_graphs() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    let names: [&[u8]; 9] = [
        b"cuGraphCreate\0",
        b"cuGraphAddKernelNode_v2\0",
        b"cuGraphAddMemsetNode\0",
        b"cuGraphInstantiateWithFlags\0",
        b"cuGraphExecKernelNodeSetParams_v2\0",
        b"cuGraphExecMemsetNodeSetParams\0",
        b"cuGraphLaunch\0",
        b"cuGraphExecDestroy\0",
        b"cuGraphDestroy\0",
    ];
    *FOUND.get_or_init(|| {
        // SAFETY: whoever has an open GPU has loaded a driver; addresses are looked up, nothing is called.
        let has = |name| unsafe { cudarc::driver::sys::culib().get::<*const ()>(name) }.is_ok();
        names.into_iter().all(has)
    })
}

fn load_emulator() -> Result<(), String> {
    let file = emulator_file()?;
    keep_loaded(&file)?;
    // SAFETY: only loads; the address of a symbol is compared, nothing is called.
    let same = unsafe {
        let open = |library: &Library| library.get::<*const ()>(b"cuInit\0").map(|s| *s).ok();
        let ours = Library::new(&file).ok().and_then(|library| open(&library));
        cudarc::driver::sys::is_culib_present() && open(cudarc::driver::sys::culib()) == ours
    };
    if same {
        return Ok(());
    }
    Err(format!(
        "{} does not stand in for the driver library; a driver library on the system comes before it",
        file.display()
    ))
}

/// Where the emulator lies, or how to get it.
pub fn emulator_file() -> Result<PathBuf, String> {
    if let Some(named) = std::env::var_os("CAIRN_EMULATOR").map(PathBuf::from) {
        return match named.is_file() {
            true => Ok(named),
            false => Err(format!("{} (CAIRN_EMULATOR) is not there", named.display())),
        };
    }
    let mut folders = program_folders();
    // A release build of the emulator is many times faster than one without optimisation.
    let release = folders
        .iter()
        .filter_map(|f| Some(f.parent()?.join("release")));
    folders.extend(release.collect::<Vec<_>>());
    folders
        .iter()
        .map(|folder| folder.join("libcairn_emulator.so"))
        .find(|file| file.is_file())
        .ok_or_else(|| {
            "the emulator was not found beside the program; build it with `cargo build --release -p cairn-emulator`, or \
             name its library in CAIRN_EMULATOR"
                .into()
        })
}
