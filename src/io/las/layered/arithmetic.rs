//! Arithmetic decoding of one layer: adaptive models of symbols over an interval of 32 bits.
//!
//! Said (2004), "Introduction to arithmetic coding", HPL-2004-76, with the constants that LASzip writes by. A symbol's share
//! of the interval is its count so far; shares are renewed after fewer and fewer symbols. Files depend on every rounding
//! here.

/// A value, or why there is none.
pub(super) type Decoded<T> = Result<T, &'static str>;

pub(super) const END: &str = "the compressed data end too early";
pub(super) const DAMAGED: &str = "the compressed data are damaged";

/// Shortest interval; a shorter one is made longer by a byte of the layer.
const SHORTEST: u32 = 1 << 24;
/// Shares of symbols are in units of 2^-15 of the interval.
const SHARE_BITS: u32 = 15;
/// Shares of bits are in units of 2^-13 of the interval.
const BIT_SHARE_BITS: u32 = 13;

/// The symbols of a model and how often each was seen.
///
/// All are equally likely until the first renewal: until then a model is the list of what it saw, a byte of the layer for
/// each two of its bytes, and only then it has tables. A record may have tens of thousands of extra bytes, each with
/// a model for each scanner channel, and a file that says so must not make many times its size of tables.
pub(super) struct Model {
    symbols: u32,
    /// Symbols seen before the first renewal.
    early: Vec<u16>,
    /// From the first renewal on.
    tables: Option<Box<Tables>>,
    total: u32,
    /// Symbols between two renewals.
    cycle: u32,
    /// Symbols until the next renewal.
    left: u32,
}

/// How often each symbol was seen.
struct Tables {
    counts: Box<[u16]>,
    /// Share of the symbols before each symbol.
    below: Box<[u16]>,
    /// For each slice of the shares, the symbol in which it starts, and at the end the last symbol. Empty for few symbols.
    slices: Box<[u16]>,
    slice_bits: u32,
}

impl Tables {
    fn new(symbols: usize) -> Tables {
        let slices = match symbols {
            0..=16 => 0,
            // A quarter to a half as many as symbols.
            _ => (symbols.div_ceil(4)).next_power_of_two(),
        };
        Tables {
            counts: vec![1; symbols].into(),
            below: vec![0; symbols].into(),
            slices: vec![0; if slices > 0 { slices + 1 } else { 0 }].into(),
            slice_bits: SHARE_BITS - slices.max(1).ilog2(),
        }
    }

    /// Shares by counts.
    fn share(&mut self, total: u32) {
        let scale = (1 << 31) / total;
        let mut sum = 0;
        for (below, &count) in self.below.iter_mut().zip(&self.counts) {
            *below = ((scale * sum) >> (31 - SHARE_BITS)) as u16;
            sum += u32::from(count);
        }
        let mut symbol = 0;
        for (slice, first) in self.slices.iter_mut().enumerate() {
            let start = (slice as u32) << self.slice_bits;
            while symbol + 1 < self.below.len() && u32::from(self.below[symbol + 1]) <= start {
                symbol += 1;
            }
            *first = symbol as u16;
        }
    }

    /// The symbol that holds a share.
    fn find(&self, share: u32) -> usize {
        let last = self.below.len() - 1;
        let (low, high) = match self.slices.len() {
            0 => (0, last),
            slices => {
                let slice = ((share >> self.slice_bits) as usize).min(slices - 2);
                (
                    usize::from(self.slices[slice]),
                    usize::from(self.slices[slice + 1]),
                )
            }
        };
        low + self.below[low + 1..=high].partition_point(|&b| u32::from(b) <= share)
    }
}

impl Model {
    /// `symbols` equally likely ones, 2 to 2048.
    pub fn new(symbols: usize) -> Model {
        let symbols = symbols as u32;
        let cycle = (symbols + 6) / 2;
        Model {
            symbols,
            early: Vec::new(),
            tables: None,
            total: symbols,
            cycle,
            left: cycle,
        }
    }

    /// Share of all symbols before one; they are equally likely.
    fn even(&self, symbol: u32) -> u32 {
        ((1 << 31) / self.symbols * symbol) >> (31 - SHARE_BITS)
    }

    /// The symbol that holds a share, the share before it and that before the next one, if there is one.
    fn find(&self, share: u32) -> (usize, u32, Option<u32>) {
        if let Some(tables) = &self.tables {
            let symbol = tables.find(share);
            let below = |symbol: usize| tables.below.get(symbol).map(|&b| u32::from(b));
            return (symbol, below(symbol).unwrap_or(0), below(symbol + 1));
        }
        let mut symbol = ((share * self.symbols) >> SHARE_BITS).min(self.symbols - 1);
        // Rounding may put the start of the next symbol down to this share.
        let next = symbol + 1;
        symbol += u32::from(next < self.symbols && self.even(next) <= share);
        let next = symbol + 1;
        let end = (next < self.symbols).then(|| self.even(next));
        (symbol as usize, self.even(symbol), end)
    }

    /// Counts a symbol that was decoded.
    fn seen(&mut self, symbol: usize) {
        match &mut self.tables {
            Some(tables) => tables.counts[symbol] += 1,
            None => self.early.push(symbol as u16),
        }
        self.left -= 1;
        if self.left == 0 {
            self.renew();
        }
    }

    /// Makes shares of the counts.
    fn renew(&mut self) {
        let tables = self.tables.get_or_insert_with(|| {
            let mut tables = Tables::new(self.symbols as usize);
            for symbol in std::mem::take(&mut self.early) {
                tables.counts[usize::from(symbol)] += 1;
            }
            Box::new(tables)
        });
        self.total += self.cycle;
        if self.total > 1 << SHARE_BITS {
            self.total = 0;
            for count in &mut tables.counts {
                *count = count.div_ceil(2);
                self.total += u32::from(*count);
            }
        }
        tables.share(self.total);
        self.cycle = (5 * self.cycle / 4).min((self.symbols + 6) * 8);
        self.left = self.cycle;
    }
}

/// Models of one kind, made when they are first needed.
pub(super) struct Models {
    symbols: usize,
    models: Box<[Option<Box<Model>>]>,
}

impl Models {
    pub fn new(count: usize, symbols: usize) -> Models {
        Models {
            symbols,
            models: (0..count).map(|_| None).collect(),
        }
    }

    pub fn get(&mut self, index: usize) -> &mut Model {
        self.models[index].get_or_insert_with(|| Box::new(Model::new(self.symbols)))
    }
}

/// How often a bit was zero.
pub(super) struct BitModel {
    zeros: u32,
    total: u32,
    /// Share of zero.
    share: u32,
    cycle: u32,
    left: u32,
}

impl BitModel {
    pub fn new() -> BitModel {
        BitModel {
            zeros: 1,
            total: 2,
            share: 1 << (BIT_SHARE_BITS - 1),
            cycle: 4,
            left: 4,
        }
    }

    fn seen(&mut self, bit: bool) {
        self.zeros += u32::from(!bit);
        self.left -= 1;
        if self.left > 0 {
            return;
        }
        self.total += self.cycle;
        if self.total > 1 << BIT_SHARE_BITS {
            self.total = self.total.div_ceil(2);
            self.zeros = self.zeros.div_ceil(2);
            self.total += u32::from(self.zeros == self.total);
        }
        let scale = (1 << 31) / self.total;
        self.share = (self.zeros * scale) >> (31 - BIT_SHARE_BITS);
        self.cycle = (5 * self.cycle / 4).min(64);
        self.left = self.cycle;
    }
}

/// The coded bytes of one field of a chunk.
pub(super) struct Layer {
    bytes: Box<[u8]>,
    /// Bytes that were used.
    at: usize,
    /// The code, from the start of the interval; less than its length.
    value: u32,
    length: u32,
}

impl Layer {
    /// Errors when there are no four bytes, or when they are no code.
    pub fn open(bytes: &[u8]) -> Decoded<Layer> {
        let first = bytes.first_chunk().ok_or(END)?;
        let value = u32::from_be_bytes(*first);
        match value < u32::MAX {
            true => Ok(Layer {
                bytes: bytes.into(),
                at: 4,
                value,
                length: u32::MAX,
            }),
            false => Err(DAMAGED),
        }
    }

    /// Cuts the interval down to `length` from `start`.
    fn narrow(&mut self, start: u32, length: u32) -> Decoded<()> {
        self.value -= start;
        self.length = length;
        while self.length < SHORTEST {
            let byte = *self.bytes.get(self.at).ok_or(END)?;
            self.at += 1;
            self.value = self.value << 8 | u32::from(byte);
            self.length <<= 8;
        }
        Ok(())
    }

    /// The next symbol.
    pub fn symbol(&mut self, model: &mut Model) -> Decoded<usize> {
        let unit = self.length >> SHARE_BITS;
        let (symbol, below, next) = model.find(self.value / unit);
        let start = below * unit;
        // What division cuts off belongs to the last symbol.
        let end = next.map_or(self.length, |next| next * unit);
        self.narrow(start, end - start)?;
        model.seen(symbol);
        Ok(symbol)
    }

    /// The next bit, by a model.
    pub fn bit(&mut self, model: &mut BitModel) -> Decoded<bool> {
        let zero = model.share * (self.length >> BIT_SHARE_BITS);
        let bit = self.value >= zero;
        match bit {
            true => self.narrow(zero, self.length - zero)?,
            false => self.narrow(0, zero)?,
        }
        model.seen(bit);
        Ok(bit)
    }

    /// The next `count` bits, at most 32, all equally likely.
    pub fn bits(&mut self, count: u32) -> Decoded<u32> {
        if count > 19 {
            let low = self.bits(16)?;
            return Ok(self.bits(count - 16)? << 16 | low);
        }
        let unit = self.length >> count;
        let bits = self.value / unit;
        if bits >> count != 0 {
            return Err(DAMAGED);
        }
        self.narrow(bits * unit, unit)?;
        Ok(bits)
    }
}
