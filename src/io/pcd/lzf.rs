//! LZF, the compression of PCD files.
//!
//! A control byte below 32 starts a run of control + 1 plain bytes. Any other is a reference: the upper three bits are
//! the length minus 2 (7: one more byte adds to it), the lower five and the next byte are the distance minus 1.
//!
//! Source: Marc Lehmann, liblzf 3.6 (the stream format only).

const LONGEST_RUN: usize = 32;
const LONGEST_MATCH: usize = 264;
const FARTHEST: usize = 1 << 13;
/// Bytes that one compressed byte can stand for at most: three bytes give 264.
pub(super) const DENSEST: u64 = 88;

/// Expands `packed` to exactly `len` bytes. The caller bounds `len` by [`DENSEST`].
pub(super) fn unpack(packed: &[u8], len: usize) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(len);
    let mut at = 0;
    let mut take = || {
        let byte = packed.get(at).copied();
        at += 1;
        byte.ok_or_else(|| "compressed data end inside a reference".to_string())
    };
    while let Ok(control) = take() {
        if control < 32 {
            for _ in 0..=control {
                out.push(take()?);
            }
        } else {
            let mut run = usize::from(control >> 5) + 2;
            if control >> 5 == 7 {
                run += usize::from(take()?);
            }
            let distance = (usize::from(control & 31) << 8 | usize::from(take()?)) + 1;
            let start = (out.len().checked_sub(distance)).ok_or_else(|| {
                format!("a reference to {distance} bytes back at byte {}", out.len())
            })?;
            // The reference may reach into what it produces, so bytes go one by one.
            for i in 0..run {
                out.push(out[start + i]);
            }
        }
        if out.len() > len {
            return Err(format!("more than the promised {len} bytes"));
        }
    }
    match out.len() == len {
        true => Ok(out),
        false => Err(format!("{} bytes instead of the promised {len}", out.len())),
    }
}

fn put_plain(bytes: &[u8], out: &mut Vec<u8>) {
    for run in bytes.chunks(LONGEST_RUN) {
        out.push(run.len() as u8 - 1);
        out.extend_from_slice(run);
    }
}

/// Compresses bytes; the result may be longer than the input by one byte in 32.
pub(super) fn pack(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() / 2);
    // Last place + 1 of each hashed triple.
    let mut seen = vec![0usize; 1 << 16];
    let (mut at, mut plain) = (0, 0);
    while at + 2 < bytes.len() {
        let triple = u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], 0]);
        let slot = &mut seen[(triple.wrapping_mul(0x9e37_79b1) >> 16) as usize];
        let found = std::mem::replace(slot, at + 1);
        let distance = (at + 1).wrapping_sub(found);
        if found == 0 || distance > FARTHEST || bytes[found - 1..found + 2] != bytes[at..at + 3] {
            at += 1;
            continue;
        }
        let most = LONGEST_MATCH.min(bytes.len() - at);
        let run = (3..most)
            .find(|&i| bytes[found - 1 + i] != bytes[at + i])
            .unwrap_or(most);
        put_plain(&bytes[plain..at], &mut out);
        let (length, far) = (run - 2, distance - 1);
        out.push((length.min(7) << 5 | far >> 8) as u8);
        if length >= 7 {
            out.push((length - 7) as u8);
        }
        out.push(far as u8);
        at += run;
        plain = at;
    }
    put_plain(&bytes[plain..], &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_bytes_come_back() {
        let mut state = 1u32;
        let mut noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        for n in [0usize, 1, 2, 3, 4, 31, 32, 33, 264, 265, 1000, 100_000] {
            let random: Vec<u8> = (0..n).map(|_| noise()).collect();
            let few: Vec<u8> = (0..n).map(|_| noise() & 1).collect();
            for bytes in [random, few, vec![7; n]] {
                let packed = pack(&bytes);
                assert_eq!(unpack(&packed, n).unwrap(), bytes, "{n}");
                assert!(packed.len() <= n + n / 32 + 1);
            }
        }
        assert!(pack(&[0; 100_000]).len() < 1500);
    }

    #[test]
    fn damaged_streams_are_refused() {
        for (packed, len) in [
            (&[5u8, 1, 2][..], 6),
            (&[0x20, 0], 3),
            (&[0, 9, 0xe0], 10),
            (&[0, 9, 0x20, 5], 4),
            (&[1, 1, 2], 1),
            (&[1, 1, 2], 3),
        ] {
            assert!(unpack(packed, len).is_err(), "{packed:?}");
        }
    }
}
