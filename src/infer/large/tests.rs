use super::*;
use crate::cloud::{Attribute, Column};
use crate::device::random::{Random, Sequence};
use crate::infer::memory::Share;
use crate::infer::segment::tests::{Slope, largest_step, strip};
use crate::infer::segment::{self, Options};

/// Class 1 where the first feature is above the limit; looks at nothing else.
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
        self.largest = self.largest.max(coord.len());
        let rows = feat.chunks_exact(self.channels);
        Ok(rows
            .flat_map(|row| match row[0] > self.limit {
                true => [0.25, 0.75],
                false => [1.0, 0.0],
            })
            .collect())
    }
}

fn scan(count: usize) -> PointCloud {
    let mut s = Sequence::new(Random::new(5, 2));
    let coord: Vec<[f64; 3]> = (0..count)
        .map(|_| {
            let (x, y) = (30.0 * s.uniform(), 20.0 * s.uniform());
            [7e5 + x, 6e6 + y, (x * 0.3).sin() + 3.0 * s.uniform()]
        })
        .collect();
    let echo = (0..count).map(|_| s.uniform() as f32).collect();
    let red = (0..count)
        .map(|i| if i == 99 { 60_000 } else { 200 })
        .collect();
    let column = |name: &str, column| Attribute {
        name: name.into(),
        column,
    };
    let dark = || Column::U16(vec![100; count]);
    PointCloud {
        attributes: vec![
            column("echo", Column::F32(echo)),
            column("red", Column::U16(red)),
            column("green", dark()),
            column("blue", dark()),
        ],
        coord,
    }
}

fn input(voxel_size: f64, features: Vec<Feature>) -> InputSpec {
    InputSpec {
        voxel_size,
        features,
        crop_points: None,
        frame: Default::default(),
    }
}

fn small() -> Share {
    Share {
        tile_voxels: 900,
        voxels: 2500,
        points: 2500,
    }
}

/// Class and confidence of every point, through the disk; the survey takes the scan in pieces.
fn through_disk(
    cloud: &PointCloud,
    inputs: &[InputSpec],
    views: Views,
    share: Share,
    rule: &mut dyn Classifier,
) -> (Vec<i32>, Vec<f32>, Outcome) {
    let folder = tempfile::tempdir().unwrap();
    let mut survey = Survey::new(folder.path(), cloud, inputs, 1000, 40_000).unwrap();
    for start in (0..cloud.len() as u32).step_by(700) {
        let rows: Vec<u32> = (start..cloud.len().min(start as usize + 700) as u32).collect();
        survey.push(&cloud.select(&rows)).unwrap();
    }
    let large = survey.finish().unwrap();
    assert_eq!(large.measured().points, cloud.len() as u64);
    assert_eq!(large.measured().extent, cloud.extent());
    let how = How {
        input: &inputs[0],
        margin: 1.0,
        views,
        share,
    };
    let mut last = 0;
    let mut watch = |done: u64, total: u64| {
        assert!(last <= done && done <= total, "{last} {done} {total}");
        last = done;
        Ok(())
    };
    let outcome = large
        .segment(folder.path(), &how, rule, &mut watch)
        .unwrap();
    let files = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(files, 0, "temporary files have no name");
    let (class, confidence) = outcome.results.get(0, cloud.len()).unwrap();
    (class, confidence, outcome)
}

fn rule(limit: f32, channels: usize) -> Threshold {
    Threshold {
        limit,
        channels,
        largest: 0,
    }
}

#[test]
fn every_point_gets_its_class_in_one_view_and_in_several() {
    let cloud = scan(9000);
    let expected: Vec<i32> = (0..9000)
        .map(|i| i32::from(cloud.attributes[0].column.get(i) > 0.5))
        .collect();
    // Voxels so small that each point has its own, and another model's that are larger.
    let inputs = [
        input(0.001, vec![Feature::new("echo")]),
        input(0.5, vec![Feature::new("color")]),
    ];
    for views in [Views::Plain, Views::ScaleFlip] {
        let mut rule = rule(0.5, 1);
        let (class, confidence, outcome) =
            through_disk(&cloud, &inputs[..1], views, small(), &mut rule);
        assert!(class == expected, "{views}");
        let near = |c: &f32| (c - 0.75).abs() < 1e-6 || (c - 1.0).abs() < 1e-6;
        assert!(confidence.iter().all(near));
        assert!(outcome.blocks > 4 && outcome.tiles > 4);
        assert!(rule.largest <= 900);
        let (class, ..) = through_disk(&cloud, &inputs, views, small(), &mut rule);
        assert!(class == expected, "with another model in question, {views}");
    }
}

#[test]
fn the_first_point_of_a_voxel_decides_for_the_others() {
    let cloud = scan(9000);
    let spec = input(0.8, vec![Feature::new("echo")]);
    let (class, ..) = through_disk(
        &cloud,
        std::slice::from_ref(&spec),
        Views::Plain,
        Share {
            tile_voxels: 300,
            voxels: 400,
            points: 1,
        },
        &mut rule(0.5, 1),
    );
    let grid = spool::Grid {
        anchor: cloud.coord[0].map(|x| x - 0.3137 * 0.8),
        edge: 0.8,
    };
    let mut first = std::collections::HashMap::new();
    for (i, p) in cloud.coord.iter().enumerate() {
        let decides = *first.entry(grid.cell(*p)).or_insert(i);
        let echo = cloud.attributes[0].column.get(decides);
        assert_eq!(class[i], i32::from(echo > 0.5), "point {i}");
    }
    assert!(first.len() < 7000, "voxels hold several points");
}

#[test]
fn features_of_the_whole_scan_are_those_in_memory() {
    let mut cloud = scan(9000);
    cloud.coord[17] = [f64::NAN; 3];
    cloud.coord[18][1] = 1e13;
    let window = |name: &str, window| Feature {
        window,
        ..Feature::new(name)
    };
    for (feature, limit) in [
        (window("height", Some(4.0)), 2.0),
        (window("height", None), 2.0),
        (Feature::new("color"), 0.01),
    ] {
        let features = vec![feature.clone()];
        let channels = feature.channels();
        let spec = input(0.001, features);
        let options = Options::default();
        let mut rule = rule(limit, channels);
        let whole = segment::segment(&cloud, &spec, 1.0, &options, &mut rule, &mut |_, _| Ok(()));
        let whole = whole.unwrap();
        let (class, ..) = through_disk(
            &cloud,
            std::slice::from_ref(&spec),
            Views::Plain,
            small(),
            &mut rule,
        );
        let other = class.iter().zip(&whole.class).filter(|(a, b)| a != b);
        // Grids for the lowest points start elsewhere.
        let allowed = if feature.window.is_some() { 450 } else { 0 };
        let other = other.count();
        assert!(other <= allowed, "{other} differ by {}", feature.name);
        assert_eq!(class[17..19], [-1, -1]);
        let ones = class.iter().filter(|c| **c == 1).count();
        assert_ne!(ones, 0);
    }
}

#[test]
fn crowds_and_tiny_scans_work() {
    let mut crowd = scan(6000);
    crowd.coord[..5000].fill([7e5 + 3.0, 6e6 + 3.0, 1.0]);
    let spec = [input(0.1, vec![Feature::new("echo")])];
    for views in [Views::Plain, Views::Rotate] {
        let (class, ..) = through_disk(&crowd, &spec, views, small(), &mut rule(0.5, 1));
        assert!(class.iter().all(|c| *c >= 0));
        for count in [0, 1] {
            let (class, _, outcome) =
                through_disk(&scan(count), &spec, views, small(), &mut rule(0.5, 1));
            assert_eq!((class.len(), outcome.blocks), (count, count));
        }
    }
}

#[test]
fn faults_stop_the_work_and_name_the_point() {
    let folder = tempfile::tempdir().unwrap();
    let mut cloud = scan(2000);
    let Column::F32(echo) = &mut cloud.attributes[0].column else {
        unreachable!("it was made so");
    };
    echo[1234] = f32::NAN;
    // Of a voxel of this size the network sees one point of a hundred.
    let inputs = [input(5.0, vec![Feature::new("echo")])];
    let mut survey = Survey::new(folder.path(), &cloud, &inputs, 2000, 1 << 20).unwrap();
    survey.push(&cloud).unwrap();
    let large = survey.finish().unwrap();
    let mut how = How {
        input: &inputs[0],
        margin: 1.0,
        views: Views::Plain,
        share: small(),
    };
    let run = |how: &How<'_>, watch: Watch<'_>| {
        let found = large.segment(folder.path(), how, &mut rule(0.5, 1), watch);
        found.unwrap_err()
    };
    let fault = run(&how, &mut |_, _| Ok(())).to_string();
    assert!(
        fault.contains("point 1234: its echo is not a finite number"),
        "{fault}"
    );
    let stop = &mut |_, _| {
        Err(Error::Interrupted {
            saved: "nothing".into(),
        })
    };
    let other = input(5.0, vec![Feature::new("coord")]);
    how.input = &other;
    assert_eq!(run(&how, stop).exit_code(), 130);
    let foreign = input(0.2, vec![Feature::new("coord")]);
    how.input = &foreign;
    assert!(run(&how, stop).to_string().contains("0.2 m"));
}

#[test]
fn no_edge_of_a_block_shows() {
    let cloud = strip(scan(9000));
    let spec = [input(0.001, vec![Feature::new("echo")])];
    for views in [Views::Plain, Views::ScaleFlip] {
        let (class, confidence, outcome) = through_disk(&cloud, &spec, views, small(), &mut Slope);
        assert!(outcome.blocks > 4, "{}", outcome.blocks);
        assert!(class.iter().all(|c| *c == 1));
        // Without votes, a step from one block to the next is 0.01 and more.
        let step = largest_step(&cloud, &confidence);
        assert!(step < 0.003, "{step} with {views}");
    }
}
