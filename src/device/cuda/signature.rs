//! What a kernel takes: read from its declaration, checked at every launch.
//!
//! A kernel gets untyped bytes, so a wrong count or order of arguments would read garbage. The declaration in the `.cu`
//! file is the truth; a launch that does not fit it is a bug of ours and stops there.

use super::Pointer;

/// One argument of a launch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Arg {
    /// An address of GPU memory, for any pointer.
    Address(Pointer),
    /// `u32`
    U32(u32),
    /// `u64`
    U64(u64),
    /// `f32`
    F32(f32),
    /// `f64`
    F64(f64),
}

impl Arg {
    fn kind(self) -> Kind {
        match self {
            Arg::Address(_) => Kind::Address,
            Arg::U32(_) => Kind::U32,
            Arg::U64(_) => Kind::U64,
            Arg::F32(_) => Kind::F32,
            Arg::F64(_) => Kind::F64,
        }
    }

    /// The value in the low bytes of a word, as the driver reads it.
    pub(super) fn bits(self) -> u64 {
        match self {
            Arg::Address(address) => address.0,
            Arg::U32(value) => u64::from(value),
            Arg::U64(value) => value,
            Arg::F32(value) => u64::from(value.to_bits()),
            Arg::F64(value) => value.to_bits(),
        }
    }
}

impl From<Pointer> for Arg {
    fn from(address: Pointer) -> Arg {
        Arg::Address(address)
    }
}

impl From<Option<Pointer>> for Arg {
    /// A null pointer where there is none.
    fn from(address: Option<Pointer>) -> Arg {
        Arg::Address(address.unwrap_or(Pointer(0)))
    }
}

impl From<u32> for Arg {
    fn from(value: u32) -> Arg {
        Arg::U32(value)
    }
}

impl From<bool> for Arg {
    fn from(value: bool) -> Arg {
        Arg::U32(u32::from(value))
    }
}

impl From<u64> for Arg {
    fn from(value: u64) -> Arg {
        Arg::U64(value)
    }
}

impl From<usize> for Arg {
    /// Counts are 64 bits wide in kernels.
    fn from(value: usize) -> Arg {
        Arg::U64(value as u64)
    }
}

impl From<f32> for Arg {
    fn from(value: f32) -> Arg {
        Arg::F32(value)
    }
}

impl From<f64> for Arg {
    fn from(value: f64) -> Arg {
        Arg::F64(value)
    }
}

/// What a parameter can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Address,
    U32,
    U64,
    F32,
    F64,
}

/// Asserts that `args` fit what `kernel` is declared with.
pub(super) fn check(kernel: &str, declared: &[Kind], args: &[Arg]) {
    let given = || args.iter().map(|a| a.kind());
    assert!(
        declared.iter().copied().eq(given()),
        "{kernel} takes {declared:?} but was given {:?}",
        given().collect::<Vec<_>>()
    );
}

/// What the declaration of `kernel` in `source` takes.
pub(super) fn parameters(source: &str, kernel: &str) -> Vec<Kind> {
    let name = format!(" {kernel}(");
    let start = source
        .find(&name)
        .unwrap_or_else(|| panic!("no kernel {kernel} in its file"));
    let rest = &source[start + name.len()..];
    let code: String = rest
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join(" ");
    let list = code
        .split(')')
        .next()
        .unwrap_or_else(|| panic!("the parameters of {kernel} have no end"));
    let words = |text: &str| text.split_whitespace().map(String::from).collect();
    list.split(',')
        .map(words)
        .filter(|words: &Vec<String>| !words.is_empty())
        .map(|words| kind(kernel, &words))
        .collect()
}

fn kind(kernel: &str, words: &[String]) -> Kind {
    if words.iter().any(|w| w.contains('*')) {
        return Kind::Address;
    }
    match words[0].as_str() {
        "u32" => Kind::U32,
        "u64" => Kind::U64,
        "float" => Kind::F32,
        "double" => Kind::F64,
        other => {
            panic!("{kernel} takes a {other}; kernels take pointers, u32, u64, float and double")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "
        extern \"C\" __global__ void scale_forward(
            const float* __restrict__ x,  // [N, C], (of any kind)
            u64 n,
            float factor,
            u32 relu,  // 0, 1
            float* __restrict__ y         // [N, C]
        ) { }
        extern \"C\" __global__ void __launch_bounds__(256) nothing() { }";

    #[test]
    fn arguments_that_fit_pass() {
        let at = Pointer(16);
        let declared = parameters(SOURCE, "scale_forward");
        check(
            "scale_forward",
            &declared,
            &[
                at.into(),
                7usize.into(),
                0.5f32.into(),
                true.into(),
                None.into(),
            ],
        );
        check("nothing", &parameters(SOURCE, "nothing"), &[]);
    }

    #[test]
    #[should_panic(expected = "scale_forward takes")]
    fn arguments_in_another_order_stop() {
        let at = Pointer(16);
        let declared = parameters(SOURCE, "scale_forward");
        check(
            "scale_forward",
            &declared,
            &[
                at.into(),
                at.into(),
                7usize.into(),
                0.5f32.into(),
                1u32.into(),
            ],
        );
    }
}
