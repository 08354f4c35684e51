//! Where the coordinates that a network sees start.

use super::augment::center_shift;
use serde::{Deserialize, Serialize};

/// The frame of a network's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Frame {
    /// The middle of the x and y extent is 0, z stays (Point Transformer V2's code).
    #[default]
    Center,
    /// The smallest x, y and z are 0 (Stratified Transformer's code).
    Corner,
}

impl Frame {
    /// True for the frame of descriptions that name none.
    pub fn is_default(&self) -> bool {
        *self == Frame::default()
    }

    /// Moves a cloud, metres, into the frame.
    pub fn place(self, coord: &mut [[f32; 3]]) {
        if self == Frame::Center {
            return center_shift(coord, false);
        }
        let mut low = [f32::INFINITY; 3];
        for p in coord.iter() {
            low = std::array::from_fn(|axis| low[axis].min(p[axis]));
        }
        for p in coord {
            *p = std::array::from_fn(|axis| p[axis] - low[axis]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clouds_start_where_the_frame_says() {
        let cloud = [[1.0, -2.0, 3.0], [5.0, 0.0, 4.0]];
        let placed = |frame: Frame| {
            let mut moved = cloud;
            frame.place(&mut moved);
            moved
        };
        assert_eq!(placed(Frame::Corner), [[0.0; 3], [4.0, 2.0, 1.0]]);
        assert_eq!(placed(Frame::Center), [[-2.0, -1.0, 3.0], [2.0, 1.0, 4.0]]);
        Frame::Corner.place(&mut []);
    }
}
