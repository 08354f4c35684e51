//! From the gradient of the hidden layer of the position encoding to that of the offsets: three multiply-adds per pair
//! and channel, dΔ += Σ_c [h_c > 0] P_c dh_c, after dh is computed again.

use super::super::pairs::{PairsOn, Sizes, pack_planes};
use super::KERNELS;
use crate::Result;
use crate::device::cuda::{Grid, args};
use crate::device::simd::{Kernel, Simd, dispatch};
use crate::device::{Gpu, Pointer, parallel};
use crate::geometry::Neighbors;

/// Points of one parallel chunk.
const POINTS: usize = 64;

/// Adds to `d_offsets` ([N·K, 3]) what flows through h = ReLU(P · (Δ, 1)) for P = `position` ([C, 4]). `gradient(point,
/// d_h)` writes dh of the point's pairs as [K, C].
pub fn add_offset_gradient(
    neighbors: &Neighbors,
    position: &[f32],
    d_offsets: &mut [f32],
    gradient: impl Fn(usize, &mut [f32]) + Send + Sync,
) {
    let (k, channels) = (neighbors.k, position.len() / 4);
    let stride = channels.next_multiple_of(16);
    let mut planes = vec![0.0; 4 * stride];
    pack_planes(position, stride, &mut planes);
    parallel::for_each_rows(d_offsets, 3 * k, POINTS, |first, d_offsets| {
        let mut d_h = vec![0.0; k * channels];
        for (point, d_offsets) in d_offsets.chunks_exact_mut(3 * k).enumerate() {
            gradient(first + point, &mut d_h);
            let pairs = (first + point) * k;
            let delta = neighbors.delta.each_ref().map(|plane| &plane[pairs..][..k]);
            dispatch(ThroughHidden {
                planes: &planes,
                delta,
                d_h: &d_h,
                d_offsets,
            });
        }
    });
}

/// The pairs of one point.
struct ThroughHidden<'a> {
    planes: &'a [f32],
    delta: [&'a [f32]; 3],
    d_h: &'a [f32],
    d_offsets: &'a mut [f32],
}

impl Kernel for ThroughHidden<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (stride, k) = (self.planes.len() / 4, self.delta[0].len());
        let channels = self.d_h.len() / k;
        for (pair, d_offset) in self.d_offsets.chunks_exact_mut(3).enumerate() {
            let place = self.delta.map(|plane| s.splat(plane[pair]));
            let d_h = &self.d_h[pair * channels..][..channels];
            let mut sums = [s.zero(); 3];
            for (v, d_h) in d_h.chunks(S::LANES).enumerate() {
                let plane = |i: usize| s.load(&self.planes[i * stride + v * S::LANES..]);
                let p = [plane(0), plane(1), plane(2)];
                let z = s.fma(p[0], place[0], plane(3));
                let z = s.fma(p[1], place[1], z);
                let z = s.fma(p[2], place[2], z);
                let d_z = s.where_positive(z, s.load_partial(d_h));
                for (sum, p) in sums.iter_mut().zip(p) {
                    *sum = s.fma(d_z, p, *sum);
                }
            }
            for (d, sum) in d_offset.iter_mut().zip(sums) {
                *d += s.sum(sum);
            }
        }
    }
}

/// What flows into h on a GPU, dh = a · b, for a chunk of pairs.
#[derive(Debug, Clone, Copy)]
pub struct HiddenOn {
    /// [pairs of the chunk, G]
    pub a: Pointer,
    /// Seed, stream and rate of the dropout of a, which then is 0 for missing neighbours too; none: all of a counts.
    pub drop: Option<(u64, u64, f32)>,
    /// [G, C], one for all pairs or one per point of the chunk
    pub b: Pointer,
    /// Whether there is one `b` per point.
    pub is_per_point: bool,
    /// [C, 4]
    pub position: Pointer,
}

/// As [`add_offset_gradient`], on a GPU, for `count` pairs from `first` on.
pub fn add_offset_gradient_on(
    gpu: Gpu,
    (pairs, sizes): (PairsOn, Sizes),
    hidden: HiddenOn,
    (first, count): (usize, usize),
    d_offsets: Pointer,
) -> Result<()> {
    let [x, y, z] = pairs.delta;
    let (seed, stream, rate) = hidden.drop.unwrap_or((0, 0, 0.0));
    let stride = match hidden.is_per_point {
        true => sizes.groups * sizes.channels,
        false => 0,
    };
    let args = args![
        hidden.a,
        hidden.drop.map(|_| pairs.index),
        seed,
        stream,
        rate,
        hidden.b,
        stride,
        hidden.position,
        x,
        y,
        z,
        first,
        count,
        sizes.k as u32,
        sizes.groups as u32,
        sizes.channels as u32,
        d_offsets
    ];
    let kernel = "offsets_backward_hidden";
    gpu.launch(&KERNELS, kernel, Grid::warps(count), args)
}

/// du_ig = Σ_{c of g} W2[c, :] d_y_ic on a GPU, as [points, G, C], for `count` points from `first` on.
pub fn sums_on(
    gpu: Gpu,
    sizes: Sizes,
    [d_y, w2]: [Pointer; 2],
    (first, count): (usize, usize),
    d_u: Pointer,
) -> Result<()> {
    let (groups, channels) = (sizes.groups as u32, sizes.channels as u32);
    let n = count * sizes.groups * sizes.channels;
    let args = args![d_y, w2, first, n, groups, channels, d_u];
    gpu.launch(&KERNELS, "offsets_backward_sums", Grid::strided(n), args)
}
