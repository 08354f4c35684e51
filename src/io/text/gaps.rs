//! The lines between rows: comments, blank lines, headers of blocks.

/// Memory that the lines between rows may take, bytes.
pub const MOST: usize = 16 << 20;

/// Lines and where they stand.
#[derive(Debug, Default)]
pub struct Gaps {
    bytes: Vec<u8>,
    /// For each gap, the number of points before it, and where its lines end in the bytes.
    places: Vec<(u64, usize)>,
}

impl Gaps {
    /// Adds a line before point `before`; false when there is no room.
    pub fn add(&mut self, before: u64, line: &[u8]) -> bool {
        if self.size() + line.len() + size_of::<(u64, usize)>() > MOST {
            return false;
        }
        self.bytes.extend_from_slice(line);
        match self.places.last_mut().filter(|(last, _)| *last == before) {
            Some((_, end)) => *end = self.bytes.len(),
            None => self.places.push((before, self.bytes.len())),
        }
        true
    }

    /// Bytes in use.
    pub fn size(&self) -> usize {
        self.bytes.len() + size_of_val(&self.places[..])
    }

    /// The number of points before a gap, and its lines.
    pub fn get(&self, gap: usize) -> Option<(u64, &[u8])> {
        let (before, end) = *self.places.get(gap)?;
        let start = gap.checked_sub(1).map_or(0, |last| self.places[last].1);
        Some((before, &self.bytes[start..end]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_back_where_they_were_until_there_is_no_room() {
        let mut gaps = Gaps::default();
        for (before, line) in [(0, "# a\n"), (0, "\n"), (7, "# b\n")] {
            assert!(gaps.add(before, line.as_bytes()));
        }
        assert_eq!(gaps.get(0), Some((0, &b"# a\n\n"[..])));
        assert_eq!(gaps.get(1), Some((7, &b"# b\n"[..])));
        assert_eq!(gaps.get(2), None);
        let kept = (8..).take_while(|n| gaps.add(*n, b"\n")).count();
        assert!((MOST / 20..MOST / 16).contains(&kept), "{kept}");
        assert!(!gaps.add(0, b"\n"));
    }
}
