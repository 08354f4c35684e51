//! Memory of backward: a partial result of each part, and the buffers of a tile.

use super::super::super::super::pairs::{CHUNK, Sizes};
use crate::device::workspace::carve;

/// Where each gradient lies in a partial result.
#[derive(Debug, Clone, Copy)]
pub(in super::super::super) struct Layout {
    pub(super) w2: usize,
    pub(super) b2: usize,
    pub(super) planes: usize,
    pub(super) weight: usize,
    pub(super) constant: usize,
    pub(super) st: usize,
    /// Words of a partial result.
    pub size: usize,
}

impl Layout {
    pub fn new(sizes: Sizes) -> Self {
        let Sizes {
            groups, channels, ..
        } = sizes;
        let b2 = channels * channels;
        let planes = b2 + channels;
        let weight = planes + 4 * sizes.padded_channels();
        let constant = weight + groups * sizes.padded_groups();
        let st = constant + groups;
        Layout {
            w2: 0,
            b2,
            planes,
            weight,
            constant,
            st,
            size: st + 2 * groups,
        }
    }
}

/// Buffers of a tile. Columns are [G, stride].
pub(super) struct Buffers<'a> {
    pub deltas: &'a mut [f32],
    pub e: &'a mut [f32],
    pub r: &'a mut [f32],
    pub soft: &'a mut [f32],
    pub w: &'a mut [f32],
    pub d: &'a mut [f32],
    pub d_r: &'a mut [f32],
    /// r as rows of padded G
    pub r_rows: &'a mut [f32],
    pub rows: &'a mut [f32],
    pub sums: &'a mut [f32],
    pub columns: &'a mut [f32],
    pub hidden: &'a mut [f32],
    pub d_hidden: &'a mut [f32],
    pub u: &'a mut [f32],
    pub d_u: &'a mut [f32],
}

impl<'a> Buffers<'a> {
    pub fn sizes(sizes: Sizes) -> [usize; 15] {
        let (stride, tile, groups) = (sizes.stride(), sizes.tile(), sizes.groups);
        let columns = groups * stride;
        let rows = stride * sizes.padded_groups();
        let (hidden, u) = (sizes.k * CHUNK, tile * groups * CHUNK);
        let position = CHUNK * stride;
        [
            3 * stride,
            columns,
            columns,
            columns,
            columns,
            columns,
            columns,
            rows,
            columns,
            tile * groups,
            position,
            hidden,
            hidden,
            u,
            u,
        ]
    }

    pub fn carve(rest: &mut &'a mut [f32], sizes: Sizes) -> Self {
        let [
            deltas,
            e,
            r,
            soft,
            w,
            d,
            d_r,
            r_rows,
            rows,
            sums,
            columns,
            hidden,
            d_hidden,
            u,
            d_u,
        ] = Self::sizes(sizes).map(|words| carve(rest, words));
        Buffers {
            deltas,
            e,
            r,
            soft,
            w,
            d,
            d_r,
            r_rows,
            rows,
            sums,
            columns,
            hidden,
            d_hidden,
            u,
            d_u,
        }
    }
}
