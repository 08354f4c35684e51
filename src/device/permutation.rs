//! Rows of a matrix handed out in another order, to several threads at once.

use super::{Array, Gpu, Pointer};
use crate::{Error, Result};
use std::marker::PhantomData;
use std::ops::{Deref, Range};

/// An order of rows: every number below its length once.
#[derive(Debug, Clone, Default)]
pub struct Permutation {
    order: Array<u32>,
    /// Not yet looked at, since kernels made it and it may stay on their GPU.
    unchecked: bool,
}

impl Permutation {
    /// Errors unless every number below the length is there once.
    pub fn new(order: Vec<u32>) -> Result<Self> {
        check(&order)?;
        Ok(Permutation {
            order: order.into(),
            unchecked: false,
        })
    }

    /// An order that kernels made. Whether it is one is checked where safety depends on it, on the host.
    pub fn made(order: Array<u32>) -> Self {
        Permutation {
            order,
            unchecked: true,
        }
    }

    /// Address of the order on `gpu`.
    ///
    /// # Errors
    /// As [`Array::on`].
    pub fn on(&self, gpu: Gpu) -> Result<Pointer> {
        self.order.on(gpu)
    }

    /// Cuts `values` (a row of `width` values for every entry) into one set of rows for each pair of neighbouring
    /// `bounds`: set i holds the rows of the positions from bounds\[i\] to bounds\[i + 1\]. Panics when `values` has
    /// another size, the bounds fall or pass the end, or kernels made what is no permutation.
    pub fn split<'a>(
        &'a self,
        values: &'a mut [f32],
        width: usize,
        bounds: &[usize],
    ) -> Vec<Rows<'a>> {
        assert_eq!(values.len(), width * self.len(), "a row for every entry");
        assert!(bounds.is_sorted() && bounds.last().is_none_or(|b| *b <= self.len()));
        if self.unchecked {
            check(self).unwrap_or_else(|e| panic!("{e}"));
        }
        let base = values.as_mut_ptr();
        let rows = |ends: &[usize]| Rows {
            base,
            width,
            order: &self.order[ends[0]..ends[1]],
            first: ends[0],
            values: PhantomData,
        };
        bounds.windows(2).map(rows).collect()
    }
}

impl PartialEq for Permutation {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Deref for Permutation {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        &self.order
    }
}

fn check(order: &[u32]) -> Result<()> {
    let mut seen = vec![false; order.len()];
    for &row in order {
        match seen.get_mut(row as usize) {
            Some(seen) if !*seen => *seen = true,
            _ => {
                let fault = format!("row {row} of {} comes twice or does not exist", order.len());
                return Err(Error::argument("order of rows", fault));
            }
        }
    }
    Ok(())
}

/// The rows of a range of positions, wherever they lie.
#[derive(Debug)]
pub struct Rows<'a> {
    base: *mut f32,
    width: usize,
    order: &'a [u32],
    first: usize,
    values: PhantomData<&'a mut [f32]>,
}

// SAFETY: it stands for mutable slices of `f32` that no other `Rows` has, as `split` made sure.
unsafe impl Send for Rows<'_> {}

impl Rows<'_> {
    /// Positions that are here.
    pub fn positions(&self) -> Range<usize> {
        self.first..self.first + self.order.len()
    }

    /// The row of `position`. Panics when it is not here.
    #[inline]
    pub fn row(&mut self, position: usize) -> &mut [f32] {
        let row = self.order[position - self.first] as usize;
        // SAFETY: `row` is below the length of the order, for which there are `width` values each; all rows of all sets
        // differ, since the order is a permutation and the sets are of disjoint positions, so this borrow of the set
        // makes the slice unique.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(row * self.width), self.width) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rayon::prelude::*;

    #[test]
    fn every_row_is_handed_out_once() {
        let order = Permutation::new(vec![3, 0, 4, 1, 2]).unwrap();
        let mut values = vec![0.0; 10];
        let sets = order.split(&mut values, 2, &[0, 2, 2, 5]);
        assert_eq!(sets[2].positions(), 2..5);
        sets.into_par_iter().for_each(|mut rows| {
            for position in rows.positions() {
                rows.row(position)[1] = position as f32 + 1.0;
            }
        });
        assert_eq!(values, [0.0, 2.0, 0.0, 4.0, 0.0, 5.0, 0.0, 1.0, 0.0, 3.0]);
    }

    #[test]
    fn rows_that_come_twice_or_do_not_exist_are_refused() {
        for order in [vec![0, 0], vec![0, 2]] {
            assert!(Permutation::new(order).is_err());
        }
        assert!(Permutation::new(vec![]).is_ok());
    }

    #[test]
    #[should_panic(expected = "row 1 of 2 comes twice")]
    fn what_kernels_made_is_checked_before_rows_are_handed_out() {
        let order = Permutation::made(vec![1, 1].into());
        order.split(&mut [0.0; 2], 1, &[0, 1, 2]);
    }

    #[test]
    #[should_panic]
    fn positions_of_another_set_are_refused() {
        let order = Permutation::new(vec![1, 0]).unwrap();
        let mut values = vec![0.0; 2];
        let mut sets = order.split(&mut values, 1, &[0, 1, 2]);
        sets[0].row(1);
    }
}
