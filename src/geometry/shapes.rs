//! Synthetic clouds for the tests of the index steps.

use crate::device::random::{Random, Sequence};

/// A cloud, metres.
pub type Cloud = Vec<[f32; 3]>;

fn sequence(seed: u64) -> Sequence {
    Sequence::new(Random::new(seed, 0x5A9E5))
}

/// Uniform in the unit cube.
pub fn uniform(count: usize, seed: u64) -> Cloud {
    let mut s = sequence(seed);
    (0..count)
        .map(|_| std::array::from_fn(|_| s.uniform() as f32))
        .collect()
}

/// Tight clusters, from 1e-6 m to 1 m wide, spread over a kilometre.
pub fn clustered(count: usize, seed: u64) -> Cloud {
    let mut s = sequence(seed);
    let centres: Vec<([f64; 3], f64)> = (0..20)
        .map(|i| {
            let centre = std::array::from_fn(|_| s.between(-500.0, 500.0));
            (centre, 10f64.powi(-(i % 7)))
        })
        .collect();
    (0..count)
        .map(|_| {
            let (centre, width) = centres[s.below(20) as usize];
            std::array::from_fn(|axis| (centre[axis] + width * s.normal()) as f32)
        })
        .collect()
}

/// An integer lattice: nearly everything ties.
pub fn lattice(side: usize) -> Cloud {
    (0..side.pow(3))
        .map(|i| [i % side, i / side % side, i / side / side].map(|v| v as f32))
        .collect()
}

/// Every point about `copies` times.
pub fn duplicated(count: usize, copies: usize, seed: u64) -> Cloud {
    let places = uniform(count.div_ceil(copies), seed);
    let mut s = sequence(seed + 1);
    (0..count)
        .map(|_| places[s.below(places.len() as u64) as usize])
        .collect()
}

/// A spinning scanner above flat ground with poles: density falls with the square of the distance, by more than 1000.
pub fn lidar(count: usize, seed: u64) -> Cloud {
    let mut s = sequence(seed);
    (0..count)
        .map(|_| {
            let angle = s.between(0.0, std::f64::consts::TAU);
            let range = 1.5 / (0.015 + s.uniform());
            let height = if s.chance(0.1) {
                s.between(0.0, 4.0)
            } else {
                0.0
            };
            [
                range * angle.cos(),
                range * angle.sin(),
                height + 0.01 * s.normal(),
            ]
            .map(|v| v as f32)
        })
        .collect()
}

/// Walls and floor of a room on a 4 cm raster with jitter, about `count` points in random order.
pub fn room(count: usize, seed: u64) -> Cloud {
    let mut s = sequence(seed);
    let side = (count as f64 * 0.0016 / 6.0).sqrt();
    let raster = (side / 0.04) as u64;
    let mut cloud: Cloud = (0..count)
        .map(|_| {
            let mut p = [0.0; 3];
            let face = s.below(6) as usize;
            for (axis, p) in p.iter_mut().enumerate() {
                let cell = match axis == face / 2 {
                    true => (face as u64 % 2) * raster,
                    false => s.below(raster.max(1)),
                };
                *p = (cell as f64 * 0.04 + s.between(-0.01, 0.01)) as f32;
            }
            p
        })
        .collect();
    s.shuffle(&mut cloud);
    cloud
}

/// Clouds one after another, with their offsets.
pub fn batch(clouds: &[Cloud]) -> (Cloud, Vec<usize>) {
    let mut offsets = vec![0];
    for cloud in clouds {
        offsets.push(offsets[offsets.len() - 1] + cloud.len());
    }
    (clouds.concat(), offsets)
}
