//! Executes CUDA kernels where there is no GPU.
//!
//! NVRTC compiles a kernel to PTX; this crate runs that PTX on the CPU, a warp at a time, checks every access, and
//! counts exactly what the kernel does. It is used in two ways:
//!
//! - as a **library**: [`Machine`] holds device memory, loads PTX and launches kernels;
//! - as the **CUDA driver**: the shared library that this crate also builds exports the driver's functions
//!   ([`driver`]), so a program that calls the driver, through `cudarc` for instance, runs on it unchanged.
//!
//! ```
//! use cairn_emulator::{Machine, Options};
//! let mut machine = Machine::new(Options::default());
//! let module = machine.load(r#"
//! .version 9.0
//! .target sm_80
//! .address_size 64
//! .visible .entry twice(.param .u64 p)
//! {
//!     .reg .b32 %r<4>;
//!     .reg .b64 %d<4>;
//!     ld.param.u64 %d1, [p];
//!     mov.u32 %r1, %tid.x;
//!     mul.wide.u32 %d2, %r1, 4;
//!     add.s64 %d3, %d1, %d2;
//!     ld.global.u32 %r2, [%d3];
//!     add.s32 %r3, %r2, %r2;
//!     st.global.u32 [%d3], %r3;
//!     ret;
//! }"#)?;
//! let memory = machine.memory_mut();
//! let address = memory.allocate(16, "").expect("there is room");
//! memory.write(address, bytemuck::cast_slice(&[1u32, 2, 3, 4]))?;
//! machine.launch(module.kernel("twice")?, [1, 1, 1], [4, 1, 1], 0, &address.to_le_bytes())?;
//! let mut out = [0u32; 4];
//! machine.memory().read(address, bytemuck::cast_slice_mut(&mut out))?;
//! assert_eq!(out, [2, 4, 6, 8]);
//! # Ok::<(), cairn_emulator::Error>(())
//! ```
//!
//! Three promises: what is not implemented is **refused** by name when a module is loaded, never executed wrongly; the
//! same launch gives the **same bits** and the same counts on any number of threads; a broken rule ([`ViolationKind`])
//! is an **error** that names kernel, block, thread, instruction and source line.
//!
//! | module | what it holds |
//! |---|---|
//! | [`ptx`] | PTX text to a tree |
//! | [`decode`] | the tree to executable instructions |
//! | [`lanes`] | arithmetic of 32 lanes at a time |
//! | [`exec`] | warps, barriers, checks |
//! | [`memory`] | device memory |
//! | [`profile`] | exact counts |
//! | [`driver`] | the functions of the CUDA driver |

pub mod decode;
pub mod driver;
mod error;
pub mod exec;
pub mod lanes;
mod machine;
pub mod memory;
pub mod profile;
pub mod ptx;
mod violation;

pub use error::Error;
pub use machine::{Machine, Module, Options};
pub use violation::{Violation, ViolationKind};
