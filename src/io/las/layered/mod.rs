//! Decodes chunks of the layered form of LASzip, which compresses point formats 6 to 10.
//!
//! | bytes | of a chunk hold |
//! |---|---|
//! | record length | the first point, as it is |
//! | 4 | number of points, u32 |
//! | 4 each | sizes of the layers, u32 |
//! | … | the layers, each an arithmetic code of one field of all other points; an empty one: the field never changes |
//!
//! Isenburg (2013), "LASzip: lossless compression of LiDAR data"; "The LAS 1.4 compatible LASzip" for the layers. The crate
//! `laz` decodes the same, and the tests compare with it, but it calls itself for every turn between series of times, of
//! which damaged bytes can make a point have any number.

mod arithmetic;
mod integer;
mod point;
mod rest;
#[cfg(test)]
mod tests;
mod time;

use laz::{LazItem, LazItemType};

use crate::io::input::read_le;

use arithmetic::{Decoded, END, Layer};
use point::Points;
use rest::{Channels, Color, Extra, Field, Infrared, Waves};

/// The points of a chunk, decoded one after the other.
pub(super) struct Layered {
    /// The first record, until it is read.
    first: Option<Vec<u8>>,
    points: Points,
    /// The other fields and the bytes of each in a record, in its order.
    rest: Vec<(usize, Box<dyn Field>)>,
}

/// A field of a record: its length in bytes and its number of layers.
fn parts(items: &[LazItem]) -> Vec<(LazItemType, usize, usize)> {
    let mut parts = Vec::new();
    for item in items {
        let kind = item.item_type();
        match kind {
            LazItemType::Point14 => parts.push((kind, point::BYTES, point::LAYERS)),
            LazItemType::RGBNIR14 => {
                parts.push((LazItemType::RGB14, 6, 1));
                parts.push((kind, 2, 1));
            }
            LazItemType::Byte14(count) => parts.push((kind, count.into(), count.into())),
            _ => parts.push((kind, item.size().into(), 1)),
        }
    }
    parts
}

impl Layered {
    /// Takes a whole chunk apart. The items are those of a point format from 6 to 10 and its extra bytes, of version 3 or 4.
    ///
    /// # Errors
    /// Says what is wrong when the chunk is too short for its layers.
    pub fn open(items: &[LazItem], chunk: &[u8]) -> Result<Layered, String> {
        let version = items[0].version();
        let parts = parts(items);
        let record: usize = parts.iter().map(|p| p.1).sum();
        let count: usize = parts.iter().map(|p| p.2).sum();
        let head = record + 4 + 4 * count;
        let (head, body) = (chunk.split_at_checked(head)).ok_or("too short for its layer sizes")?;
        let (first, sizes) = head.split_at(record);
        let sizes = sizes[4..].chunks_exact(4).map(|b| read_le!(b, 0, u32));
        let needed: u64 = sizes.clone().map(u64::from).sum();
        if needed > body.len() as u64 {
            return Err(format!(
                "layers of {needed} bytes in a chunk of {}",
                chunk.len()
            ));
        }
        let mut at = 0;
        let mut layers = sizes.map(|size| {
            at += size as usize;
            match size {
                0 => Ok(None),
                size => Layer::open(&body[at - size as usize..at]).map(Some),
            }
        });
        let mut take = |count: usize| layers.by_ref().take(count).collect::<Decoded<Vec<_>>>();
        let point = (take(point::LAYERS)?.try_into()).map_err(|_| END)?;
        let start = first.first_chunk().ok_or(END)?;
        let points = Points::new(version, start, point);
        let channel = points.channel();
        let mut at = point::BYTES;
        let mut rest = Vec::new();
        for &(kind, bytes, count) in &parts[1..] {
            let first = &first[at..at + bytes];
            let layers = take(count)?;
            let field: Box<dyn Field> = match kind {
                LazItemType::RGB14 => {
                    Box::new(Channels::<Color>::new(version, channel, first, layers))
                }
                LazItemType::RGBNIR14 => {
                    Box::new(Channels::<Infrared>::new(version, channel, first, layers))
                }
                LazItemType::WavePacket14 => {
                    Box::new(Channels::<Waves>::new(version, channel, first, layers))
                }
                _ => Box::new(Channels::<Extra>::new(version, channel, first, layers)),
            };
            rest.push((bytes, field));
            at += bytes;
        }
        Ok(Layered {
            first: Some(first.to_vec()),
            points,
            rest,
        })
    }

    /// Decodes whole records. Errors say why the bytes cannot be decoded.
    pub fn read(&mut self, records: &mut [u8], record: usize) -> Decoded<()> {
        for record in records.chunks_exact_mut(record) {
            match self.first.take() {
                Some(first) => record.copy_from_slice(&first),
                None => self.next(record)?,
            }
        }
        Ok(())
    }

    fn next(&mut self, record: &mut [u8]) -> Decoded<()> {
        let (point, mut left) = record.split_at_mut(point::BYTES);
        let channel = self.points.next(point)?;
        for (bytes, field) in &mut self.rest {
            let (out, behind) = left.split_at_mut(*bytes);
            field.next(channel, out)?;
            left = behind;
        }
        Ok(())
    }
}
