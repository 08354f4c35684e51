//! The fields that some point formats have: colour, near infrared, wave packets, extra bytes.

use super::arithmetic::{Decoded, Layer, Model, Models};
use super::integer::Integers;

/// How one kind of field follows from its last value.
pub(super) trait Coder {
    /// New models for a field of that many bytes.
    fn new(bytes: usize) -> Self;

    /// Turns the last value, as it lies in a record, into the next one. A layer without bytes says that nothing changes.
    fn next(&mut self, layers: &mut [Option<Layer>], last: &mut [u8]) -> Decoded<()>;
}

/// A field, decoded point by point.
pub(super) trait Field: Send {
    /// Writes the field of the next point, which lies in a scanner channel.
    fn next(&mut self, channel: usize, out: &mut [u8]) -> Decoded<()>;
}

/// A field with models and last values for each scanner channel.
pub(super) struct Channels<C> {
    coders: [Option<C>; 4],
    lasts: [Option<Box<[u8]>>; 4],
    channel: usize,
    version: u16,
    layers: Vec<Option<Layer>>,
}

impl<C: Coder> Channels<C> {
    /// Starts at the first record, which lies in a scanner channel.
    pub fn new(version: u16, channel: usize, first: &[u8], layers: Vec<Option<Layer>>) -> Self {
        let mut lasts = [const { None }; 4];
        lasts[channel] = Some(first.into());
        Channels {
            coders: [const { None }; 4],
            lasts,
            channel,
            version,
            layers,
        }
    }
}

impl<C: Coder + Send> Field for Channels<C> {
    fn next(&mut self, channel: usize, out: &mut [u8]) -> Decoded<()> {
        let before = std::mem::replace(&mut self.channel, channel);
        let fresh = self.lasts[channel].is_none();
        if fresh {
            self.lasts[channel] = self.lasts[before].clone();
        }
        // Version 3 goes on from the value of the channel before, and changes that, unless the channel is new.
        let at = match fresh || self.version == 4 {
            true => channel,
            false => before,
        };
        let last = self.lasts[at]
            .as_mut()
            .expect("the channel before has a value");
        let coder = self.coders[channel].get_or_insert_with(|| C::new(out.len()));
        coder.next(&mut self.layers, last)?;
        out.copy_from_slice(last);
        Ok(())
    }
}

/// Red, green and blue of 16 bits: which of their bytes change, and by how much.
pub(super) struct Color {
    changes: Model,
    /// Lower and upper byte of red, green, blue.
    bytes: Models,
}

impl Coder for Color {
    fn new(_: usize) -> Color {
        Color {
            changes: Model::new(128),
            bytes: Models::new(6, 256),
        }
    }

    fn next(&mut self, layers: &mut [Option<Layer>], last: &mut [u8]) -> Decoded<()> {
        let Some(layer) = &mut layers[0] else {
            return Ok(());
        };
        let changes = layer.symbol(&mut self.changes)?;
        let old: [i32; 6] = std::array::from_fn(|i| last[i].into());
        // One byte after a prediction, which the neighbouring colours may move.
        let mut byte = |i: usize, step: i32| match changes >> i & 1 {
            0 => Decoded::Ok(old[i]),
            _ => {
                let change = layer.symbol(self.bytes.get(i))? as u8;
                let predicted = (old[i] + step).clamp(0, 255) as u8;
                Ok(i32::from(predicted.wrapping_add(change)))
            }
        };
        let mut new = [byte(0, 0)?, byte(1, 0)?, 0, 0, 0, 0];
        for half in 0..2 {
            let (red, green, blue) = (half, 2 + half, 4 + half);
            if changes & 64 == 0 {
                (new[green], new[blue]) = (new[red], new[red]);
                continue;
            }
            let step = new[red] - old[red];
            new[green] = byte(green, step)?;
            new[blue] = byte(blue, (step + new[green] - old[green]) / 2)?;
        }
        for (last, new) in last.iter_mut().zip(new) {
            *last = new as u8;
        }
        Ok(())
    }
}

/// Near infrared of 16 bits: which of its bytes change, and by how much.
pub(super) struct Infrared {
    changes: Model,
    bytes: Models,
}

impl Coder for Infrared {
    fn new(_: usize) -> Infrared {
        Infrared {
            changes: Model::new(4),
            bytes: Models::new(2, 256),
        }
    }

    fn next(&mut self, layers: &mut [Option<Layer>], last: &mut [u8]) -> Decoded<()> {
        let Some(layer) = &mut layers[0] else {
            return Ok(());
        };
        let changes = layer.symbol(&mut self.changes)?;
        for (half, byte) in last.iter_mut().enumerate() {
            if changes >> half & 1 != 0 {
                *byte = byte.wrapping_add(layer.symbol(self.bytes.get(half))? as u8);
            }
        }
        Ok(())
    }
}

/// Wave packets: index of the descriptor, place and size of the packet, place in the wave, direction.
///
/// | bytes | field |
/// |---|---|
/// | 0 | index, u8 |
/// | 1 to 8 | place in the file, u64 |
/// | 9 to 12 | size, u32 |
/// | 13 to 28 | place in the wave and direction x, y, z, f32 |
pub(super) struct Waves {
    indices: Models,
    /// How the place follows from the last one, by how it did so for the last point.
    places: Models,
    how: usize,
    distance: i32,
    distances: Integers,
    sizes: Integers,
    returns: Integers,
    directions: Integers,
}

impl Coder for Waves {
    fn new(_: usize) -> Waves {
        Waves {
            indices: Models::new(1, 256),
            places: Models::new(4, 4),
            how: 0,
            distance: 0,
            distances: Integers::new(32, 1),
            sizes: Integers::new(32, 1),
            returns: Integers::new(32, 1),
            directions: Integers::new(32, 3),
        }
    }

    fn next(&mut self, layers: &mut [Option<Layer>], last: &mut [u8]) -> Decoded<()> {
        let Some(layer) = &mut layers[0] else {
            return Ok(());
        };
        last[0] = layer.symbol(self.indices.get(0))? as u8;
        let int =
            |b: &[u8], at: usize| i32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
        let size = int(last, 9);
        let place = u64::from(int(last, 1) as u32) | (int(last, 5) as u64) << 32;
        self.how = layer.symbol(self.places.get(self.how))?;
        let place = match self.how {
            0 => place,
            1 => place.wrapping_add(u64::from(size as u32)),
            2 => {
                self.distance = self.distances.next(layer, self.distance, 0)?;
                place.wrapping_add(self.distance as u64)
            }
            _ => u64::from(layer.bits(32)?) | u64::from(layer.bits(32)?) << 32,
        };
        last[1..9].copy_from_slice(&place.to_le_bytes());
        let size = self.sizes.next(layer, size, 0)?;
        last[9..13].copy_from_slice(&size.to_le_bytes());
        let wave = self.returns.next(layer, int(last, 13), 0)?;
        last[13..17].copy_from_slice(&wave.to_le_bytes());
        for axis in 0..3 {
            let at = 17 + 4 * axis;
            let x = self.directions.next(layer, int(last, at), axis)?;
            last[at..at + 4].copy_from_slice(&x.to_le_bytes());
        }
        Ok(())
    }
}

/// Extra bytes, each in a layer of its own.
pub(super) struct Extra {
    bytes: Models,
}

impl Coder for Extra {
    fn new(bytes: usize) -> Extra {
        Extra {
            bytes: Models::new(bytes, 256),
        }
    }

    fn next(&mut self, layers: &mut [Option<Layer>], last: &mut [u8]) -> Decoded<()> {
        for (i, (layer, byte)) in layers.iter_mut().zip(last).enumerate() {
            if let Some(layer) = layer {
                *byte = byte.wrapping_add(layer.symbol(self.bytes.get(i))? as u8);
            }
        }
        Ok(())
    }
}
