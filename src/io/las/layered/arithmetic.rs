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
pub(super) struct Model {
    counts: Box<[u16]>,
    total: u32,
    /// Share of the symbols before each symbol.
    below: Box<[u16]>,
    /// For each slice of the shares, the symbol in which it starts, and at the end the last symbol. Empty for few symbols.
    slices: Box<[u16]>,
    slice_bits: u32,
    /// Symbols between two renewals.
    cycle: u32,
    /// Symbols until the next renewal.
    left: u32,
}

impl Model {
    /// `symbols` equally likely ones, 2 to 2048.
    pub fn new(symbols: usize) -> Model {
        let slices = match symbols {
            0..=16 => 0,
            // A quarter to a half as many as symbols.
            _ => (symbols.div_ceil(4)).next_power_of_two(),
        };
        let cycle = (symbols as u32 + 6) / 2;
        let mut model = Model {
            counts: vec![1; symbols].into(),
            total: symbols as u32,
            below: vec![0; symbols].into(),
            slices: vec![0; if slices > 0 { slices + 1 } else { 0 }].into(),
            slice_bits: SHARE_BITS - slices.max(1).ilog2(),
            cycle,
            left: cycle,
        };
        model.share();
        model
    }

    /// Shares by counts.
    fn share(&mut self) {
        let scale = (1 << 31) / self.total;
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

    /// Counts a symbol that was decoded.
    fn seen(&mut self, symbol: usize) {
        self.counts[symbol] += 1;
        self.left -= 1;
        if self.left > 0 {
            return;
        }
        self.total += self.cycle;
        if self.total > 1 << SHARE_BITS {
            self.total = 0;
            for count in &mut self.counts {
                *count = count.div_ceil(2);
                self.total += u32::from(*count);
            }
        }
        self.share();
        self.cycle = (5 * self.cycle / 4).min((self.counts.len() as u32 + 6) * 8);
        self.left = self.cycle;
    }
}

/// Models of one kind, made when they are first needed.
pub(super) struct Models {
    symbols: usize,
    models: Box<[Option<Model>]>,
}

impl Models {
    pub fn new(count: usize, symbols: usize) -> Models {
        Models {
            symbols,
            models: (0..count).map(|_| None).collect(),
        }
    }

    pub fn get(&mut self, index: usize) -> &mut Model {
        self.models[index].get_or_insert_with(|| Model::new(self.symbols))
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
        let symbol = model.find(self.value / unit);
        let start = u32::from(model.below[symbol]) * unit;
        // What division cuts off belongs to the last symbol.
        let end = (model.below.get(symbol + 1)).map_or(self.length, |&b| u32::from(b) * unit);
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
