//! Typed columns: the values of one per-point attribute in the type that the file gave them.

/// Number type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the variants are the types they name")]
pub enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F32,
    F64,
}

/// Byte order of stored numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the variants are the orders they name")]
pub enum Endian {
    Little,
    Big,
}

/// Values of one attribute in the type of the file.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the variants are the types they name")]
pub enum Column {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
}

/// Calls `$body` with `$v` bound to the vector inside a [`Column`], whatever its type.
#[macro_export]
macro_rules! with_column {
    ($column:expr, $v:ident => $body:expr) => {
        match $column {
            $crate::cloud::Column::U8($v) => $body,
            $crate::cloud::Column::I8($v) => $body,
            $crate::cloud::Column::U16($v) => $body,
            $crate::cloud::Column::I16($v) => $body,
            $crate::cloud::Column::U32($v) => $body,
            $crate::cloud::Column::I32($v) => $body,
            $crate::cloud::Column::U64($v) => $body,
            $crate::cloud::Column::I64($v) => $body,
            $crate::cloud::Column::F32($v) => $body,
            $crate::cloud::Column::F64($v) => $body,
        }
    };
}

impl Kind {
    /// Bytes of one value.
    pub fn size(self) -> usize {
        match self {
            Kind::U8 | Kind::I8 => 1,
            Kind::U16 | Kind::I16 => 2,
            Kind::U32 | Kind::I32 | Kind::F32 => 4,
            Kind::U64 | Kind::I64 | Kind::F64 => 8,
        }
    }

    /// True for the integer types.
    pub fn is_integer(self) -> bool {
        !matches!(self, Kind::F32 | Kind::F64)
    }

    /// One stored value as `f64`; `bytes` holds exactly [`Kind::size`] bytes.
    pub fn decode(self, bytes: &[u8], endian: Endian) -> f64 {
        let mut column = Column::new(self);
        column.extend_strided(bytes, 0, bytes.len(), endian);
        column.get(0)
    }
}

/// What the column code needs of a number type.
trait Number: Copy + PartialOrd + std::fmt::Display + std::str::FromStr {
    const SIZE: usize;
    fn from_bytes(bytes: &[u8], endian: Endian) -> Self;
    fn put(self, endian: Endian, out: &mut Vec<u8>);
    /// The value nearest to `x`, or `None` when the type cannot hold it.
    fn from_f64(x: f64) -> Option<Self>;
}

macro_rules! number {
    ($from_f64:expr; $($t:ty)*) => {$(
        impl Number for $t {
            const SIZE: usize = size_of::<$t>();
            fn from_bytes(bytes: &[u8], endian: Endian) -> Self {
                let bytes = bytes.try_into().expect("the caller cuts exactly one value");
                match endian {
                    Endian::Little => <$t>::from_le_bytes(bytes),
                    Endian::Big => <$t>::from_be_bytes(bytes),
                }
            }
            fn put(self, endian: Endian, out: &mut Vec<u8>) {
                match endian {
                    Endian::Little => out.extend_from_slice(&self.to_le_bytes()),
                    Endian::Big => out.extend_from_slice(&self.to_be_bytes()),
                }
            }
            fn from_f64(x: f64) -> Option<Self> {
                let holds: fn(f64, f64) -> bool = $from_f64;
                let y = x as $t;
                holds(x, y as f64).then_some(y)
            }
        }
    )*};
}

// The cast of a float to an integer saturates and cuts, so the way back shows what does not fit. Floats round, which
// is what a float column is for; only a finite number that overflows to infinity is refused.
number! { |x, back| x == back; u8 i8 u16 i16 u32 i32 u64 i64 }
number! { |x, back| x.is_finite() == back.is_finite(); f32 f64 }

fn extend<T: Number>(v: &mut Vec<T>, bytes: &[u8], offset: usize, stride: usize, endian: Endian) {
    v.extend(
        bytes
            .chunks_exact(stride)
            .map(|row| T::from_bytes(&row[offset..offset + T::SIZE], endian)),
    );
}

fn push_text<T: Number>(v: &mut Vec<T>, text: &str) -> bool {
    // Some writers put integers down as `255.0`: exact values are taken, others refused.
    let value = text
        .parse::<T>()
        .ok()
        .or_else(|| text.parse::<f64>().ok().and_then(T::from_f64));
    v.extend(value);
    value.is_some()
}

impl Column {
    /// An empty column of the given type.
    pub fn new(kind: Kind) -> Column {
        match kind {
            Kind::U8 => Column::U8(Vec::new()),
            Kind::I8 => Column::I8(Vec::new()),
            Kind::U16 => Column::U16(Vec::new()),
            Kind::I16 => Column::I16(Vec::new()),
            Kind::U32 => Column::U32(Vec::new()),
            Kind::I32 => Column::I32(Vec::new()),
            Kind::U64 => Column::U64(Vec::new()),
            Kind::I64 => Column::I64(Vec::new()),
            Kind::F32 => Column::F32(Vec::new()),
            Kind::F64 => Column::F64(Vec::new()),
        }
    }

    /// Type of the values.
    pub fn kind(&self) -> Kind {
        match self {
            Column::U8(_) => Kind::U8,
            Column::I8(_) => Kind::I8,
            Column::U16(_) => Kind::U16,
            Column::I16(_) => Kind::I16,
            Column::U32(_) => Kind::U32,
            Column::I32(_) => Kind::I32,
            Column::U64(_) => Kind::U64,
            Column::I64(_) => Kind::I64,
            Column::F32(_) => Kind::F32,
            Column::F64(_) => Kind::F64,
        }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        with_column!(self, v => v.len())
    }

    /// True when there is no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Value `row` as `f64`; 64-bit integers beyond 2^53 are rounded.
    pub fn get(&self, row: usize) -> f64 {
        #[allow(
            clippy::unnecessary_cast,
            reason = "one of the ten types is f64 already"
        )]
        {
            with_column!(self, v => v[row] as f64)
        }
    }

    /// True for the integer types.
    pub fn is_integer(&self) -> bool {
        self.kind().is_integer()
    }

    /// The rows named by `index`, in that order.
    pub fn select(&self, index: &[u32]) -> Column {
        macro_rules! pick {
            ($($t:ident),*) => {
                match self {
                    $(Column::$t(v) => Column::$t(index.iter().map(|&i| v[i as usize]).collect()),)*
                }
            };
        }
        pick!(U8, I8, U16, I16, U32, I32, U64, I64, F32, F64)
    }

    /// Appends the values of `other`; false, and nothing done, when the types differ.
    #[must_use]
    pub fn append(&mut self, other: &Column) -> bool {
        macro_rules! join {
            ($($t:ident),*) => {
                match (self, other) {
                    $((Column::$t(a), Column::$t(b)) => a.extend_from_slice(b),)*
                    _ => return false,
                }
            };
        }
        join!(U8, I8, U16, I16, U32, I32, U64, I64, F32, F64);
        true
    }

    /// Appends one value of each row of `stride` bytes, found `offset` bytes into the row.
    pub(crate) fn extend_strided(
        &mut self,
        rows: &[u8],
        offset: usize,
        stride: usize,
        endian: Endian,
    ) {
        with_column!(self, v => extend(v, rows, offset, stride, endian));
    }

    /// Appends the number written as `text`; false when it is none or does not fit the type.
    #[must_use]
    pub(crate) fn push_text(&mut self, text: &str) -> bool {
        with_column!(self, v => push_text(v, text))
    }

    /// Appends `x`; false when the type cannot hold it. Floats round.
    #[must_use]
    pub(crate) fn push_f64(&mut self, x: f64) -> bool {
        fn push<T: Number>(v: &mut Vec<T>, x: f64) -> bool {
            let value = T::from_f64(x);
            v.extend(value);
            value.is_some()
        }
        with_column!(self, v => push(v, x))
    }

    /// Writes value `row` as stored bytes.
    pub(crate) fn put(&self, row: usize, endian: Endian, out: &mut Vec<u8>) {
        with_column!(self, v => v[row].put(endian, out));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [Kind; 10] = [
        Kind::U8,
        Kind::I8,
        Kind::U16,
        Kind::I16,
        Kind::U32,
        Kind::I32,
        Kind::U64,
        Kind::I64,
        Kind::F32,
        Kind::F64,
    ];

    #[test]
    fn bytes_and_text_read_back_in_every_kind_and_order() {
        for kind in KINDS {
            let mut column = Column::new(kind);
            for x in [0.0, 1.0, 100.0] {
                assert!(column.push_f64(x), "{kind:?}");
            }
            if !kind.is_integer() {
                assert!(column.push_f64(0.1) && column.push_f64(f64::NAN));
            }
            for endian in [Endian::Little, Endian::Big] {
                let mut bytes = Vec::new();
                (0..column.len()).for_each(|i| column.put(i, endian, &mut bytes));
                let mut back = Column::new(kind);
                back.extend_strided(&bytes, 0, kind.size(), endian);
                assert_eq!(format!("{column:?}"), format!("{back:?}"));
            }
            let mut back = Column::new(kind);
            for i in 0..column.len() {
                let text = with_column!(&column, v => v[i].to_string());
                assert!(back.push_text(&text));
            }
            assert_eq!(format!("{column:?}"), format!("{back:?}"));
        }
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused() {
        for (kind, text) in [
            (Kind::U8, "300"),
            (Kind::U8, "-1"),
            (Kind::I8, "128"),
            (Kind::U16, "1.5"),
            (Kind::U32, "nan"),
            (Kind::I64, "1e30"),
            (Kind::F32, "12,5"),
            (Kind::F64, "x"),
        ] {
            let mut column = Column::new(kind);
            assert!(!column.push_text(text), "{kind:?} took {text}");
            assert!(column.is_empty());
        }
        let mut column = Column::new(Kind::U8);
        assert!(column.push_text("255.0"));
        assert_eq!(column, Column::U8(vec![255]));
    }

    #[test]
    fn columns_of_two_types_do_not_join() {
        let mut a = Column::U8(vec![1]);
        assert!(!a.append(&Column::U16(vec![2])));
        assert!(a.append(&Column::U8(vec![2])));
        assert_eq!(a, Column::U8(vec![1, 2]));
    }
}
