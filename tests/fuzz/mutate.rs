//! Damage to bytes of any kind, the same for the same number.

/// A small deterministic generator (splitmix64).
pub struct Random(pub u64);

/// Longest result, bytes.
const LONGEST: usize = 100_000;
/// What fields of a byte are set to.
const BYTES: [u8; 12] = [
    0, 1, 0x7f, 0x80, 0xff, b' ', b'\n', b'-', b'9', b'"', b'{', b',',
];
/// What numbers in text are set to.
const WORDS: [&str; 16] = [
    "0",
    "1",
    "-1",
    "255",
    "256",
    "65536",
    "2147483648",
    "4294967295",
    "18446744073709551615",
    "99999999999999999999",
    "1e308",
    "-1e400",
    "5e-324",
    "nan",
    "inf",
    "0x10",
];
/// What floating-point fields are set to.
const FLOATS: [f64; 8] = [
    f64::NAN,
    f64::INFINITY,
    f64::MAX,
    f64::MIN_POSITIVE,
    -0.0,
    1e19,
    -1e38,
    0.5,
];

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// A place in bytes of this length; headers are hit more often than points.
    fn place(&mut self, length: usize) -> usize {
        let reach = self.one(&[length, length, 500, 120]);
        self.below(reach.min(length))
    }

    /// The start and end of some bytes, mostly few.
    fn block(&mut self, length: usize) -> std::ops::Range<usize> {
        let most = self.one(&[2, 8, 64, 64, 1024]);
        let start = self.place(length);
        start..(start + 1 + self.below(most)).min(length)
    }
}

/// The damaged form with this number of one of the seeds.
pub fn damaged(seeds: &[Vec<u8>], number: u64) -> Vec<u8> {
    let mut random = Random(number.wrapping_mul(0x2545_f491_4f6c_dd1d));
    let mut bytes = seeds[random.below(seeds.len())].clone();
    let most = random.one(&[1, 2, 4, 8]);
    for _ in 0..1 + random.below(most) {
        if bytes.is_empty() {
            bytes.push(0);
        }
        damage(&mut bytes, seeds, &mut random);
    }
    bytes.truncate(LONGEST);
    bytes
}

fn damage(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) {
    let at = random.place(bytes.len());
    match random.below(16) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = random.next() as u8,
        2 => bytes[at] = random.one(&BYTES),
        3..=5 => integer(bytes, at, random),
        6 => {
            let x = random.one(&FLOATS);
            match random.below(2) {
                0 => put(bytes, at, &x.to_le_bytes()),
                _ => put(bytes, at, &(x as f32).to_le_bytes()),
            }
        }
        7 | 8 => number(bytes, at, random),
        9 => bytes.truncate(at),
        10 => drop(bytes.drain(random.block(bytes.len()))),
        11 => {
            // Many times over, a bracket becomes a deep nest.
            let times = random.one(&[1, 1, 1, 1, 20, 2000]);
            let some = bytes[random.block(bytes.len())].repeat(times);
            bytes.splice(at..at, some.into_iter().take(LONGEST));
        }
        12 => {
            let some = bytes[random.block(bytes.len())].to_vec();
            put(bytes, at, &some);
        }
        13 => {
            let value = random.one(&BYTES);
            let block = random.block(bytes.len());
            bytes[block].fill(value);
        }
        14 => line(bytes, at, random),
        _ => splice(bytes, at, &seeds[random.below(seeds.len())], random),
    }
}

/// Writes over what is there, as far as there is something.
fn put(bytes: &mut [u8], at: usize, new: &[u8]) {
    let end = (at + new.len()).min(bytes.len());
    bytes[at..end].copy_from_slice(&new[..end - at]);
}

/// Sets an integer of one to eight bytes to the ends of its range, to lengths, or near to what it was.
fn integer(bytes: &mut [u8], at: usize, random: &mut Random) {
    let width = random.one(&[1, 2, 4, 8]);
    let at = at / width * width;
    let end = (at + width).min(bytes.len());
    let mut old = [0; 8];
    old[..end - at].copy_from_slice(&bytes[at..end]);
    let old = u64::from_le_bytes(old);
    let length = bytes.len() as u64;
    let top = 1u64 << (8 * width - 1);
    let new = match random.below(12) {
        0 => 0,
        1 => 1,
        2 => u64::MAX,
        3 => top,
        4 => top - 1,
        5 => length,
        6 => length + 1,
        7 => old.wrapping_add(1),
        8 => old.wrapping_sub(1),
        9 => old.wrapping_mul(2),
        10 => 1 << random.below(64),
        _ => random.next(),
    };
    let new = match random.below(4) {
        0 => new.swap_bytes() >> (64 - 8 * width),
        _ => new,
    };
    bytes[at..end].copy_from_slice(&new.to_le_bytes()[..end - at]);
}

/// Puts another number for the next one in a text.
fn number(bytes: &mut Vec<u8>, at: usize, random: &mut Random) {
    let is_digit = |b: &u8| b.is_ascii_digit();
    let Some(start) = bytes[at..].iter().position(is_digit).map(|n| at + n) else {
        return;
    };
    let end = bytes[start..]
        .iter()
        .position(|b| !is_digit(b))
        .map_or(bytes.len(), |n| start + n);
    bytes.splice(start..end, random.one(&WORDS).bytes());
}

/// Doubles or removes a line of a text.
fn line(bytes: &mut Vec<u8>, at: usize, random: &mut Random) {
    let is_end = |b: &u8| *b == b'\n';
    let start = bytes[..at].iter().rposition(is_end).map_or(0, |n| n + 1);
    let end = bytes[at..]
        .iter()
        .position(is_end)
        .map_or(bytes.len(), |n| at + n + 1);
    match random.below(2) {
        0 => drop(bytes.drain(start..end)),
        _ => {
            let line = bytes[start..end].to_vec();
            let to = random.one(&[start, bytes.len()]);
            bytes.splice(to..to, line);
        }
    }
}

/// Puts a part of another seed in, or goes on with its end.
fn splice(bytes: &mut Vec<u8>, at: usize, other: &[u8], random: &mut Random) {
    if other.is_empty() {
        return;
    }
    match random.below(2) {
        0 => {
            let some = &other[random.block(other.len())];
            bytes.splice(at..at, some.iter().copied());
        }
        _ => {
            bytes.truncate(at);
            bytes.extend_from_slice(&other[at.min(other.len())..]);
        }
    }
}
