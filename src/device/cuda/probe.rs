//! What there is to compute with.

use super::{
    Card, Cuda, Gpu, Inventory, Kernels, Nvrtc, OLDEST_CAPABILITY, Resources, compile, library,
};
use crate::Result;
use crate::device::Precision;
use cudarc::driver::result::DriverError;
use cudarc::driver::{CudaContext, sys};
use std::sync::{Arc, OnceLock};

static FOUND: OnceLock<Result<String, String>> = OnceLock::new();

/// What [`probe`] found, if it was asked: only then did somebody leave the choice to the program.
pub fn probed() -> Option<Result<&'static str, &'static str>> {
    let found = FOUND.get()?;
    Some(found.as_deref().map_err(String::as_str))
}

/// Whether a GPU is there, found out once: its description, or why not. It is open then.
///
/// # Errors
/// The reason, as half a sentence.
pub fn probe() -> Result<&'static str, &'static str> {
    let found = FOUND.get_or_init(|| {
        let cuda = Cuda::opened(Gpu::Card(0))?;
        card(cuda.cudarc())
            .map(|card| card.to_string())
            .map_err(|e| e.to_string())
    });
    found.as_deref().map_err(String::as_str)
}

/// What is there to run kernels with. Never an error: what is missing is said in its place.
pub fn describe() -> Inventory {
    Inventory {
        cards: library::driver()
            .map_err(|fault| match fault == library::NO_DRIVER {
                true => format!("{fault}; install it where there is a card; the cpu needs none"),
                false => fault,
            })
            .and_then(|()| cards()),
        nvrtc: library::nvrtc().map(|file| {
            let (major, minor) = compile::version();
            Nvrtc {
                version: format!("{major}.{minor}"),
                file,
            }
        }),
        nvrtc_folders: library::nvrtc_folders(),
        emulator: library::emulator_file(),
    }
}

/// All cards, also those that are too old. The driver must be loaded.
fn cards() -> Result<Vec<Card>, String> {
    let failed = |e: DriverError| format!("the driver says: {e}");
    let count = CudaContext::device_count().map_err(failed)?;
    (0..count as usize)
        .map(|ordinal| card(&*CudaContext::new(ordinal)?))
        .collect::<Result<_, _>>()
        .map_err(failed)
}

fn card(context: &CudaContext) -> Result<Card, DriverError> {
    let mut version = 0;
    // SAFETY: writes one integer.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result()?;
    Ok(Card {
        name: context.name()?,
        capability: capability(context)?,
        memory: context.total_mem()? as u64,
        driver: format!("{}.{}", version / 1000, version % 1000 / 10),
    })
}

/// What the emulator counted since the last call, as JSON; `kernels/emulator/src/profile.rs` names the fields.
///
/// # Errors
/// There is no emulator, or the process runs on a real GPU.
pub fn take_counts() -> Result<String> {
    library::take_counts().map_err(|fault| Gpu::Emulator.error(fault))
}

/// What each kernel of a file, with products in `precision`, takes on a GPU of `capability` (major · 10 + minor), as the
/// assembler says.
///
/// # Errors
/// There is no NVRTC, or it does not compile the file for that GPU.
pub fn resources(
    kernels: &Kernels,
    precision: Precision,
    capability: u32,
) -> Result<Vec<Resources>> {
    library::nvrtc()
        .and_then(|_| compile::assembler_log(kernels, precision, capability))
        .map(|log| Resources::parse(&log))
        .map_err(|fault| Gpu::Card(0).error(format!("{}.cu: {fault}", kernels.name)))
}

/// The compiler that the kernels' code comes from, as "NVRTC 13.0".
///
/// # Errors
/// There is none, and how to get it.
pub fn compiler() -> Result<String> {
    library::nvrtc().map_err(|fault| Gpu::Card(0).error(fault))?;
    let (major, minor) = compile::version();
    Ok(format!("NVRTC {major}.{minor}"))
}

/// The context of a GPU that is new enough. The driver must be loaded.
pub(super) fn usable(gpu: Gpu) -> Result<Arc<CudaContext>, String> {
    let ordinal = match gpu {
        Gpu::Card(ordinal) => usize::from(ordinal),
        Gpu::Emulator => 0,
    };
    let count = CudaContext::device_count().map_err(|e| format!("the driver says: {e}"))?;
    if ordinal >= count as usize {
        return Err(match count {
            0 => "there is a driver but no GPU".into(),
            1 => "there is one GPU, cuda:0".into(),
            _ => format!("there are {count} GPUs, cuda:0 to cuda:{}", count - 1),
        });
    }
    let context = CudaContext::new(ordinal).map_err(|e| format!("cannot be opened: {e}"))?;
    let capability = capability(&context).map_err(|e| e.to_string())?;
    if capability < OLDEST_CAPABILITY {
        return Err(format!(
            "compute capability {}.{} is older than 7.5, the oldest that the kernels run on",
            capability / 10,
            capability % 10
        ));
    }
    Ok(context)
}

/// Compute capability, as major · 10 + minor.
pub(super) fn capability(context: &CudaContext) -> Result<u32, DriverError> {
    let (major, minor) = context.compute_capability()?;
    Ok((10 * major + minor) as u32)
}
