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
    let clouds = E57Reader::from_file(&path).unwrap().pointclouds();
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
fn memory_is_bounded_by_the_file_whatever_the_fields_take_there() {
    let schema = |count| PointCloud {
        coord: Vec::new(),
        attributes: vec![
            Attribute {
                name: "constant".into(),
                column: Column::F64(Vec::new()),
            };
            count
        ],
    };
    assert!(fields::check_memory(&schema(2), 10, 4).is_ok());
    let fault = fields::check_memory(&schema(2), 13, 4).unwrap_err();
    assert!(
        fault.contains("2 attributes in a file of 4 bytes"),
        "{fault}"
    );
    assert!(fields::check_memory(&schema(1), u64::MAX, u64::MAX).is_err());
}

#[test]
fn an_xml_part_longer_than_the_file_is_refused_before_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.e57");
    sample(&path);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[32..40].copy_from_slice(&40_000_000u64.to_le_bytes());
    let fault = crate::io::read_bytes("a.e57", bytes)
        .unwrap_err()
        .to_string();
    assert!(
        fault.contains("header byte 32: an XML part of 40000000 bytes"),
        "{fault}"
    );
}

/// More points than a packet holds, in fields of odd widths, so that values cross bytes, packets and pages.
#[test]
fn points_are_those_of_the_crate() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.e57");
    let single = RecordDataType::Single {
        min: None,
        max: None,
    };
    let mut prototype = vec![
        integer(RecordName::CartesianX, -3, 90_000),
        integer(RecordName::CartesianY, i64::MIN, i64::MAX),
        integer(RecordName::CartesianZ, 0, 4),
        integer(RecordName::RowIndex, 7, 7),
    ];
    prototype.push(Record {
        name: RecordName::Intensity,
        data_type: single,
    });
    let mut writer = E57Writer::from_file(&path, "file").unwrap();
    for (guid, count) in [("one", 30_000), ("none", 0), ("two", 1)] {
        let mut cloud = writer.add_pointcloud(guid, prototype.clone()).unwrap();
        for i in 0..count {
            let integers = [i * 3 - 3, i64::MIN + i * i * i, i % 5, 7];
            let mut values: Vec<RecordValue> = integers.map(RecordValue::Integer).into();
            values.push(RecordValue::Single(i as f32 / 7.0));
            cloud.add_point(values).unwrap();
        }
        cloud.finalize().unwrap();
    }
    writer.finalize().unwrap();
    let mut twin = E57Reader::from_file(&path).unwrap();
    let mut pages = Pages::new(Input::open(&path).unwrap());
    let mut values = Vec::new();
    for cloud in twin.pointclouds() {
        let mut points = Points::open(&mut pages, &cloud).unwrap();
        for expected in twin.pointcloud_raw(&cloud).unwrap() {
            assert!(points.next(&mut pages, &mut values).unwrap());
            assert_eq!(format!("{values:?}"), format!("{:?}", expected.unwrap()));
        }
        assert!(!points.next(&mut pages, &mut values).unwrap());
    }
    let (from_file, bytes) = (read(&path).unwrap(), std::fs::read(&path).unwrap());
    let in_memory = crate::io::read_bytes("pipe", bytes).unwrap();
    assert_eq!(from_file.cloud.len(), 30_001);
    assert_eq!(
        format!("{:?}", from_file.cloud),
        format!("{:?}", in_memory.cloud)
    );
    // Nothing can be copied from bytes in memory, so every attribute is written afresh.
    let copy = folder.path().join("copy.e57");
    write_unlabelled(&copy, &in_memory).unwrap();
    let back = read(&copy).unwrap().cloud;
    assert_eq!(back.coord, from_file.cloud.coord);
    assert_eq!(back.attributes.len(), from_file.cloud.attributes.len());
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
