use super::*;

/// A message of two rows with padding behind each.
pub(crate) fn message(encoding: Encoding, endian: Endian, is_bigendian: bool) -> Message {
    let mut head = match encoding {
        Encoding::Cdr => vec![0, u8::from(endian == Endian::Little), 0, 0],
        Encoding::Ros1 => vec![9, 0, 0, 0],
    };
    head.extend([7; 8]);
    let length = match encoding {
        Encoding::Cdr => 4u32,
        Encoding::Ros1 => 3,
    };
    head.extend(match endian {
        Endian::Little => length.to_le_bytes(),
        Endian::Big => length.to_be_bytes(),
    });
    head.extend(b"map\0".iter().take(length as usize));
    let field = |name: &str, offset, datatype, count| Field {
        name: name.into(),
        offset,
        datatype,
        count,
    };
    let mut data = Vec::new();
    for i in 0..4 {
        for x in [i as f32, 2.0, 3.0] {
            data.extend(match is_bigendian {
                true => x.to_be_bytes(),
                false => x.to_le_bytes(),
            });
        }
        data.extend([i, 10 + i, 0xaa]);
    }
    Message {
        encoding,
        endian,
        head,
        height: 2,
        width: 2,
        fields: vec![
            field("x", 0, FLOAT32, 1),
            field("y", 4, FLOAT32, 1),
            field("z", 8, FLOAT32, 1),
            field("echo", 12, 2, 2),
        ],
        is_bigendian,
        point_step: 15,
        data,
        is_dense: 1,
    }
}

#[test]
fn messages_come_back_in_every_encoding_and_keep_all_bytes() {
    for (encoding, endian) in [
        (Encoding::Cdr, Endian::Little),
        (Encoding::Cdr, Endian::Big),
        (Encoding::Ros1, Endian::Little),
    ] {
        for is_bigendian in [false, true] {
            let mut first = message(encoding, endian, is_bigendian);
            let bytes = first.write();
            assert_eq!(Message::read(&bytes, encoding).unwrap(), first);
            let before = first.cloud().unwrap();
            assert_eq!(before.coord[3], [3.0, 2.0, 3.0]);
            assert_eq!(before.attributes[1].name, "echo_1");
            // Twice: the second labels fill the fields of the first.
            first.label(&[9, 9, 9, 9], &[0.0; 4]);
            first.label(&[1, -2, 3, 4], &[0.5, 0.25, 1.0, 0.0]);
            let back = Message::read(&first.write(), encoding).unwrap();
            assert_eq!(back.point_step, 23);
            let after = back.cloud().unwrap();
            assert_eq!(after.coord, before.coord);
            assert_eq!(after.attributes[..2], before.attributes);
            assert_eq!(
                after.attribute("label"),
                Some(&Column::I32(vec![1, -2, 3, 4]))
            );
            assert_eq!(after.attribute("confidence").unwrap().get(1), 0.25);
            assert_eq!(back.data[14], 0xaa);
        }
    }
}

#[test]
fn labels_and_confidences_of_the_scan_stay_under_other_names() {
    let named = |name: &str, datatype, count| {
        let mut message = message(Encoding::Cdr, Endian::Little, false);
        message.fields[3] = Field {
            name: name.into(),
            offset: 8,
            datatype,
            count,
        };
        message
    };
    for (name, datatype, count, stays) in [
        ("label", 2, 2, "original_label_0"),
        ("label", 6, 1, "original_label"),
        ("label", INT32, 1, "original_label"),
        ("confidence", FLOAT32, 1, "confidence"),
    ] {
        let mut message = named(name, datatype, count);
        let before = message.cloud().unwrap().attributes[0].column.clone();
        for codes in [[9; 4], [1, 2, 3, 4]] {
            message.label(&codes, &[0.5; 4]);
            let cloud = message.cloud().unwrap();
            assert_eq!(cloud.attribute(stays), Some(&before), "{name} {datatype}");
            assert_eq!(cloud.labels().unwrap().code, codes.map(i64::from));
        }
        assert_eq!(message.point_step, 23, "{name} {datatype}");
    }
}

#[test]
fn padding_behind_rows_is_no_point() {
    let data: Vec<u8> = (0..10).collect();
    assert_eq!(
        rows(&data, [2, 2], [2, 6]).unwrap(),
        [0, 1, 2, 3, 6, 7, 8, 9]
    );
    assert_eq!(rows(&data, [1, 3], [2, 0]).unwrap(), [0, 1, 2, 3, 4, 5]);
    for (size, steps) in [
        ([2, 2], [2, 3]),
        ([3, 2], [2, 4]),
        ([u32::MAX, u32::MAX], [u32::MAX, u32::MAX]),
        ([1, 1], [0, 0]),
    ] {
        assert!(rows(&data, size, steps).unwrap_err().contains("promised"));
    }
}

#[test]
fn cut_and_changed_messages_are_refused_or_read() {
    for encoding in [Encoding::Cdr, Encoding::Ros1] {
        let bytes = message(encoding, Endian::Little, false).write();
        for end in 0..bytes.len() {
            assert!(Message::read(&bytes[..end], encoding).is_err(), "{end}");
        }
        let mut changed = bytes.clone();
        for at in 0..bytes.len() {
            for value in [0, 0xff, bytes[at] ^ 1] {
                changed[at] = value;
                if let Ok(message) = Message::read(&changed, encoding) {
                    let _ = message.cloud();
                }
            }
            changed[at] = bytes[at];
        }
    }
}

#[test]
fn fields_that_would_fill_memory_are_refused() {
    let mut bomb = message(Encoding::Ros1, Endian::Little, false);
    (bomb.height, bomb.point_step, bomb.data) = (0, u32::MAX, Vec::new());
    bomb.fields[3].count = u32::MAX - 12;
    let fault = Message::read(&bomb.write(), Encoding::Ros1).unwrap_err();
    assert!(fault.contains("fields of 4294967286 numbers"), "{fault}");
    let mut shared = message(Encoding::Ros1, Endian::Little, false);
    for i in 0..20 {
        shared.fields.push(Field {
            name: format!("again_{i}"),
            offset: 0,
            datatype: FLOAT32,
            count: 1,
        });
    }
    let fault = Message::read(&shared.write(), Encoding::Ros1).unwrap_err();
    assert!(
        fault.contains("with 94 bytes in points of 15 bytes"),
        "{fault}"
    );
}
