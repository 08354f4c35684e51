//! The weighted sum of values, y_ic = Σ_j w_ijg(c) v_jc, what follows from it, and the projection W2 u.
//!
//! Results are held with groups padded to whole short vectors: [points, G, padded I].

use super::{SHORT, Sizes};
use crate::device::gemm::{Store, View, ViewMut, block_product};
use crate::device::simd::{MAX_LANES, Simd};
use crate::geometry::MISSING;

/// Short vectors that are summed in registers at once.
const TOGETHER: usize = 6;
/// Neighbours whose products are summed at once.
const FOUR: usize = 4;
/// Bytes that stay in the second-level cache anyway, so that hints would only cost time.
const CACHED: usize = 1 << 20;

/// A short vector of channels of one group.
#[derive(Clone, Copy, Default)]
struct Slot {
    group: usize,
    first: usize,
    length: usize,
}

#[inline(always)]
fn slot(sizes: Sizes, number: usize) -> Slot {
    let per_group = sizes.padded_width() / SHORT;
    let (group, within) = (number / per_group, number % per_group * SHORT);
    Slot {
        group,
        first: group * sizes.width() + within,
        length: SHORT.min(sizes.width() - within),
    }
}

/// Sum over the neighbours of every (group, point): `out` is [points, G] from `w` ([G, stride]).
#[inline(always)]
pub fn weight_sums<S: Simd>(s: S, w: &[f32], sizes: Sizes, out: &mut [f32]) {
    let stride = w.len() / sizes.groups;
    for (point, out) in out.chunks_exact_mut(sizes.groups).enumerate() {
        for (w, out) in w.chunks_exact(stride).zip(out) {
            let mut sum = s.zero();
            for part in w[point * sizes.k..][..sizes.k].chunks(S::LANES) {
                sum = s.add(sum, s.load_partial(part));
            }
            *out = s.sum(sum);
        }
    }
}

/// Hints that the rows of `table` ([points, width]) which `index` names will be read soon.
#[inline(always)]
pub fn prefetch_rows<S: Simd>(s: S, table: &[f32], index: &[u32], width: usize) {
    if size_of_val(table) <= CACHED {
        return;
    }
    for row in index.iter().filter(|row| **row != MISSING) {
        s.prefetch(&table[*row as usize * width..][..width]);
    }
}

/// Adds Σ_j w v to `y` ([points, G, padded I]): `v` is [points of the cloud, C], `index` names the neighbours of the
/// tile's points, `w` is [G, stride].
#[inline(always)]
pub fn gather_values<S: Simd>(
    s: S,
    v: &[f32],
    index: &[u32],
    w: &[f32],
    sizes: Sizes,
    y: &mut [f32],
) {
    let s = s.narrow();
    let slots = sizes.groups * sizes.padded_width() / SHORT;
    let stride = w.len() / sizes.groups;
    let points = index
        .chunks_exact(sizes.k)
        .zip(y.chunks_exact_mut(slots * SHORT));
    for (point, (index, y)) in points.enumerate() {
        let w = &w[point * sizes.k..];
        let mut number = 0;
        while number < slots {
            let y = &mut y[number * SHORT..];
            if slots - number >= TOGETHER && sizes.width().is_multiple_of(SHORT) {
                whole_slots::<S::Narrow, TOGETHER>(s, (v, index), (w, stride), sizes, number, y);
                number += TOGETHER;
            } else if slots - number >= 2 && sizes.width().is_multiple_of(SHORT) {
                whole_slots::<S::Narrow, 2>(s, (v, index), (w, stride), sizes, number, y);
                number += 2;
            } else {
                any_slot(s, (v, index), (w, stride), sizes, slot(sizes, number), y);
                number += 1;
            }
        }
    }
}

#[inline(always)]
fn whole_slots<S: Simd, const N: usize>(
    s: S,
    (v, index): (&[f32], &[u32]),
    (w, stride): (&[f32], usize),
    sizes: Sizes,
    number: usize,
    y: &mut [f32],
) {
    let mut weights = [w; N];
    for (a, weights) in weights.iter_mut().enumerate() {
        let group = (number + a) * SHORT / sizes.width();
        *weights = &w[group * stride..][..index.len()];
    }
    let mut sums = [s.zero(); N];
    for (a, sum) in sums.iter_mut().enumerate() {
        *sum = s.load(&y[a * SHORT..]);
    }
    for (j, &row) in index.iter().enumerate() {
        if row == MISSING {
            continue;
        }
        let row = &v[row as usize * sizes.channels + number * SHORT..][..N * SHORT];
        for (a, part) in row.chunks_exact(SHORT).enumerate() {
            sums[a] = s.fma(s.splat(weights[a][j]), s.load(part), sums[a]);
        }
    }
    for (a, sum) in sums.iter().enumerate() {
        s.store(&mut y[a * SHORT..], *sum);
    }
}

#[inline(always)]
fn any_slot<S: Simd>(
    s: S,
    (v, index): (&[f32], &[u32]),
    (w, stride): (&[f32], usize),
    sizes: Sizes,
    slot: Slot,
    y: &mut [f32],
) {
    let w = &w[slot.group * stride..][..index.len()];
    let mut sum = s.load(y);
    for (w, &row) in w.iter().zip(index) {
        if row != MISSING {
            let part = &v[row as usize * sizes.channels + slot.first..][..slot.length];
            sum = s.fma(s.splat(*w), s.load_partial(part), sum);
        }
    }
    s.store(y, sum);
}

/// For the pairs of the tile, Σ_{c of group} d_y_ic v_jc into `out` ([G, stride], zero where missing and behind the
/// last pair). `d_y` is [points, C].
#[inline(always)]
pub fn value_products<S: Simd>(
    s: S,
    v: &[f32],
    index: &[u32],
    d_y: &[f32],
    sizes: Sizes,
    out: &mut [f32],
) {
    let stride = out.len() / sizes.groups;
    out.fill(0.0);
    let (k, channels, width) = (sizes.k, sizes.channels, sizes.width());
    if width == SHORT && k.is_multiple_of(FOUR) {
        short_products(s.narrow(), (v, index), d_y, sizes, out);
        return;
    }
    let points = index.chunks_exact(k).zip(d_y.chunks_exact(channels));
    for (point, (index, d_y)) in points.enumerate() {
        for (part, index) in index.chunks(S::LANES).enumerate() {
            let mut starts = [0; MAX_LANES];
            for (start, row) in starts.iter_mut().zip(index) {
                *start = if *row == MISSING { 0 } else { *row as usize };
                *start *= channels;
            }
            let at = point * k + part * S::LANES;
            for group in 0..sizes.groups {
                let first = group * width;
                let products = products(s, v, &starts, first, &d_y[first..first + width]);
                let out = &mut out[group * stride + at..][..index.len()];
                s.store_partial(out, products);
            }
            for (lane, _) in index.iter().enumerate().filter(|(_, row)| **row == MISSING) {
                for group in 0..sizes.groups {
                    out[group * stride + at + lane] = 0.0;
                }
            }
        }
    }
}

/// [`value_products`] where a group is one short vector and neighbours come in fours.
#[inline(always)]
fn short_products<S: Simd>(
    s: S,
    (v, index): (&[f32], &[u32]),
    d_y: &[f32],
    sizes: Sizes,
    out: &mut [f32],
) {
    let stride = out.len() / sizes.groups;
    let (k, channels) = (sizes.k, sizes.channels);
    let points = index.chunks_exact(k).zip(d_y.chunks_exact(channels));
    for (point, (index, d_y)) in points.enumerate() {
        for (part, four) in index.chunks_exact(FOUR).enumerate() {
            let mut rows = [&v[..0]; FOUR];
            for (slice, row) in rows.iter_mut().zip(four) {
                *slice = match *row {
                    MISSING => d_y, // any row: its products are zeroed below
                    row => &v[row as usize * channels..][..channels],
                };
            }
            let at = point * k + part * FOUR;
            for (group, d_y) in d_y.chunks_exact(SHORT).enumerate() {
                let d_y = s.load(d_y);
                let mut terms = [s.zero(); FOUR];
                for (term, row) in terms.iter_mut().zip(rows) {
                    *term = s.mul(d_y, s.load(&row[group * SHORT..]));
                }
                let out = out[group * stride + at..].first_chunk_mut();
                s.sums_of_four(terms, out.expect("a column holds every pair"));
            }
            for (lane, _) in four.iter().enumerate().filter(|(_, row)| **row == MISSING) {
                for group in 0..sizes.groups {
                    out[group * stride + at + lane] = 0.0;
                }
            }
        }
    }
}

/// Σ_c d_y[c] v[starts[lane] + first + c] per lane.
#[inline(always)]
fn products<S: Simd>(
    s: S,
    v: &[f32],
    starts: &[usize; MAX_LANES],
    first: usize,
    d_y: &[f32],
) -> S::V {
    let mut sum = s.zero();
    let fours = d_y.chunks_exact(4);
    let rest = fours.remainder();
    let tail = first + d_y.len() - rest.len();
    for (four, d_y) in fours.enumerate() {
        let columns = s.load_columns(&v[first + 4 * four..], starts);
        for (column, d_y) in columns.iter().zip(d_y) {
            sum = s.fma(*column, s.splat(*d_y), sum);
        }
    }
    for (c, d_y) in rest.iter().enumerate() {
        let mut column = [0.0; MAX_LANES];
        for (x, start) in column[..S::LANES].iter_mut().zip(starts) {
            *x = v[start + tail + c];
        }
        sum = s.fma(s.load(&column), s.splat(*d_y), sum);
    }
    sum
}

/// W2 ([C, C]) turned for [`project`]: [G, padded C, padded I], zero in the padding.
pub fn pack_projection(w2: &[f32], sizes: Sizes, out: &mut [f32]) {
    let (padded, padded_width) = (sizes.padded_channels(), sizes.padded_width());
    out[..sizes.groups * padded * padded_width].fill(0.0);
    for (c, row) in w2.chunks_exact(sizes.channels).enumerate() {
        let (group, within) = (c / sizes.width(), c % sizes.width());
        for (channel, value) in row.iter().enumerate() {
            out[(group * padded + channel) * padded_width + within] = *value;
        }
    }
}

/// A packed W2 and the chunk of its inner channels to use.
#[derive(Debug, Clone, Copy)]
pub struct Projection<'a> {
    /// From [`pack_projection`].
    pub packed: &'a [f32],
    /// First inner channel.
    pub first: usize,
    /// Number of inner channels.
    pub width: usize,
}

/// Adds W2[:, chunk] · u to `y` ([points, G, padded I]); `u` is [points, G, chunk].
#[inline(always)]
pub fn project<S: Simd>(s: S, w2: Projection<'_>, u: &[f32], sizes: Sizes, y: &mut [f32]) {
    let (groups, short) = (sizes.groups, sizes.padded_width());
    let points = y.len() / (groups * short);
    for group in 0..groups {
        let rows = &w2.packed[(group * sizes.padded_channels() + w2.first) * short..];
        let y = ViewMut::strided(&mut y[group * short..], [points, short], groups * short);
        let u = View::strided(
            &u[group * w2.width..],
            [points, w2.width],
            [groups * w2.width, 1],
        );
        let rows = View::new(rows, w2.width, short);
        if S::REGISTERS >= 32 {
            block_product::<S::Narrow, 16, 1>(s.narrow(), y, u, rows, Store::Add);
        } else {
            block_product::<S::Narrow, 12, 1>(s.narrow(), y, u, rows, Store::Add);
        }
    }
}
