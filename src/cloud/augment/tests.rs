//! Tests of the augmentation steps.

use super::*;
use crate::cloud::features::Sample;
use crate::cloud::tests::golden;

fn cloud(coord: Vec<[f32; 3]>) -> Sample {
    let n = coord.len();
    Sample {
        normal: Some(vec![[1.0, 0.0, 0.0]; n]),
        color: Some((0..n).map(|i| [i as f32 % 256.0, 100.0, 50.0]).collect()),
        label: (0..n as i32).collect(),
        coord,
        ..Sample::default()
    }
}

fn line(n: usize) -> Sample {
    cloud((0..n).map(|i| [i as f32 * 0.1, 1.0, 2.0]).collect())
}

fn every_transform() -> Vec<Transform> {
    use Transform::*;
    vec![
        CenterShift { z: true },
        Dropout {
            probability: 1.0,
            ratio: 0.2,
        },
        Rotate {
            axis: Axis::Z,
            angle: [-1.0, 1.0],
            probability: 1.0,
        },
        Scale {
            range: [0.9, 1.1],
            anisotropic: true,
        },
        Flip { probability: 1.0 },
        Jitter {
            sigma: 0.005,
            clip: 0.02,
        },
        Elastic {
            layers: vec![[0.2, 0.4], [0.8, 1.6]],
            probability: 1.0,
        },
        AutoContrast {
            probability: 1.0,
            blend: None,
        },
        ChromaticTranslation {
            probability: 1.0,
            ratio: 0.05,
        },
        ChromaticJitter {
            probability: 1.0,
            sigma: 0.05,
        },
        ColorDrop {
            probability: 1.0,
            value: 127.5,
        },
        Shuffle,
    ]
}

fn assert_near(found: &[[f32; 3]], expected: &[f32]) {
    for (f, e) in found.iter().flatten().zip(expected) {
        assert!(
            (f - e).abs() <= 1e-6 * e.abs().max(1.0),
            "{f} instead of {e}"
        );
    }
}

#[test]
fn dropped_colors_are_all_the_same() {
    let drop = |probability| {
        let transform = Transform::ColorDrop {
            probability,
            value: 127.5,
        };
        let steps = sample(&[transform], Random::new(1, 1));
        apply(&steps, line(50)).unwrap().color.unwrap()
    };
    assert_eq!(drop(1.0), [[127.5; 3]; 50]);
    assert_eq!(drop(0.0), line(50).color.unwrap());
    let mut grey = line(3);
    grey.color = None;
    let steps = [Step::ColorDrop { value: 0.0 }];
    assert_eq!(apply(&steps, grey.clone()).unwrap(), grey);
}

#[test]
fn shifts_and_contrast_match_the_reference_file() {
    let file = golden("op_voxelize");
    for (z, name) in [(true, "center_shift_z"), (false, "center_shift_noz")] {
        let mut coord = file.points("coord");
        center_shift(&mut coord, z);
        assert_near(&coord, &file.f32(name));
    }
    let mut color = file.points("color255");
    auto_contrast(&mut color, 0.37);
    for (f, e) in color.iter().flatten().zip(file.f32("auto_contrast_0.37")) {
        assert!((f - e).abs() <= 1e-6 * 255.0, "{f} instead of {e}");
    }
}

#[test]
fn sampled_steps_survive_writing_and_repeat_exactly() {
    let steps = sample(&every_transform(), Random::new(3, 4));
    assert_eq!(steps.len(), 13, "one step each, two of elastic");
    let text = serde_json::to_string(&steps).unwrap();
    let read: Vec<Step> = serde_json::from_str(&text).unwrap();
    assert_eq!(read, steps);
    let first = apply(&steps, line(500)).unwrap();
    assert_eq!(first, apply(&read, line(500)).unwrap());
    assert_eq!(first.len(), 400);
    assert_ne!(sample(&every_transform(), Random::new(3, 5)), steps);
}

#[test]
fn transforms_survive_writing() {
    for transform in every_transform() {
        let text = toml::to_string(&transform).unwrap();
        assert_eq!(toml::from_str::<Transform>(&text).unwrap(), transform);
        transform.check().unwrap();
    }
}

#[test]
fn a_probability_of_zero_does_nothing() {
    use Transform::*;
    let never = [
        Dropout {
            probability: 0.0,
            ratio: 0.2,
        },
        Rotate {
            axis: Axis::X,
            angle: [-1.0, 1.0],
            probability: 0.0,
        },
        Flip { probability: 0.0 },
        Elastic {
            layers: vec![[0.2, 0.4]],
            probability: 0.0,
        },
        AutoContrast {
            probability: 0.0,
            blend: None,
        },
    ];
    for stream in 0..100 {
        assert!(sample(&never, Random::new(1, stream)).is_empty());
    }
}

#[test]
fn rotations_keep_lengths_and_turn_normals() {
    let quarter = std::f64::consts::FRAC_PI_2;
    let step = [Step::Rotate {
        axis: Axis::Z,
        radians: quarter,
    }];
    let turned = apply(&step, cloud(vec![[2.0, 0.0, 1.0]])).unwrap();
    assert_near(&turned.coord, &[0.0, 2.0, 1.0]);
    assert_near(&turned.normal.unwrap(), &[0.0, 1.0, 0.0]);
    for axis in [Axis::X, Axis::Y, Axis::Z] {
        let p = apply(
            &[Step::Rotate { axis, radians: 0.7 }],
            cloud(vec![[1.0, 2.0, 3.0]]),
        )
        .unwrap();
        let length: f32 = p.coord[0].iter().map(|v| v * v).sum();
        assert!((length - 14.0).abs() < 1e-5, "{axis:?}");
    }
}

#[test]
fn flips_negate_coordinates_and_normals() {
    let flipped = apply(
        &[Step::Flip { x: true, y: false }],
        cloud(vec![[2.0, 3.0, 1.0]]),
    )
    .unwrap();
    assert_eq!(flipped.coord, [[-2.0, 3.0, 1.0]]);
    assert_eq!(flipped.normal.unwrap(), [[-1.0, 0.0, 0.0]]);
}

#[test]
fn jitter_has_its_deviation_and_its_limit() {
    let before = line(5000);
    let step = [Step::Jitter {
        sigma: 0.005,
        clip: 0.008,
        noise: 1,
    }];
    let after = apply(&step, before.clone()).unwrap();
    let moves: Vec<f32> = (0..5000)
        .map(|i| after.coord[i][2] - before.coord[i][2])
        .collect();
    let most = moves.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    assert!(most > 0.0079 && most < 0.0081, "{most}");
    let variance = moves.iter().map(|v| v * v).sum::<f32>() / 5000.0;
    assert!(
        (0.0040..0.0052).contains(&variance.sqrt()),
        "{}",
        variance.sqrt()
    );
}

#[test]
fn dropout_and_shuffle_keep_rows_together() {
    let steps = [
        Step::Dropout {
            ratio: 0.2,
            noise: 7,
        },
        Step::Shuffle { noise: 8 },
    ];
    let after = apply(&steps, line(1000)).unwrap();
    assert_eq!(after.len(), 800);
    assert!(after.label.windows(2).any(|w| w[0] > w[1]));
    for (p, label) in after.coord.iter().zip(&after.label) {
        assert_eq!(p[0], *label as f32 * 0.1);
    }
}

#[test]
fn colours_stay_in_range() {
    let steps = [
        Step::ChromaticTranslation {
            shift: [60.0, -120.0, 0.0],
        },
        Step::ChromaticJitter {
            sigma: 0.3,
            noise: 2,
        },
    ];
    let after = apply(&steps, line(600)).unwrap().color.unwrap();
    assert!(after.iter().flatten().all(|c| (0.0..=255.0).contains(c)));
    assert!(after.iter().any(|c| c[0] == 255.0) && after.iter().any(|c| c[1] == 0.0));
}

#[test]
fn empty_clouds_pass_through_every_step() {
    let steps = sample(&every_transform(), Random::new(3, 4));
    assert!(apply(&steps, cloud(Vec::new())).unwrap().is_empty());
}

#[test]
fn senseless_numbers_name_their_key() {
    use Transform::*;
    for (transform, key) in [
        (
            Dropout {
                probability: 1.5,
                ratio: 0.2,
            },
            "augment.dropout.probability",
        ),
        (
            Scale {
                range: [1.1, 0.9],
                anisotropic: false,
            },
            "augment.scale.range",
        ),
        (
            Scale {
                range: [0.0, 0.9],
                anisotropic: false,
            },
            "augment.scale.range",
        ),
        (
            Jitter {
                sigma: f64::NAN,
                clip: 0.1,
            },
            "augment.jitter.sigma",
        ),
        (
            Elastic {
                layers: vec![[0.0, 1.0]],
                probability: 0.5,
            },
            "augment.elastic.layers",
        ),
    ] {
        let error = transform.check().unwrap_err().to_string();
        assert!(error.contains(key), "{error}");
    }
}
