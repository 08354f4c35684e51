use super::*;
use crate::cloud::Attribute;
use crate::io::{Labels, Scan, WarningKind, read, write, write_unlabelled};
use e57::{E57Writer, Record, RecordDataType, RecordName, Transform};

fn labels(count: usize) -> Labels {
    Labels {
        code: (0..count as i32).map(|i| i - 1).collect(),
        confidence: (0..count).map(|i| i as f32 / 8.0).collect(),
        classes: Vec::new(),
    }
}

fn integer(name: RecordName, min: i64, max: i64) -> Record {
    Record {
        name,
        data_type: RecordDataType::Integer { min, max },
    }
}

/// A file of two clouds with different fields, one of them turned and spherical.
fn sample(path: &Path) {
    let mut writer = E57Writer::from_file(path, "file").unwrap();
    let scaled = |name| Record {
        name,
        data_type: RecordDataType::ScaledInteger {
            min: -1000,
            max: 1000,
            scale: 0.5,
            offset: 10.0,
        },
    };
    let cartesian = [
        RecordName::CartesianX,
        RecordName::CartesianY,
        RecordName::CartesianZ,
    ];
    let mut prototype: Vec<Record> = cartesian.map(scaled).into();
    prototype.push(integer(RecordName::CartesianInvalidState, 0, 2));
    prototype.push(integer(RecordName::ColumnIndex, 0, 300));
    // A field that takes no bits.
    prototype.push(integer(RecordName::RowIndex, 7, 7));
    let mut cloud = writer.add_pointcloud("one", prototype).unwrap();
    cloud.set_name(Some("first".into()));
    for i in 0..3 {
        let mut values: Vec<RecordValue> =
            (0..3).map(|a| RecordValue::ScaledInteger(i + a)).collect();
        let state = RecordValue::Integer(if i == 1 { 2 } else { 0 });
        values.extend([state, RecordValue::Integer(i), RecordValue::Integer(7)]);
        cloud.add_point(values).unwrap();
    }
    cloud.finalize().unwrap();
    let spherical = [
        RecordName::SphericalRange,
        RecordName::SphericalAzimuth,
        RecordName::SphericalElevation,
        RecordName::Intensity,
    ];
    let prototype = spherical.map(|name| Record {
        name,
        data_type: RecordDataType::Double {
            min: None,
            max: None,
        },
    });
    let mut cloud = writer.add_pointcloud("two", prototype.into()).unwrap();
    let mut pose = Transform::default();
    // A quarter turn about z.
    pose.rotation.w = 0.5f64.sqrt();
    pose.rotation.z = 0.5f64.sqrt();
    pose.translation.z = 100.0;
    cloud.set_transform(Some(pose));
    let point = [2.0, 0.0, 0.0, 0.25].map(RecordValue::Double);
    cloud.add_point(point.into()).unwrap();
    cloud.finalize().unwrap();
    writer.finalize().unwrap();
}

#[test]
fn clouds_are_joined_moved_and_written_back_value_by_value() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.e57");
    sample(&path);
    let scan = read(&path).unwrap();
    assert_eq!(scan.cloud.len(), 4);
    assert_eq!(scan.cloud.coord[0], [10.0, 10.5, 11.0]);
    assert!(scan.cloud.coord[1][0].is_nan());
    let turned = scan.cloud.coord[3];
    for (found, expected) in turned.iter().zip([0.0, 2.0, 100.0]) {
        assert!((found - expected).abs() < 1e-12, "{turned:?}");
    }
    let names: Vec<&str> = scan
        .cloud
        .attributes
        .iter()
        .map(|a| a.name.as_str())
        .collect();
    assert_eq!(names, ["column_index", "row_index", "intensity"]);
    assert_eq!(scan.cloud.attribute("row_index").unwrap().get(2), 7.0);
    assert!(scan.cloud.attribute("intensity").unwrap().get(0).is_nan());
    assert_eq!(scan.warnings[0].kind, WarningKind::MissingCoordinates);

    // In place, twice: the second labels replace the first.
    for _ in 0..2 {
        let scan = read(&path).unwrap();
        write(&path, &scan, &labels(4)).unwrap();
    }
    let back = read(&path).unwrap();
    assert_eq!(back.cloud.labels().unwrap().code, [-1, 0, 1, 2]);
    assert_eq!(back.cloud.attributes.len(), 5);
    assert_eq!(back.cloud.attribute("confidence").unwrap().get(3), 0.375);
    assert_eq!(
        format!("{:?}", back.cloud.coord),
        format!("{:?}", scan.cloud.coord)
    );
    let clouds = open_file(&path).unwrap().pointclouds();
    assert_eq!(clouds[0].name.as_deref(), Some("first"));
    assert!(clouds[1].transform.is_some());
}

#[test]
fn clouds_from_elsewhere_become_one_cloud_with_all_attributes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.e57");
    let attribute = |name: &str, column| Attribute {
        name: name.into(),
        column,
    };
    let cloud = PointCloud {
        coord: vec![[1e6, 2.5, -3.0], [f64::NAN, 0.0, 0.0]],
        attributes: vec![
            attribute("red", Column::U16(vec![1, 2])),
            attribute("green", Column::U16(vec![3, 4])),
            attribute("blue", Column::U16(vec![5, 65535])),
            attribute("intensity", Column::F32(vec![0.5, 1.5])),
            attribute("my note", Column::I8(vec![-5, 6])),
            attribute("time", Column::F64(vec![1.25, 1e300])),
            attribute("label", Column::U8(vec![9, 9])),
        ],
    };
    write_unlabelled(&path, &Scan::from(cloud.clone())).unwrap();
    let back = read(&path).unwrap().cloud;
    assert_eq!(back.attribute("label").unwrap().get(0), 9.0);
    write(&path, &Scan::from(cloud.clone()), &labels(2)).unwrap();
    let back = read(&path).unwrap().cloud;
    assert_eq!(back.coord[0], cloud.coord[0]);
    assert!(back.coord[1][0].is_nan());
    assert_eq!(back.colors(), cloud.colors());
    for (name, row, value) in [
        ("intensity", 1, 1.5),
        ("my_note", 0, -5.0),
        ("time", 1, 1e300),
    ] {
        assert_eq!(back.attribute(name).unwrap().get(row), value, "{name}");
    }
    assert_eq!(back.labels().unwrap().code, [-1, 0]);
}

#[test]
fn promises_are_compared_with_the_file() {
    let cloud = |records, max| {
        let mut cloud = e57::PointCloud::default();
        cloud.records = records;
        let axes = [
            RecordName::CartesianX,
            RecordName::CartesianY,
            RecordName::CartesianZ,
        ];
        cloud.prototype = axes.map(|name| integer(name, 0, max)).into();
        Fields::new(cloud).unwrap()
    };
    assert!(cloud(8, 1).check(3).is_ok());
    assert!(cloud(9000, 1).check(3).unwrap_err().contains("cut short"));
    assert!(cloud(u64::MAX, i64::MAX).check(3).is_err());
    assert!(cloud(1, 0).check(3).unwrap_err().contains("no bits"));
    assert!(Fields::new(e57::PointCloud::default()).is_err());
}

#[test]
fn cut_and_damaged_files_name_the_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.e57");
    sample(&path);
    let bytes = std::fs::read(&path).unwrap();
    for (damaged, place) in [
        (bytes[..500].to_vec(), "header"),
        ([&bytes[..60], &[bytes[60] ^ 1], &bytes[61..]].concat(), ""),
        (b"ASTM-E57".to_vec(), "header"),
    ] {
        std::fs::write(&path, damaged).unwrap();
        let fault = read(&path).unwrap_err();
        let text = fault.to_string();
        assert!(text.contains("a.e57") && text.contains(place), "{text}");
        assert_eq!((fault.exit_code(), text.lines().count()), (2, 1), "{text}");
    }
}
