//! In which numbers matrix products are taken.

use super::Device;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// In which numbers tensor cores multiply. Only the two operands of a matrix product are rounded, to nearest, when they
/// are loaded; what is stored, sums, weights, norms, softmax, losses and coordinates are f32 in every case.
///
/// | precision | bits of an operand | largest number | where |
/// |---|---|---|---|
/// | [`Precision::F32`] | 24 | 3.4e38 | everywhere |
/// | [`Precision::Bf16`] | 8 | 3.4e38 | GPUs of compute capability 8.0 and newer |
/// | [`Precision::F16`] | 11 | 65504 | GPUs of compute capability 7.5 and newer; training scales the loss |
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Products as exact as those of f32; on tensor cores every operand is split in two.
    #[default]
    F32,
    /// Operands of the range of f32 with 8 significant bits.
    Bf16,
    /// IEEE halves.
    F16,
}

impl Precision {
    /// All of them.
    pub const ALL: [Precision; 3] = [Precision::F32, Precision::Bf16, Precision::F16];

    /// Its name in configurations and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
            Precision::F16 => "f16",
        }
    }

    /// Oldest compute capability (major · 10 + minor) whose tensor cores multiply such operands.
    pub fn capability(self) -> u32 {
        match self {
            Precision::F32 | Precision::F16 => super::cuda::OLDEST_CAPABILITY,
            Precision::Bf16 => 80,
        }
    }

    /// Whether networks can run on `device` in this precision.
    ///
    /// # Errors
    /// Half precision on the CPU, bf16 on a GPU that is too old for it, and whatever opening the GPU says.
    pub fn check(self, device: Device) -> Result<()> {
        let wrong = |fault: String| {
            Err(Error::Device {
                device: device.to_string(),
                fault,
            })
        };
        match device {
            _ if self == Precision::F32 => Ok(()),
            Device::Cpu => wrong(format!(
                "cannot multiply in {self}, only GPUs can; choose one (--device cuda), or precision f32"
            )),
            Device::Cuda(gpu) => match gpu.open()?.capability() {
                found if found < self.capability() => wrong(format!(
                    "has compute capability {}.{}, {self} needs {}.{}; choose precision f16 or f32",
                    found / 10,
                    found % 10,
                    self.capability() / 10,
                    self.capability() % 10
                )),
                _ => Ok(()),
            },
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Precision {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Precision::ALL.into_iter().find(|p| p.name() == name);
        found.ok_or_else(|| {
            Error::argument(
                "precision",
                format!("{name} is none; there are f32, bf16 and f16"),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::check::devices;

    #[test]
    fn names_are_read_back_and_others_refused() {
        for precision in Precision::ALL {
            assert_eq!(
                precision.to_string().parse::<Precision>().unwrap(),
                precision
            );
        }
        assert!("fp16".parse::<Precision>().is_err());
    }

    #[test]
    fn the_cpu_has_no_half_precision() {
        for precision in [Precision::Bf16, Precision::F16] {
            let error = precision.check(Device::Cpu).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            let text = error.to_string();
            assert!(
                text.contains(precision.name()) && text.contains("--device cuda"),
                "{text}"
            );
        }
        assert!(Precision::F32.check(Device::Cpu).is_ok());
    }

    #[test]
    fn gpus_multiply_in_every_precision() {
        for device in devices().into_iter().filter(|d| *d != Device::Cpu) {
            for precision in Precision::ALL {
                precision.check(device).unwrap();
            }
        }
    }
}
