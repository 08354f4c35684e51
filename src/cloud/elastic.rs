//! Elastic distortion: smooth random displacement of neighbourhoods ("ElasticDistortion" of the reference).
//!
//! Standard normal noise (three components) on a grid of spacing `granularity`, floor(extent / granularity) + 3 nodes per
//! axis starting one node below the lowest coordinate; smoothed twice by a 3-tap box along x, y and z with zero borders;
//! trilinearly interpolated at the points and added times `magnitude`. Lengths are metres.
//! Time: O(N + nodes). Memory: 24 bytes per node. Errors: more than [`MOST_NODES`] nodes.

use crate::device::random::Random;
use crate::{Error, Result};
use rayon::prelude::*;

/// Largest grid, in nodes: 400 MB.
pub const MOST_NODES: usize = 1 << 24;

/// A vector field on a regular grid, x slowest, z fastest.
struct Field {
    size: [usize; 3],
    value: Vec<[f32; 3]>,
}

/// Displaces `coord` by the field that the random stream `noise` gives.
///
/// # Errors
/// A grid of more than [`MOST_NODES`] nodes, or extents that are not finite.
pub fn distort(coord: &mut [[f32; 3]], granularity: f64, magnitude: f64, noise: u64) -> Result<()> {
    if coord.is_empty() {
        return Ok(());
    }
    let mut low = [f32::INFINITY; 3];
    let mut high = [f32::NEG_INFINITY; 3];
    for p in coord.iter() {
        low = std::array::from_fn(|a| low[a].min(p[a]));
        high = std::array::from_fn(|a| high[a].max(p[a]));
    }
    let nodes: [f64; 3] =
        std::array::from_fn(|a| (f64::from(high[a] - low[a]) / granularity).floor() + 3.0);
    let total: f64 = nodes.iter().product();
    if !total.is_finite() || total > MOST_NODES as f64 {
        return Err(Error::config(
            "augment.elastic.layers",
            format!(
                "a grid of {granularity} m over this cloud has {total:.0} nodes, more than {MOST_NODES}; use a larger \
                 spacing"
            ),
        ));
    }
    let mut field = Field::random(nodes.map(|n| n as usize), noise);
    for _ in 0..2 {
        for axis in 0..3 {
            field.smooth(axis);
        }
    }
    coord.par_iter_mut().for_each(|p| {
        let at = std::array::from_fn(|a| f64::from(p[a] - low[a]) / granularity + 1.0);
        let move_by = field.interpolate(at);
        *p = std::array::from_fn(|a| (f64::from(p[a]) + move_by[a] * magnitude) as f32);
    });
    Ok(())
}

impl Field {
    fn random(size: [usize; 3], noise: u64) -> Field {
        let random = Random::new(noise, 0);
        let nodes: usize = size.iter().product();
        let value = (0..nodes as u64)
            .into_par_iter()
            .map(|node| std::array::from_fn(|a| random.normal(node * 3 + a as u64) as f32))
            .collect();
        Field { size, value }
    }

    /// Mean of each node and its two neighbours along `axis`; zero outside.
    fn smooth(&mut self, axis: usize) {
        let stride: usize = self.size[axis + 1..].iter().product();
        let size = self.size[axis];
        let old = &self.value;
        let value = (0..old.len())
            .into_par_iter()
            .map(|node| {
                let place = node / stride % size;
                let mut sum = old[node];
                if place > 0 {
                    sum = std::array::from_fn(|a| sum[a] + old[node - stride][a]);
                }
                if place + 1 < size {
                    sum = std::array::from_fn(|a| sum[a] + old[node + stride][a]);
                }
                sum.map(|v| v / 3.0)
            })
            .collect();
        self.value = value;
    }

    /// Trilinear value at a position in node units; zero outside the grid.
    fn interpolate(&self, at: [f64; 3]) -> [f64; 3] {
        let base = at.map(|v| v.floor());
        let inside = (0..3).all(|a| base[a] >= 0.0 && base[a] + 1.0 < self.size[a] as f64);
        if !inside {
            return [0.0; 3];
        }
        let part: [f64; 3] = std::array::from_fn(|a| at[a] - base[a]);
        let base = base.map(|v| v as usize);
        let mut sum = [0.0; 3];
        for corner in 0..8 {
            let step = [corner >> 2 & 1, corner >> 1 & 1, corner & 1];
            let weight: f64 = (0..3)
                .map(|a| if step[a] == 1 { part[a] } else { 1.0 - part[a] })
                .product();
            let node = ((base[0] + step[0]) * self.size[1] + base[1] + step[1]) * self.size[2]
                + base[2]
                + step[2];
            for (s, v) in sum.iter_mut().zip(self.value[node]) {
                *s += weight * f64::from(v);
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_move_together_and_strangers_do_not() {
        let coord: Vec<[f32; 3]> = (0..200u8)
            .map(|i| [f32::from(i) * 0.05, 0.3, 0.7])
            .collect();
        let mut moved = coord.clone();
        distort(&mut moved, 0.4, 1.6, 9).unwrap();
        let shift = |i: usize| moved[i][1] - coord[i][1];
        let step = (1..200)
            .map(|i| (shift(i) - shift(i - 1)).abs())
            .fold(0.0, f32::max);
        let spread = (0..200).map(shift).fold(0.0f32, |m, s| m.max(s.abs()));
        assert!(
            spread > 0.05 && step < spread / 3.0,
            "spread {spread}, step {step}"
        );
        let mut again = coord.clone();
        distort(&mut again, 0.4, 1.6, 9).unwrap();
        assert_eq!(moved, again);
    }

    #[test]
    fn interpolation_reproduces_nodes_and_linear_fields() {
        let size = [3, 4, 5];
        let value = (0..60)
            .map(|n| [(n / 20) as f32, (n / 5 % 4) as f32, (n % 5) as f32])
            .collect();
        let field = Field { size, value };
        assert_eq!(field.interpolate([1.25, 2.5, 3.75]), [1.25, 2.5, 3.75]);
        assert_eq!(field.interpolate([-0.1, 0.0, 0.0]), [0.0; 3]);
        assert_eq!(field.interpolate([0.0, 0.0, 4.5]), [0.0; 3]);
    }

    #[test]
    fn smoothing_spreads_one_node_with_zero_borders() {
        let mut value = vec![[0.0; 3]; 27];
        value[13] = [27.0, 0.0, 0.0];
        let mut field = Field {
            size: [3; 3],
            value,
        };
        for axis in 0..3 {
            field.smooth(axis);
        }
        assert!(field.value.iter().all(|v| (v[0] - 1.0).abs() < 1e-6));
    }

    #[test]
    fn grids_too_fine_are_rejected() {
        let mut coord = vec![[0.0; 3], [1e4, 1e4, 1e4]];
        let error = distort(&mut coord, 0.2, 0.4, 1).unwrap_err();
        assert!(error.to_string().contains("larger spacing"), "{error}");
        distort(&mut [], 0.2, 0.4, 1).unwrap();
    }
}
