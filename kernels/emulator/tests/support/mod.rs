//! NVRTC for the tests: what is executed here is what the real compiler writes.

#![allow(dead_code)] // every test file uses its own part

pub mod calls;

use cairn_emulator::{Error, Machine, Module, Options, Violation, ViolationKind};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Loads NVRTC from `target/nvrtc`, where `kernels/fetch-nvrtc` puts it, so that it is found by name from then on.
fn load_nvrtc() {
    static LOADED: OnceLock<Vec<libloading::Library>> = OnceLock::new();
    LOADED.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/nvrtc/nvidia/cu13/lib");
        ["libnvrtc-builtins.so.13.0", "libnvrtc.so.13"]
            .map(|name| {
                // SAFETY: NVRTC's initialisers need nothing.
                let loaded = unsafe { libloading::Library::new(root.join(name)) };
                loaded.unwrap_or_else(|error| {
                    panic!("NVRTC is missing, run kernels/fetch-nvrtc first: {error}")
                })
            })
            .into()
    });
}

/// Compiles CUDA C++ to PTX with line information.
pub fn compile(source: &str, options: &[&str]) -> String {
    load_nvrtc();
    let architecture = if options
        .iter()
        .any(|option| option.starts_with("--gpu-architecture"))
    {
        vec![]
    } else {
        vec!["--gpu-architecture=compute_80"]
    };
    let options = architecture
        .into_iter()
        .chain(["--std=c++17", "--generate-line-info"])
        .chain(options.iter().copied());
    let options = cudarc::nvrtc::CompileOptions {
        options: options.map(String::from).collect(),
        ..Default::default()
    };
    match cudarc::nvrtc::compile_ptx_with_opts(source, options) {
        Ok(ptx) => ptx.to_src(),
        Err(error) => panic!("NVRTC: {error:?}"),
    }
}

/// The emulator as a shared library, beside this test.
pub fn emulator_library() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its path");
    let beside = test
        .parent()
        .expect("a file has a folder")
        .join("libcairn_emulator.so");
    assert!(
        beside.exists(),
        "the emulator library is missing at {}",
        beside.display()
    );
    beside
}

/// A machine with one module, and its buffers.
pub struct Bench {
    pub machine: Machine,
    pub module: Module,
}

/// An argument of a kernel.
pub enum Arg {
    U32(u32),
    F32(f32),
    U64(u64),
}

impl Bench {
    /// Compiles and loads.
    pub fn new(source: &str) -> Bench {
        Bench::with(source, &[], Options::default())
    }

    /// Compiles with options and loads into a machine of a kind.
    pub fn with(source: &str, flags: &[&str], options: Options) -> Bench {
        let mut machine = Machine::new(options);
        let module = machine
            .load(&compile(source, flags))
            .unwrap_or_else(|error| panic!("{error}"));
        Bench { machine, module }
    }

    /// A buffer with contents.
    pub fn upload<T: bytemuck::NoUninit>(&mut self, values: &[T]) -> u64 {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let address = self
            .machine
            .memory_mut()
            .allocate(bytes.len() as u64, "")
            .expect("there is room");
        self.machine.memory_mut().write(address, bytes).unwrap();
        address
    }

    /// A buffer nobody has written.
    pub fn reserve(&mut self, bytes: u64) -> u64 {
        self.machine
            .memory_mut()
            .allocate(bytes, "")
            .expect("there is room")
    }

    /// Contents of a buffer.
    pub fn download<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(
        &self,
        address: u64,
        count: usize,
    ) -> Vec<T> {
        let mut out = vec![T::zeroed(); count];
        self.machine
            .memory()
            .read(address, bytemuck::cast_slice_mut(&mut out))
            .unwrap();
        out
    }

    /// Launches a kernel in one dimension.
    pub fn launch(
        &mut self,
        kernel: &str,
        blocks: u32,
        threads: u32,
        args: &[Arg],
    ) -> Result<(), Error> {
        self.launch_with(kernel, [blocks, 1, 1], [threads, 1, 1], 0, args)
    }

    /// Launches a kernel.
    pub fn launch_with(
        &mut self,
        kernel: &str,
        grid: [u32; 3],
        block: [u32; 3],
        dynamic: usize,
        args: &[Arg],
    ) -> Result<(), Error> {
        let kernel = self.module.kernel(kernel).unwrap().clone();
        let mut params = vec![0; kernel.param_bytes()];
        assert_eq!(args.len(), kernel.params.len());
        for (arg, param) in args.iter().zip(&kernel.params) {
            let place = &mut params[param.offset..param.offset + param.bytes];
            match arg {
                Arg::U32(value) => place.copy_from_slice(&value.to_le_bytes()),
                Arg::F32(value) => place.copy_from_slice(&value.to_le_bytes()),
                Arg::U64(value) => place.copy_from_slice(&value.to_le_bytes()),
            }
        }
        self.machine.launch(&kernel, grid, block, dynamic, &params)
    }

    /// Launches a kernel that must break a rule, and gives what it broke.
    pub fn violations(
        &mut self,
        kernel: &str,
        blocks: u32,
        threads: u32,
        args: &[Arg],
    ) -> Vec<Violation> {
        match self.launch(kernel, blocks, threads, args) {
            Err(Error::Violations(violations)) => violations,
            other => panic!("{kernel}: no violation, but {other:?}"),
        }
    }

    /// Checks that a kernel breaks a rule of a kind.
    pub fn assert_caught(
        &mut self,
        kernel: &str,
        blocks: u32,
        threads: u32,
        args: &[Arg],
        kind: ViolationKind,
    ) -> Violation {
        let violations = self.violations(kernel, blocks, threads, args);
        let found = violations.iter().find(|violation| violation.kind == kind);
        found
            .unwrap_or_else(|| panic!("{kernel}: {kind} was not caught, but {violations:?}"))
            .clone()
    }
}
