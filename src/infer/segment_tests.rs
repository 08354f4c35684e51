use super::*;
use crate::Error;
use crate::cloud::Column;
use crate::cloud::features::Feature;
use crate::device::random::{Random, Sequence};

/// Class 1 above the threshold in the first feature, with full confidence; counts what it sees.
struct Threshold {
    limit: f32,
    channels: usize,
    largest: usize,
}

impl Classifier for Threshold {
    fn classes(&self) -> usize {
        2
    }

    fn probabilities(&mut self, coord: &[[f32; 3]], feat: Vec<f32>) -> Result<Vec<f32>> {
        assert_eq!(feat.len(), coord.len() * self.channels);
        self.largest = self.largest.max(coord.len());
        let rows = feat.chunks_exact(self.channels);
        Ok(rows
            .flat_map(|row| {
                if row[0] > self.limit {
                    [0.25, 0.75]
                } else {
                    [1.0, 0.0]
                }
            })
            .collect())
    }
}

fn scan(count: usize) -> PointCloud {
    let mut s = Sequence::new(Random::new(5, 2));
    let mut cloud = PointCloud {
        coord: (0..count)
            .map(|_| {
                [
                    7e5 + 30.0 * s.uniform(),
                    6e6 + 20.0 * s.uniform(),
                    s.uniform(),
                ]
            })
            .collect(),
        attributes: Vec::new(),
    };
    let echo = (0..count).map(|_| s.uniform() as f32).collect();
    cloud.set_attribute("echo", Column::F32(echo)).unwrap();
    cloud
}

fn input() -> InputSpec {
    InputSpec {
        voxel_size: 0.001,
        features: vec![Feature::new("echo")],
        crop_points: None,
        frame: Default::default(),
    }
}

fn rule() -> Threshold {
    Threshold {
        limit: 0.5,
        channels: 1,
        largest: 0,
    }
}

fn expected(cloud: &PointCloud) -> Vec<i32> {
    let echo = cloud.attribute("echo").unwrap();
    (0..cloud.len())
        .map(|i| {
            if cloud.coord[i][0].is_nan() {
                -1
            } else {
                i32::from(echo.get(i) > 0.5)
            }
        })
        .collect()
}

/// Class 1, surer from one side of a tile to the other: what tiles say of one place differs by how far they are apart.
pub(in crate::infer) struct Slope;

impl Classifier for Slope {
    fn classes(&self) -> usize {
        2
    }

    fn probabilities(&mut self, coord: &[[f32; 3]], _: Vec<f32>) -> Result<Vec<f32>> {
        let sure = |p: &[f32; 3]| 0.75 + p[0] / 200.0;
        Ok(coord
            .iter()
            .flat_map(|p| [1.0 - sure(p), sure(p)])
            .collect())
    }
}

/// A scan squeezed to a strip along x.
pub(in crate::infer) fn strip(mut cloud: PointCloud) -> PointCloud {
    for p in &mut cloud.coord {
        p[1] = 6e6 + (p[1] - 6e6) / 20.0;
    }
    cloud
}

/// The largest step of confidence from one point to the next along x.
pub(in crate::infer) fn largest_step(cloud: &PointCloud, confidence: &[f32]) -> f32 {
    let mut order: Vec<usize> = (0..cloud.len()).collect();
    order.sort_by(|a, b| cloud.coord[*a][0].total_cmp(&cloud.coord[*b][0]));
    let step = |w: &[usize]| (confidence[w[0]] - confidence[w[1]]).abs();
    order.windows(2).map(step).fold(0.0, f32::max)
}

#[test]
fn every_point_gets_its_class_whole_or_in_tiles() {
    let cloud = scan(5000);
    for (tile_voxels, views) in [
        (10_000, Views::Plain),
        (10_000, Views::ScaleFlip),
        (900, Views::Plain),
        (900, Views::Rotate),
    ] {
        let options = Options { views, tile_voxels };
        let mut rule = rule();
        let mut calls = 0;
        let mut watch = |_: usize, _: usize| {
            calls += 1;
            Ok(())
        };
        let found = segment(&cloud, &input(), 1.0, &options, &mut rule, &mut watch).unwrap();
        assert_eq!(found.class, expected(&cloud), "{options:?}");
        let near = |c: &f32| (c - 0.75).abs() < 1e-6 || (c - 1.0).abs() < 1e-6;
        assert!(found.confidence.iter().all(near));
        assert_eq!(found.tiles == 1, tile_voxels == 10_000);
        assert!(rule.largest <= tile_voxels);
        assert_eq!(calls, found.passes);
    }
}

#[test]
fn points_without_coordinates_get_no_class() {
    let mut cloud = scan(50);
    cloud.coord[7] = [f64::NAN; 3];
    cloud.coord[49][2] = f64::INFINITY;
    let found = segment(
        &cloud,
        &input(),
        1.0,
        &Options::default(),
        &mut rule(),
        &mut |_, _| Ok(()),
    )
    .unwrap();
    assert_eq!(found.skipped, 2);
    for row in [7, 49] {
        assert_eq!((found.class[row], found.confidence[row]), (-1, 0.0));
    }
    assert_eq!(found.class[..7], expected(&cloud)[..7]);
}

#[test]
fn crowded_voxels_are_bounded_and_all_their_points_vote() {
    let mut cloud = scan(2000);
    cloud.coord.fill([1.0, 2.0, 3.0]);
    let options = Options {
        views: Views::ScaleFlip,
        ..Options::default()
    };
    let found = segment(&cloud, &input(), 1.0, &options, &mut rule(), &mut |_, _| {
        Ok(())
    })
    .unwrap();
    assert_eq!(found.passes, 10 * FRAGMENTS);
    assert!(found.class.iter().all(|c| *c >= 0));
    assert_eq!(found.class[..FRAGMENTS], expected(&cloud)[..FRAGMENTS]);
    assert_eq!(found.class[5], found.class[5 + 7 * FRAGMENTS]);
}

#[test]
fn one_point_and_none_work() {
    for count in [0, 1] {
        let cloud = scan(count);
        let found = segment(
            &cloud,
            &input(),
            1.0,
            &Options::default(),
            &mut rule(),
            &mut |_, _| Ok(()),
        )
        .unwrap();
        assert_eq!(found.class.len(), count);
        assert_eq!(found.passes, count);
    }
}

#[test]
fn a_watch_that_fails_stops_the_work() {
    let stop = |_: usize, _: usize| {
        Err(Error::Interrupted {
            saved: "nothing".into(),
        })
    };
    let mut stop = stop;
    let fault = segment(
        &scan(9),
        &input(),
        1.0,
        &Options::default(),
        &mut rule(),
        &mut stop,
    );
    assert_eq!(fault.unwrap_err().exit_code(), 130);
}

#[test]
fn no_edge_of_a_tile_shows() {
    let cloud = strip(scan(5000));
    for views in [Views::Plain, Views::ScaleFlip] {
        let options = Options {
            views,
            tile_voxels: 900,
        };
        let found = segment(&cloud, &input(), 1.0, &options, &mut Slope, &mut |_, _| {
            Ok(())
        });
        let found = found.unwrap();
        assert!(found.tiles > 4, "{}", found.tiles);
        assert!(found.class.iter().all(|c| *c == 1));
        let range = |pick: fn(f32, f32) -> f32| found.confidence.iter().copied().reduce(pick);
        let (low, high) = (range(f32::min).unwrap(), range(f32::max).unwrap());
        assert!(views != Views::Plain || high - low > 0.015, "{low} {high}");
        // Without votes, a step from one tile to the next is as large as the range.
        let step = largest_step(&cloud, &found.confidence);
        assert!(step < 0.003, "{step} with {views}");
    }
}
