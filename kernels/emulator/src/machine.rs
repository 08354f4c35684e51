//! A device: memory, loaded modules, launches.

use crate::Error;
use crate::decode::{Kernel, Symbol, Symbols, decode};
use crate::exec::{Launch, Touched, Workers, run};
use crate::lanes::tensor::TensorCores;
use crate::memory::Memory;
use crate::profile::Profile;
use crate::ptx::{Space, parse};
use std::collections::HashMap;
use std::sync::Arc;

/// How a [`Machine`] behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Bytes of device memory. Default 16 GiB; it takes room only where it is used.
    pub memory: u64,
    /// Worker threads. Default: all cores.
    pub threads: usize,
    /// Permutes the order of blocks and warps; 0 (default) keeps it.
    pub seed: u64,
    /// Warp instructions of a launch, per thread, after which it counts as endless. Default 2^36.
    pub instruction_limit: u64,
    /// Compute capability, which decides how tensor cores add: 80 (default) for 8.0.
    pub capability: u32,
}

impl Default for Options {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Options {
            memory: 16 << 30,
            threads,
            seed: 0,
            instruction_limit: 1 << 36,
            capability: 80,
        }
    }
}

impl Options {
    /// The defaults, changed by `CAIRN_EMULATOR_MEMORY`, `_THREADS`, `_SEED`, `_INSTRUCTION_LIMIT` and
    /// `_CC`.
    ///
    /// # Errors
    /// [`Error::Memory`] names a variable that is set and is no number.
    pub fn from_environment() -> Result<Self, Error> {
        let read = |name: &str, default: u64| match std::env::var(name) {
            Ok(text) => text
                .parse()
                .map_err(|_| Error::Memory(format!("{name} is `{text}`, which is no number"))),
            Err(_) => Ok(default),
        };
        let default = Options::default();
        Ok(Options {
            memory: read("CAIRN_EMULATOR_MEMORY", default.memory)?,
            threads: read("CAIRN_EMULATOR_THREADS", default.threads as u64)? as usize,
            seed: read("CAIRN_EMULATOR_SEED", default.seed)?,
            instruction_limit: read(
                "CAIRN_EMULATOR_INSTRUCTION_LIMIT",
                default.instruction_limit,
            )?,
            capability: read("CAIRN_EMULATOR_CC", default.capability.into())? as u32,
        })
    }
}

/// A loaded PTX file.
#[derive(Debug)]
pub struct Module {
    kernels: HashMap<String, Arc<Kernel>>,
    /// Address and size of each variable.
    variables: HashMap<String, (u64, u64)>,
}

impl Module {
    /// A kernel by its symbol.
    ///
    /// # Errors
    /// [`Error::Missing`].
    pub fn kernel(&self, name: &str) -> Result<&Arc<Kernel>, Error> {
        self.kernels
            .get(name)
            .ok_or_else(|| Error::Missing(name.into()))
    }

    /// Address and size in bytes of a variable in device memory.
    ///
    /// # Errors
    /// [`Error::Missing`].
    pub fn variable(&self, name: &str) -> Result<(u64, u64), Error> {
        self.variables
            .get(name)
            .copied()
            .ok_or_else(|| Error::Missing(name.into()))
    }

    /// All variables in device memory: address and size.
    pub fn variables(&self) -> impl Iterator<Item = (u64, u64)> {
        self.variables.values().copied()
    }
}

/// An emulated device.
pub struct Machine {
    memory: Memory,
    workers: Workers,
    profile: Profile,
    options: Options,
    touched: Vec<Touched>,
}

impl Machine {
    /// A device with empty memory.
    pub fn new(options: Options) -> Self {
        let (memory, workers) = (Memory::new(options.memory), Workers::new(options.threads));
        Machine {
            memory,
            workers,
            profile: Profile::default(),
            options,
            touched: Vec::new(),
        }
    }

    /// Device memory.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Device memory, to allocate and write.
    pub fn memory_mut(&mut self) -> &mut Memory {
        &mut self.memory
    }

    /// Frees an allocation.
    ///
    /// # Errors
    /// [`Error::Memory`] where `address` is not the start of a live one.
    pub fn free(&mut self, address: u64) -> Result<(), Error> {
        let number = self.memory.free(address)?;
        self.workers.forget(number);
        Ok(())
    }

    /// Changes the order of blocks and warps of later launches; 0 is the natural one.
    pub fn set_seed(&mut self, seed: u64) {
        self.options.seed = seed;
    }

    /// Exact counts of all launches since the last reset.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// The allocations that the last launch accessed.
    pub fn touched(&self) -> &[Touched] {
        &self.touched
    }

    /// Forgets all counts.
    pub fn reset_profile(&mut self) {
        self.profile = Profile::default();
    }

    /// Loads PTX text and places its variables.
    ///
    /// # Errors
    /// [`Error::Syntax`], or [`Error::Refused`] with the first instruction that is not implemented.
    pub fn load(&mut self, ptx: &str) -> Result<Module, Error> {
        let tree = parse(ptx)?;
        let mut symbols = Symbols::new();
        let mut variables = HashMap::new();
        for variable in &tree.variables {
            if variable.space == Space::Shared {
                symbols.insert(
                    variable.name.clone(),
                    Symbol::Shared {
                        bytes: variable.bytes,
                        align: variable.align,
                    },
                );
                continue;
            }
            let bytes = variable.bytes as u64;
            let full = || Error::Memory(format!("no room for the variable {}", variable.name));
            let address = self
                .memory
                .allocate(bytes, &variable.name)
                .ok_or_else(full)?;
            let mut contents = variable.init.clone();
            contents.resize(variable.bytes, 0);
            self.memory.write(address, &contents)?;
            symbols.insert(variable.name.clone(), Symbol::Device(address));
            variables.insert(variable.name.clone(), (address, bytes));
        }
        let mut kernels = HashMap::new();
        for entry in &tree.entries {
            kernels.insert(
                entry.name.clone(),
                Arc::new(decode(entry, &symbols, &tree.files)?),
            );
        }
        Ok(Module { kernels, variables })
    }

    /// Frees a module's variables.
    ///
    /// # Errors
    /// [`Error::Memory`] where one was freed before.
    pub fn unload(&mut self, module: &Module) -> Result<(), Error> {
        module
            .variables()
            .try_for_each(|(address, _)| self.free(address))
    }

    /// Runs a kernel to its end: blocks per direction, threads per direction, bytes of dynamic shared memory, and the
    /// parameter buffer in the kernel's layout.
    ///
    /// # Errors
    /// [`Error::Launch`] for sizes that do not fit, [`Error::Violations`] for every rule the kernel broke.
    pub fn launch(
        &mut self,
        kernel: &Kernel,
        grid: [u32; 3],
        block: [u32; 3],
        dynamic_shared: usize,
        params: &[u8],
    ) -> Result<(), Error> {
        let launch = Launch {
            kernel,
            memory: &self.memory,
            params,
            grid,
            block,
            dynamic_shared,
            seed: self.options.seed,
            instruction_limit: self.options.instruction_limit,
            tensor_cores: TensorCores::of(self.options.capability),
        };
        let outcome = run(&launch, &mut self.workers)?;
        self.profile
            .add(kernel, grid, block, dynamic_shared, &outcome);
        self.touched = outcome.touched;
        Ok(())
    }
}
