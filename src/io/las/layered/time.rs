//! The layer of GPS times.
//!
//! Points come from up to four series of times, for instance of several scanners. A time follows the last one of its
//! series by about the step before or a multiple of it; a series without a step yet codes the difference, and a time far
//! from all series starts a new one in place of the oldest.

use super::arithmetic::{DAMAGED, Decoded, Layer, Model};
use super::integer::Integers;

/// Largest multiple of the step; that many symbols stand for multiples from 0 on.
const MOST: i32 = 500;
/// Smallest multiple.
const LEAST: i32 = -10;
/// The symbol of a time that starts a series; the three after it turn to another series.
const START: i32 = MOST - LEAST + 1;
/// Points beside the step, after which the step is what they were beside it.
const PATIENCE: u32 = 3;

/// Times as integers, the bits of f64.
#[derive(Default, Clone, Copy)]
struct One {
    time: i64,
    step: i32,
    /// Times that were no fair multiple of the step, since it was set.
    odd: u32,
}

pub(super) struct Series {
    all: [One; 4],
    /// The series of the last point.
    now: usize,
    /// The series that was started last.
    newest: usize,
    /// Symbols while the step is zero.
    starts: Model,
    multiples: Model,
    integers: Integers,
}

impl Series {
    /// One series, which starts at a time.
    pub fn new(time: i64) -> Series {
        let mut all = [One::default(); 4];
        all[0].time = time;
        Series {
            all,
            now: 0,
            newest: 0,
            starts: Model::new(5),
            multiples: Model::new((START + 4) as usize),
            integers: Integers::new(32, 9),
        }
    }

    /// The next time, which differs from the last one.
    ///
    /// A writer turns to another series once, if the time lies near that one. Damaged bytes could turn for ever: a turn
    /// may take a 36 000th of a byte.
    pub fn next(&mut self, layer: &mut Layer) -> Decoded<i64> {
        for _ in 0..self.all.len() {
            let turns = match self.all[self.now].step {
                0 => self.first(layer)?,
                _ => self.further(layer)?,
            };
            if turns == 0 {
                return Ok(self.all[self.now].time);
            }
            self.now = (self.now + turns) % self.all.len();
        }
        Err(DAMAGED)
    }

    /// A time of a series without a step. Gives how many series to go on, if it is not of this one.
    fn first(&mut self, layer: &mut Layer) -> Decoded<usize> {
        match layer.symbol(&mut self.starts)? {
            0 => {
                let step = self.integers.next(layer, 0, 0)?;
                let time = self.all[self.now].time.wrapping_add(step.into());
                self.all[self.now] = One { time, step, odd: 0 };
                Ok(0)
            }
            1 => self.start(layer),
            other => Ok(other - 1),
        }
    }

    /// A time of a series with a step, as [`Series::first`].
    fn further(&mut self, layer: &mut Layer) -> Decoded<usize> {
        let symbol = layer.symbol(&mut self.multiples)? as i32;
        if symbol == START {
            return self.start(layer);
        }
        if symbol > START {
            return Ok((symbol - START) as usize);
        }
        // The symbols after the largest multiple stand for −1 and less.
        let multiple = if symbol > MOST { MOST - symbol } else { symbol };
        let context = match multiple {
            1 => 1,
            2..10 => 2,
            10..MOST => 3,
            MOST => 4,
            0 => 7,
            LEAST => 6,
            _ => 5,
        };
        let one = &mut self.all[self.now];
        let predicted = multiple.wrapping_mul(one.step);
        let difference = self.integers.next(layer, predicted, context)?;
        one.time = one.time.wrapping_add(difference.into());
        match multiple {
            1 => one.odd = 0,
            0 | LEAST | MOST => one.odd += 1,
            _ => {}
        }
        if one.odd > PATIENCE {
            (one.step, one.odd) = (difference, 0);
        }
        Ok(0)
    }

    /// A time that starts a series: its upper half by that of the last one, its lower half as it is.
    fn start(&mut self, layer: &mut Layer) -> Decoded<usize> {
        let upper = (self.all[self.now].time >> 32) as i32;
        let upper = self.integers.next(layer, upper, 8)?;
        let time = i64::from(upper) << 32 | i64::from(layer.bits(32)?);
        self.newest = (self.newest + 1) % self.all.len();
        self.now = self.newest;
        self.all[self.now] = One {
            time,
            ..One::default()
        };
        Ok(0)
    }
}
