//! Integers as differences from a prediction: first how many bits the difference has, then those bits.

use super::arithmetic::{BitModel, Decoded, Layer, Model, Models};

/// Bits of a difference that have a model; the lower ones are stored as they are.
const MODELLED: u32 = 8;

/// The models of one kind of integer.
pub(super) struct Integers {
    /// Bits of the difference, for each context.
    sizes: Models,
    /// A difference of no bits is 0 or 1.
    one: BitModel,
    /// The upper bits of differences, for each size.
    upper: Box<[Option<Model>]>,
    size: u32,
}

impl Integers {
    /// Of `bits` bits, with as many `contexts`.
    pub fn new(bits: u32, contexts: usize) -> Integers {
        Integers {
            sizes: Models::new(contexts, bits as usize + 1),
            one: BitModel::new(),
            upper: (0..bits).map(|_| None).collect(),
            size: 0,
        }
    }

    /// Bits of the last difference.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// The next integer; one of 16 bits is right in its lower 16 bits.
    pub fn next(&mut self, layer: &mut Layer, predicted: i32, context: usize) -> Decoded<i32> {
        self.size = layer.symbol(self.sizes.get(context))? as u32;
        let difference = match self.size {
            0 => i32::from(layer.bit(&mut self.one)?),
            32 => i32::MIN,
            size => {
                let upper = self.upper[size as usize - 1]
                    .get_or_insert_with(|| Model::new(1 << size.min(MODELLED)));
                let mut code = layer.symbol(upper)? as i32;
                if size > MODELLED {
                    let low = size - MODELLED;
                    code = code << low | layer.bits(low)? as i32;
                }
                // −(2^size − 1) to −2^(size−1), then 2^(size−1) + 1 to 2^size: shorter ones have smaller sizes.
                match code < 1 << (size - 1) {
                    true => code - ((1u32 << size) - 1) as i32,
                    false => code.wrapping_add(1),
                }
            }
        };
        Ok(predicted.wrapping_add(difference))
    }
}
