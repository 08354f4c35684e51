//! Ragged lists: S lists of row numbers stored one after another, and how to turn an index table around.

use super::MISSING;
use crate::device::Array;
use crate::{Error, Result};

/// S lists of row numbers, stored one after another.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ragged {
    /// Where each list starts and ends: S+1 entries, the first is 0.
    pub offsets: Array<u32>,
    /// The row numbers of all lists.
    pub index: Array<u32>,
}

impl Ragged {
    /// Number of lists.
    pub fn len(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// True when there is no list at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The `list`-th list.
    pub fn list(&self, list: usize) -> &[u32] {
        &self.index[self.offsets[list] as usize..self.offsets[list + 1] as usize]
    }

    /// Turns an index table around: list r of the result holds the positions of `index` whose value is r, ascending.
    /// [`MISSING`] entries belong to no list. This is what makes a scatter (backward of a gather) a gather: every row
    /// adds up its own list, in a fixed order, without atomics.
    ///
    /// Counting sort, O(len + rows). Errors when a value is neither `MISSING` nor below `rows`, or when a position does
    /// not fit 32 bits.
    pub fn inverse(index: &[u32], rows: usize) -> Result<Ragged> {
        check_length("index table", index.len())?;
        check_length("rows", rows)?;
        let mut ends = vec![0u32; rows + 1];
        for (position, &row) in index.iter().enumerate() {
            match ends.get_mut(row as usize) {
                Some(count) if (row as usize) < rows => *count += 1,
                _ if row == MISSING => {}
                _ => {
                    return Err(Error::argument(
                        "index table",
                        format!("entry {position} is {row}, but there are {rows} rows"),
                    ));
                }
            }
        }
        let mut total = 0;
        for end in &mut ends {
            total += std::mem::replace(end, total);
        }
        // `ends[r]` is now the start of list r; filling moves it to the end of list r, the start of list r+1.
        let mut positions = vec![0u32; total as usize];
        for (position, &row) in index.iter().enumerate() {
            if row != MISSING {
                let slot = &mut ends[row as usize];
                positions[*slot as usize] = position as u32;
                *slot += 1;
            }
        }
        ends.rotate_right(1);
        ends[0] = 0;
        Ok(Ragged {
            offsets: ends.into(),
            index: positions.into(),
        })
    }

    /// Errors unless the offsets start at 0, never fall and end at the number of indices, and every index is below
    /// `rows`.
    pub fn check(&self, rows: usize) -> Result<()> {
        let fault = |fault: String| Err(Error::argument("ragged lists", fault));
        if let (Some(ends), Some(below)) = (self.offsets.known_rows(), self.index.known_rows())
            && ends <= self.index.len() + 1
            && below <= rows
        {
            return Ok(()); // kernels made these lists in order, and they stay on the GPU
        }
        let (Some(&first), Some(&last)) = (self.offsets.first(), self.offsets.last()) else {
            return fault("no offsets; even without lists there must be a 0".into());
        };
        if first != 0 || last as usize != self.index.len() {
            return fault(format!(
                "offsets run from {first} to {last} over {} indices",
                self.index.len()
            ));
        }
        if let Some(list) = self.offsets.windows(2).position(|w| w[0] > w[1]) {
            return fault(format!("offsets fall at list {list}"));
        }
        match self.index.iter().position(|&row| row as usize >= rows) {
            Some(at) => fault(format!(
                "entry {at} is {}, but there are {rows} rows",
                self.index[at]
            )),
            None => Ok(()),
        }
    }
}

/// Errors unless `offsets` is a valid batch over `points` points: B+1 entries from 0 to `points` that never fall, and
/// point numbers that fit 32 bits.
pub fn check_offsets(offsets: &[usize], points: usize) -> Result<()> {
    check_length("points", points)?;
    let fault = |fault: String| Err(Error::argument("batch offsets", fault));
    if offsets.first() != Some(&0) {
        return fault("must start with 0".into());
    }
    if let Some(element) = offsets.windows(2).position(|w| w[0] > w[1]) {
        return fault(format!("fall at batch element {element}"));
    }
    match offsets.last() {
        Some(&last) if last == points => Ok(()),
        last => fault(format!(
            "end at {}, but there are {points} points",
            last.copied().unwrap_or(0)
        )),
    }
}

/// Errors when `length` items cannot be numbered below [`MISSING`].
pub(super) fn check_length(what: &str, length: usize) -> Result<()> {
    if length >= MISSING as usize {
        return Err(Error::argument(
            what,
            format!(
                "{length} is too many: 32-bit numbers allow less than {MISSING}; use smaller batches"
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inverse_lists_the_positions_of_each_row_ascending() {
        let lists = Ragged::inverse(&[2, 0, MISSING, 2, 3, 0], 5).unwrap();
        assert_eq!(lists.len(), 5);
        assert_eq!(lists.list(0), [1, 5]);
        assert!(lists.list(1).is_empty());
        assert_eq!(lists.list(2), [0, 3]);
        assert_eq!(lists.list(3), [4]);
        assert!(lists.list(4).is_empty());
        lists.check(6).unwrap();
        assert!(lists.check(5).is_err());
    }

    #[test]
    fn inverse_of_nothing_has_empty_lists() {
        assert_eq!(Ragged::inverse(&[], 0).unwrap().len(), 0);
        assert!(Ragged::inverse(&[MISSING], 2).unwrap().list(1).is_empty());
    }

    #[test]
    fn inverse_rejects_rows_that_do_not_exist() {
        for bad in [5, MISSING - 1] {
            let message = Ragged::inverse(&[0, bad], 5).unwrap_err().to_string();
            assert!(message.contains("entry 1"), "{message}");
            assert!(message.contains(&bad.to_string()), "{message}");
        }
    }

    #[test]
    fn broken_lists_are_rejected() {
        let lists = |offsets: &[u32], index: &[u32]| Ragged {
            offsets: offsets.to_vec().into(),
            index: index.to_vec().into(),
        };
        assert!(lists(&[0, 2], &[0, 1]).check(2).is_ok());
        assert!(lists(&[], &[]).check(2).is_err());
        assert!(lists(&[1, 2], &[0, 1]).check(2).is_err());
        assert!(lists(&[0, 1], &[0, 1]).check(2).is_err());
        assert!(lists(&[0, 2, 1, 2], &[0, 1]).check(2).is_err());
        assert!(lists(&[0, 2], &[0, 2]).check(2).is_err());
    }

    #[test]
    fn broken_batches_are_rejected() {
        assert!(check_offsets(&[0, 3, 3, 5], 5).is_ok());
        assert!(check_offsets(&[0], 0).is_ok());
        for (offsets, points) in [
            (&[][..], 0),
            (&[1, 5][..], 5),
            (&[0, 4, 3, 5][..], 5),
            (&[0, 4][..], 5),
        ] {
            assert!(check_offsets(offsets, points).is_err(), "{offsets:?}");
        }
    }
}
