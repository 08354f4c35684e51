//! The points of E57 as they lie in the file: pages with check sums, packets in them, packed values in those.
//!
//! | part | bytes |
//! |---|---|
//! | page | 1020 of content, then their CRC-32C, big-endian; all lengths below count content only |
//! | section | u8 1; 7 reserved; u64 length; u64 where the packets start and u64 where the index is, counted with sums |
//! | packet | u8 kind: 0 index, 1 data, 2 empty; u8 flags; u16 length − 1; content |
//! | data | u16 number of streams, one for each field; u16 length of each; the streams |
//!
//! Integers take as many bits as their range needs; a stream goes on in the next packet where it stopped, within a byte.
//! Source: ASTM E2807.
//!
//! The crate `e57` makes a value of 16 bytes of every bit that a packet holds, and keeps the values of a field that is ahead
//! of the others: a small file could fill memory. Here streams stay as they are in the file until all fields of a point
//! are there, so that no more is held than was read. The crate is the twin in the tests.

use std::io::Read;

use e57::{RecordDataType, RecordValue};

use super::fields::bits;
use crate::Result;
use crate::io::input::{Input, read_le};

/// Bytes of a page, and of its content.
const PAGE: u64 = 1024;
const CONTENT: u64 = PAGE - 4;

/// Remainders of CRC-32C for every byte, followed by 0 to 3 zero bytes.
const SUMS: [[u32; 256]; 4] = {
    let mut sums = [[0u32; 256]; 4];
    let mut byte = 0;
    while byte < 256 {
        let mut sum = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            sum = (sum >> 1) ^ (0x82f6_3b78 & (sum & 1).wrapping_neg());
            bit += 1;
        }
        sums[0][byte] = sum;
        byte += 1;
    }
    let mut byte = 0;
    while byte < 256 {
        let mut zeros = 1;
        while zeros < 4 {
            let before = sums[zeros - 1][byte];
            sums[zeros][byte] = (before >> 8) ^ sums[0][(before & 0xff) as usize];
            zeros += 1;
        }
        byte += 1;
    }
    sums
};

/// CRC-32C of the content of a page, whose length is a multiple of four.
fn check_sum(content: &[u8]) -> u32 {
    !content.chunks_exact(4).fold(!0u32, |sum, word| {
        let [a, b, c, d] = (sum ^ read_le!(word, 0, u32)).to_le_bytes();
        SUMS[3][a as usize] ^ SUMS[2][b as usize] ^ SUMS[1][c as usize] ^ SUMS[0][d as usize]
    })
}

/// The content of the pages of a file.
pub struct Pages {
    input: Input,
    page: Vec<u8>,
    /// Number of the page in `page`.
    open: Option<u64>,
    /// Bytes of content before the next read.
    at: u64,
}

impl Pages {
    pub fn new(input: Input) -> Pages {
        Pages {
            input,
            page: vec![0; PAGE as usize],
            open: None,
            at: 0,
        }
    }

    /// Goes to a byte of the file, at most its end, counted with the check sums.
    fn seek(&mut self, byte: u64) {
        let byte = byte.min(self.input.size());
        self.at = byte / PAGE * CONTENT + (byte % PAGE).min(CONTENT);
    }

    /// Reads and checks the page of the next byte.
    fn load(&mut self) -> Result<()> {
        let number = self.at / CONTENT;
        if self.open == Some(number) {
            return Ok(());
        }
        self.open = None;
        let start = number.saturating_mul(PAGE);
        if start.saturating_add(PAGE) > self.input.size() {
            return Err(self.fault("the points go on, but the file ends here"));
        }
        self.input.seek(start)?;
        let read = self.input.read_exact(&mut self.page);
        read.map_err(|e| self.input.io(e))?;
        let (content, sum) = self.page.split_at(CONTENT as usize);
        if sum != check_sum(content).to_be_bytes() {
            return Err(self.fault("the check sum of the page is wrong; the file is damaged"));
        }
        self.open = Some(number);
        Ok(())
    }

    /// Appends the next `count` bytes.
    fn take(&mut self, mut count: usize, out: &mut Vec<u8>) -> Result<()> {
        while count > 0 {
            self.load()?;
            let start = (self.at % CONTENT) as usize;
            let some = count.min(CONTENT as usize - start);
            out.extend_from_slice(&self.page[start..start + some]);
            self.at += some as u64;
            count -= some;
        }
        Ok(())
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = Vec::with_capacity(N);
        self.take(N, &mut bytes)?;
        Ok(bytes.try_into().expect("as many bytes were read"))
    }

    /// A fault in the file.
    pub fn malformed(&self, place: impl Into<String>, fault: impl Into<String>) -> crate::Error {
        self.input.malformed(place, fault)
    }

    /// A fault at the next byte.
    fn fault(&self, fault: impl Into<String>) -> crate::Error {
        let byte = self.at / CONTENT * PAGE + self.at % CONTENT;
        self.input.malformed(format!("byte {byte}"), fault)
    }
}

/// The values of one field that were read and not used.
struct Stream {
    field: RecordDataType,
    /// Bits of a value; 0 where all are equal.
    width: usize,
    bytes: Vec<u8>,
    /// Bits used.
    done: usize,
}

impl Stream {
    /// Drops what was used, before more comes. It is moved only when that frees half of the memory.
    fn tidy(&mut self) {
        let used = self.done / 8;
        if used > self.bytes.len() / 2 {
            self.bytes.drain(..used);
            self.done -= 8 * used;
        }
    }

    /// Values that are there, unless there is no end of them.
    fn ready(&self) -> Option<usize> {
        (8 * self.bytes.len() - self.done).checked_div(self.width)
    }

    /// The next value, which is there.
    fn next(&mut self) -> RecordValue {
        let (start, end) = (self.done / 8, (self.done + self.width).div_ceil(8));
        let mut window = [0; 16];
        window[..end - start].copy_from_slice(&self.bytes[start..end]);
        let packed = (u128::from_le_bytes(window) >> (self.done % 8)) & ((1 << self.width) - 1);
        self.done += self.width;
        let packed = packed as u64;
        match self.field {
            RecordDataType::Single { .. } => RecordValue::Single(f32::from_bits(packed as u32)),
            RecordDataType::Double { .. } => RecordValue::Double(f64::from_bits(packed)),
            RecordDataType::ScaledInteger { min, .. } => {
                RecordValue::ScaledInteger(min.wrapping_add_unsigned(packed))
            }
            RecordDataType::Integer { min, .. } => {
                RecordValue::Integer(min.wrapping_add_unsigned(packed))
            }
        }
    }
}

/// The points of one cloud, field by field as they are stored.
pub struct Points {
    streams: Vec<Stream>,
    /// Points that are still promised.
    left: u64,
    /// Points of which every value was read.
    ready: usize,
}

impl Points {
    /// Goes to the points of a cloud, which promises no more than its file can hold.
    pub fn open(pages: &mut Pages, cloud: &e57::PointCloud) -> Result<Points> {
        let streams = cloud.prototype.iter().map(|record| Stream {
            width: bits(&record.data_type) as usize,
            field: record.data_type.clone(),
            bytes: Vec::new(),
            done: 0,
        });
        let points = Points {
            streams: streams.collect(),
            left: cloud.records,
            ready: 0,
        };
        if points.left > 0 {
            pages.seek(cloud.file_offset);
            let section: [u8; 32] = pages.bytes()?;
            if section[0] != 1 {
                return Err(pages.fault("no section of points lies before this byte"));
            }
            pages.seek(read_le!(section, 16, u64));
        }
        Ok(points)
    }

    /// Puts the values of the next point into `values`; false after the last.
    pub fn next(&mut self, pages: &mut Pages, values: &mut Vec<RecordValue>) -> Result<bool> {
        if self.left == 0 {
            return Ok(false);
        }
        // A packet may hold values of some fields only. Each is longer than nothing, so that the file ends this.
        while self.ready == 0 {
            self.packet(pages)?;
        }
        values.clear();
        values.extend(self.streams.iter_mut().map(Stream::next));
        self.ready -= 1;
        self.left -= 1;
        Ok(true)
    }

    fn packet(&mut self, pages: &mut Pages) -> Result<()> {
        let start = pages.at;
        let [kind, _, low, high] = pages.bytes()?;
        let end = start + 1 + u64::from(u16::from_le_bytes([low, high]));
        match kind {
            0 | 2 => {}
            1 => {
                let count: [u8; 2] = pages.bytes()?;
                let count = usize::from(u16::from_le_bytes(count));
                if count != self.streams.len() {
                    let fault = format!("{count} streams for {} fields", self.streams.len());
                    return Err(pages.fault(fault));
                }
                let mut lengths = Vec::new();
                pages.take(2 * count, &mut lengths)?;
                let lengths = lengths.chunks_exact(2).map(|b| read_le!(b, 0, u16));
                for (stream, length) in self.streams.iter_mut().zip(lengths) {
                    stream.tidy();
                    pages.take(length.into(), &mut stream.bytes)?;
                }
                let ready = self.streams.iter().filter_map(Stream::ready).min();
                self.ready = ready.unwrap_or(usize::MAX);
            }
            _ => return Err(pages.fault(format!("packets of kind {kind} do not exist"))),
        }
        if pages.at > end {
            return Err(pages.fault("the packet before this byte is longer than it says"));
        }
        pages.at = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_sums_are_those_of_the_standard() {
        // Test vectors of RFC 3720, appendix B.4.
        assert_eq!(check_sum(&[0; 32]), 0x8a91_36aa);
        assert_eq!(check_sum(&[0xff; 32]), 0x62a8_ab43);
        let rising: Vec<u8> = (0..32).collect();
        assert_eq!(check_sum(&rising), 0x46dd_794e);
    }

    #[test]
    fn values_are_unpacked_across_bytes() {
        let integer = |min, max| RecordDataType::Integer { min, max };
        let read = |field: RecordDataType, bytes: &[u8]| {
            let mut stream = Stream {
                width: bits(&field) as usize,
                field,
                bytes: bytes.to_vec(),
                done: 0,
            };
            let ready = stream.ready();
            let values: Vec<String> = (0..ready.unwrap_or(2))
                .map(|_| stream.next().to_string())
                .collect();
            values.join(" ")
        };
        // From the lowest bit: 001, 010, 011 across the bytes, 110, 000.
        assert_eq!(read(integer(-3, 4), &[0xd1, 0x0c]), "-2 -1 0 3 -3");
        assert_eq!(read(integer(5, 5), &[]), "5 5");
        let extremes = [i64::MAX.to_le_bytes(), u64::MAX.to_le_bytes()].concat();
        let whole = integer(i64::MIN, i64::MAX);
        assert_eq!(read(whole, &extremes), "-1 9223372036854775807");
        let double = RecordDataType::Double {
            min: None,
            max: None,
        };
        assert_eq!(read(double, &1.5f64.to_le_bytes()), "1.5");
    }
}
