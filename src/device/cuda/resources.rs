//! What a kernel takes on a GPU, as the assembler reports it (`--ptxas-options=-v`).

/// Registers and memory of one kernel on one kind of GPU.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// Name of the kernel.
    pub kernel: String,
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of registers of a thread that are moved to memory and back: stores and loads.
    pub spills: [u32; 2],
    /// Bytes of local memory of a thread, spilled registers and indexed arrays.
    pub stack: u32,
    /// Bytes of shared memory of a block whose size is fixed in the source.
    pub shared: u32,
}

impl Resources {
    /// Reads the assembler's report: an entry per kernel.
    #[cfg_attr(
        not(feature = "cuda"),
        allow(dead_code, reason = "nothing is compiled without a compiler")
    )]
    pub(super) fn parse(log: &str) -> Vec<Resources> {
        let mut all: Vec<Resources> = Vec::new();
        for line in log.lines() {
            if let Some((_, rest)) = line.split_once("Compiling entry function '") {
                all.push(Resources {
                    kernel: rest.split('\'').next().unwrap_or_default().into(),
                    ..Resources::default()
                });
            }
            let Some(last) = all.last_mut() else { continue };
            let number = |unit: &str| number_before(line, unit);
            if let Some(stack) = number(" bytes stack frame") {
                last.stack = stack;
                last.spills = [" bytes spill stores", " bytes spill loads"]
                    .map(|unit| number(unit).unwrap_or_default());
            }
            if let Some(registers) = number(" registers") {
                last.registers = registers;
                last.shared = number(" bytes smem").unwrap_or_default();
            }
        }
        all
    }
}

/// The whole number that stands before `unit`.
fn number_before(line: &str, unit: &str) -> Option<u32> {
    let (before, _) = line.split_once(unit)?;
    before
        .rsplit(|c: char| !c.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_read() {
        let log = "ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'plain' for 'sm_75'
ptxas info    : Function properties for plain
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers, used 0 barriers, 384 bytes cmem[0]
ptxas info    : Compile time = 21.843 ms
ptxas info    : Compiling entry function 'heavy' for 'sm_75'
ptxas info    : Function properties for heavy
ptxas         .     40 bytes stack frame, 24 bytes spill stores, 36 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 40 bytes cumulative stack size, 9216 bytes smem, 416 bytes cmem[0]
";
        let [plain, heavy] = Resources::parse(log).try_into().unwrap();
        assert_eq!((plain.kernel.as_str(), plain.registers), ("plain", 10));
        assert_eq!((plain.spills, plain.stack, plain.shared), ([0; 2], 0, 0));
        assert_eq!((heavy.kernel.as_str(), heavy.registers), ("heavy", 255));
        assert_eq!(heavy.spills, [24, 36]);
        assert_eq!((heavy.stack, heavy.shared), (40, 9216));
        assert!(Resources::parse("").is_empty());
    }
}
