use super::cloud::tests_message as message;
use super::*;
use crate::cloud::Column;
use crate::cloud::Endian;
use std::fs::File;
use std::path::PathBuf;

/// A bag with two topics of clouds, one of words, an attachment and metadata.
fn sample(path: &Path, encoding: Encoding) {
    let mut writer = mcap::Writer::new(File::create(path).unwrap()).unwrap();
    let (name, form) = match encoding {
        Encoding::Cdr => ("sensor_msgs/msg/PointCloud2", "cdr"),
        Encoding::Ros1 => ("sensor_msgs/PointCloud2", "ros1"),
    };
    let schema = writer.add_schema(name, "text", b"fields").unwrap();
    let words = writer
        .add_schema("std_msgs/msg/String", "text", b"")
        .unwrap();
    let empty = BTreeMap::new();
    let front = writer.add_channel(schema, "/front", form, &empty).unwrap();
    let rear = writer.add_channel(schema, "/rear", form, &empty).unwrap();
    let talk = writer.add_channel(words, "/talk", form, &empty).unwrap();
    let cloud = message(encoding, Endian::Little, false).write();
    for i in 0..3 {
        for (channel_id, data) in [(front, &cloud[..]), (rear, &cloud), (talk, b"hello")] {
            let header = mcap::records::MessageHeader {
                channel_id,
                sequence: i,
                log_time: u64::from(i) * 100,
                publish_time: 7,
            };
            writer.write_to_known_channel(&header, data).unwrap();
        }
    }
    let attachment = mcap::Attachment {
        log_time: 1,
        create_time: 2,
        name: "map".into(),
        media_type: "text/plain".into(),
        data: b"here"[..].into(),
    };
    writer.attach(&attachment).unwrap();
    let metadata = mcap::records::Metadata {
        name: "robot".into(),
        metadata: [("arm".to_string(), "left".to_string())].into(),
    };
    writer.write_metadata(&metadata).unwrap();
    writer.finish().unwrap();
}

fn labels(count: usize, number: u64) -> Labels {
    Labels {
        code: (0..count as i32).map(|i| i + number as i32).collect(),
        confidence: vec![0.5; count],
        classes: Vec::new(),
    }
}

/// Everything but indexes, as text, with long data shortened to a sum.
fn records(path: &Path) -> Vec<String> {
    let mut all = Vec::new();
    read(path, &mut |record| {
        if !matches!(record, Record::MessageIndex(_)) {
            all.push(format!("{record:?}"));
        }
        Ok(())
    })
    .unwrap();
    all.sort();
    all
}

#[test]
fn clouds_of_one_topic_are_labelled_and_the_rest_is_copied() {
    let folder = tempfile::tempdir().unwrap();
    for encoding in [Encoding::Cdr, Encoding::Ros1] {
        let [path, output]: [PathBuf; 2] = ["a.mcap", "b.mcap"].map(|n| folder.path().join(n));
        sample(&path, encoding);
        assert!(is_bag(&path));
        assert_eq!(topics(&path).unwrap().len(), 2);
        let fault = choose(&path, None).unwrap_err().to_string();
        assert!(fault.contains("--topic: /front, /rear"), "{fault}");
        let fault = choose(&path, Some("/talk")).unwrap_err().to_string();
        assert!(fault.contains("only on: /front, /rear"), "{fault}");
        assert_eq!(choose(&path, Some("/rear")).unwrap().messages, 3);
        let mut times = Vec::new();
        label(&path, &output, "/rear", &mut |frame| {
            times.push((frame.number, frame.time));
            assert_eq!(frame.cloud.coord[1], [1.0, 2.0, 3.0]);
            Ok(labels(frame.cloud.len(), frame.number))
        })
        .unwrap();
        assert_eq!(times, [(0, 0), (1, 100), (2, 200)]);
        let (old, new) = (records(&path), records(&output));
        assert_eq!(old.len(), new.len());
        let changed = old.iter().filter(|record| !new.contains(record)).count();
        assert_eq!(changed, 3);
        // The labelled bag is read again, in place.
        label(&output, &output, "/rear", &mut |frame| {
            let want: Vec<i32> = (0..4).map(|i| i + frame.number as i32).collect();
            assert_eq!(frame.cloud.attribute("label"), Some(&Column::I32(want)));
            Ok(labels(4, 9))
        })
        .unwrap();
        assert_eq!(records(&output).len(), new.len());
    }
}

#[test]
fn faults_of_bags_name_the_place_and_leave_no_output() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.mcap");
    sample(&path, Encoding::Cdr);
    let bytes = std::fs::read(&path).unwrap();
    let output = folder.path().join("b.mcap");
    for end in [8, 20, 100, bytes.len() / 3] {
        std::fs::write(&path, &bytes[..end]).unwrap();
        let fault = topics(&path).unwrap_err();
        assert!(
            fault.to_string().starts_with(path.to_str().unwrap())
                && fault.to_string().contains("byte "),
            "{fault}"
        );
        assert_eq!(fault.exit_code(), 2);
    }
    let mut random = 1u64;
    for _ in 0..3000 {
        let mut damaged = bytes.clone();
        for _ in 0..3 {
            random = random
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            let at = (random >> 33) as usize % damaged.len();
            damaged[at] = (random >> 20) as u8;
        }
        std::fs::write(&path, damaged).unwrap();
        let done = label(&path, &output, "/front", &mut |frame| {
            Ok(labels(frame.cloud.len(), 0))
        });
        assert_eq!(done.is_ok(), output.exists());
        let _ = std::fs::remove_file(&output);
    }
    std::fs::write(&path, &bytes).unwrap();
    let stop = Err(Error::argument("x", "stopped"));
    let mut stop = Some(stop);
    let done = label(&path, &output, "/front", &mut |_| stop.take().unwrap());
    assert!(done.unwrap_err().to_string().contains("stopped"));
    assert!(!output.exists());
}

#[test]
fn a_record_longer_than_its_chunk_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.mcap");
    sample(&path, Encoding::Cdr);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.truncate(8);
    let record = |kind: u8, content: &[u8]| {
        [&[kind][..], &(content.len() as u64).to_le_bytes(), content].concat()
    };
    let mut inner = record(mcap::records::op::MESSAGE, &[0; 22]);
    inner[1] = 23;
    let head = [
        &[0; 16][..],
        &31u64.to_le_bytes(),
        &[0; 8],
        &31u64.to_le_bytes(),
    ]
    .concat();
    bytes.extend(record(mcap::records::op::CHUNK, &[head, inner].concat()));
    std::fs::write(&path, bytes).unwrap();
    let fault = topics(&path).unwrap_err().to_string();
    assert!(
        fault.contains("record at byte 8: a record of 23 bytes"),
        "{fault}"
    );
}
