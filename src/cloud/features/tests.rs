//! Tests of feature rows.

use super::height::height;
use super::*;
use crate::cloud::{Column, PointCloud};

fn scan() -> PointCloud {
    let mut cloud = PointCloud {
        coord: vec![
            [700_000.0, 6_500_000.0, 120.0],
            [700_010.0, 6_500_000.25, 121.5],
            [700_050.0, 6_500_004.0, 130.0],
        ],
        attributes: Vec::new(),
    };
    cloud
        .set_attribute("intensity", Column::U16(vec![0, 1000, 9000]))
        .unwrap();
    cloud
        .set_attribute("return_number", Column::U8(vec![1, 2, 0]))
        .unwrap();
    cloud
        .set_attribute("number_of_returns", Column::U8(vec![1, 4, 0]))
        .unwrap();
    cloud
}

#[test]
fn rows_follow_the_feature_list() {
    let features = [
        Feature::new("return_ratio"),
        Feature {
            divisor: 2000.0,
            max: Some(1.0),
            ..Feature::new("intensity")
        },
        Feature {
            divisor: 10.0,
            ..Feature::new("coord")
        },
        Feature {
            divisor: 5.0,
            ..Feature::new("height")
        },
    ];
    let sample = Sample::new(&scan(), &features).unwrap();
    assert_eq!(sample.origin, [700_025.0, 6_500_002.0, 120.0]);
    assert_eq!(channels(&features), 6);
    let feat = matrix(&sample, &features);
    assert_eq!(feat[..6], [1.0, 0.0, -2.5, -0.2, 0.0, 0.0]);
    assert_eq!(feat[6..12], [0.5, 0.5, -1.5, -0.175, 0.15, 0.3]);
    assert_eq!(feat[12..], [1.0, 1.0, 2.5, 0.2, 1.0, 2.0]);
}

#[test]
fn missing_attributes_are_named_with_the_mend() {
    for (name, attribute) in [("color", "red"), ("normal", "nx"), ("echo", "echo")] {
        let error = Sample::new(&scan(), &[Feature::new(name)])
            .unwrap_err()
            .to_string();
        assert!(error.contains(&format!("feature {name}")), "{error}");
        assert!(
            error.contains(&format!("no attribute {attribute}")),
            "{error}"
        );
        assert!(error.contains("only intensity, return_number"), "{error}");
    }
}

#[test]
fn values_that_are_not_finite_are_rejected() {
    let mut cloud = scan();
    cloud
        .set_attribute("echo", Column::F32(vec![0.0, f32::NAN, 0.0]))
        .unwrap();
    let error = Sample::new(&cloud, &[Feature::new("echo")]).unwrap_err();
    assert!(error.to_string().contains("point 1"), "{error}");
    let error = Sample::of_rows(&cloud, &[Feature::new("echo")], &|row| 70 + row as u64);
    let error = error.unwrap_err();
    assert!(error.to_string().contains("point 71"), "{error}");
    cloud.coord[2][1] = f64::INFINITY;
    let error = Sample::new(&cloud, &[]).unwrap_err();
    assert!(error.to_string().contains("point 2"), "{error}");
}

#[test]
fn colours_of_all_depths_end_at_255() {
    let columns = [
        Column::U8(vec![0, 51, 255]),
        Column::U16(vec![0, 51, 255]),
        Column::U16(vec![0, 13_107, 65_535]),
        Column::F32(vec![0.0, 0.2, 1.0]),
    ];
    for column in columns {
        let mut cloud = scan();
        for name in ["red", "green", "blue"] {
            cloud.set_attribute(name, column.clone()).unwrap();
        }
        let sample = Sample::new(&cloud, &[Feature::new("color")]).unwrap();
        let color = sample.color.unwrap();
        for (row, expected) in [0.0, 51.0, 255.0].into_iter().enumerate() {
            assert!((color[row][0] - expected).abs() < 1e-3, "{column:?}");
        }
    }
}

#[test]
fn windowed_height_sees_only_its_neighbourhood() {
    let coord = [
        [0.0, 0.0, 5.0],
        [3.0, 0.0, 4.0],
        [100.0, 0.0, 1.0],
        [101.0, 1.0, 9.0],
    ];
    assert_eq!(height(&coord, None), [4.0, 3.0, 0.0, 8.0]);
    assert_eq!(height(&coord, Some(10.0)), [1.0, 0.0, 0.0, 8.0]);
    assert!(height(&[], Some(1.0)).is_empty());
}

#[test]
fn lists_read_names_and_tables() {
    #[derive(Serialize, Deserialize)]
    struct Table {
        features: Vec<Feature>,
    }
    let text = r#"features = ["coord", "color", { name = "intensity", divisor = 2000, max = 1 }]"#;
    let table: Table = toml::from_str(text).unwrap();
    assert_eq!(table.features[1].divisor, 255.0);
    assert_eq!(table.features[2].max, Some(1.0));
    let again: Table = toml::from_str(&toml::to_string(&table).unwrap()).unwrap();
    assert_eq!(again.features, table.features);
    assert!(toml::from_str::<Table>(r#"features = [{ name = "x", divisr = 1 }]"#).is_err());
}
