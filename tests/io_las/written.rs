//! What is written so that other readers of LAS take it as it is meant.

use super::labels;
use cairn::io;
use std::path::Path;

/// A LAS 1.4 file of two points of format 6: `extra` bytes in each, described by `descriptors`.
fn small(path: &Path, extra: usize, descriptors: &[u8]) -> io::Scan {
    let mut bytes = vec![0; 375];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    let record = 30 + extra;
    let vlr = if descriptors.is_empty() {
        0
    } else {
        54 + descriptors.len()
    };
    put(0, b"LASF");
    put(24, &[1, 4]);
    put(94, &375u16.to_le_bytes());
    put(96, &(375 + vlr as u32).to_le_bytes());
    put(100, &u32::from(vlr > 0).to_le_bytes());
    put(104, &[6]);
    put(105, &(record as u16).to_le_bytes());
    (0..3).for_each(|axis| put(131 + 8 * axis, &0.01f64.to_le_bytes()));
    put(247, &2u64.to_le_bytes());
    if vlr > 0 {
        let mut head = vec![0; 54];
        head[2..11].copy_from_slice(b"LASF_Spec");
        head[18..20].copy_from_slice(&4u16.to_le_bytes());
        head[20..22].copy_from_slice(&(descriptors.len() as u16).to_le_bytes());
        bytes.extend(head);
        bytes.extend_from_slice(descriptors);
    }
    for _ in 0..2 {
        let mut point = vec![7; record];
        point[..14].fill(0);
        point[14] = 0x21;
        bytes.extend(point);
    }
    std::fs::write(path, bytes).unwrap();
    io::read(path).unwrap()
}

/// Type and options of each description of extra bytes in a file that was written as LAS.
fn described(path: &Path) -> Vec<(u8, u8, String)> {
    let file = las::Reader::from_path(path).unwrap();
    let vlrs = file.header().vlrs().iter();
    let data = vlrs.filter(|v| v.user_id == "LASF_Spec" && v.record_id == 4);
    let data: Vec<u8> = data.flat_map(|v| v.data.clone()).collect();
    let name = |d: &[u8]| {
        let name: Vec<u8> = d[4..36].iter().copied().take_while(|b| *b != 0).collect();
        String::from_utf8(name).unwrap()
    };
    (data.chunks_exact(192).map(|d| (d[2], d[3], name(d)))).collect()
}

#[test]
fn bytes_without_a_description_are_described_so_that_others_read_them() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.las");
    for extra in [1, 7, 8, 12, 24, 31, 300] {
        let scan = small(&folder.path().join("in.las"), extra, &[]);
        io::write(&output, &scan, &labels(2)).unwrap();
        let mut found = described(&output);
        assert_eq!(found.pop().unwrap().2, "confidence");
        let names: std::collections::BTreeSet<_> = found.iter().map(|d| &d.2).collect();
        assert_eq!(names.len(), found.len(), "{found:?}");
        let bytes: usize = found.iter().map(|d| usize::from(d.1)).sum();
        assert_eq!(bytes, extra);
        // Bits of scale and offset, of which a reader may think first.
        assert!(
            found.iter().all(|d| d.0 == 0 && d.1 & 0b11000 == 0),
            "{found:?}"
        );
    }
}

#[test]
fn a_confidence_of_another_type_is_filled_or_stays() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.las");
    let descriptor = |kind: u8, options: u8| {
        let mut bytes = vec![0; 192];
        bytes[2..4].copy_from_slice(&[kind, options]);
        bytes[4..14].copy_from_slice(b"confidence");
        bytes[112..120].copy_from_slice(&0.5f64.to_le_bytes());
        bytes
    };
    // A double, and one in units of a half.
    for (kind, options, wanted) in [(10, 0, 1), (10, 0b1000, 2)] {
        let scan = small(&folder.path().join("in.las"), 8, &descriptor(kind, options));
        io::write(&output, &scan, &labels(2)).unwrap();
        let found = described(&output);
        assert_eq!(found.len(), wanted, "{found:?}");
        let again = io::read(&output).unwrap();
        let name = &found.last().unwrap().2;
        let value = again.cloud.attribute(name).unwrap().get(1);
        assert!((value - 0.01).abs() < 1e-7, "{name} {value}");
    }
}

#[test]
fn counts_of_the_header_are_mended_where_they_are_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.las"), folder.path().join("out.las"));
    small(&input, 0, &[]);
    let good = std::fs::read(&input).unwrap();
    let number =
        |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    for (at, value, all) in [
        // As LAS 1.3 has it, and not at all as LAS 1.4 has it.
        (107, 2, 0),
        // Returns that are not there.
        (263, 1, 2),
    ] {
        let mut bytes = good.clone();
        bytes[247] = all;
        bytes[at] = value;
        std::fs::write(&input, bytes).unwrap();
        io::write_unlabelled(&output, &io::read(&input).unwrap()).unwrap();
        let bytes = std::fs::read(&output).unwrap();
        assert_eq!((number(&bytes, 247), number(&bytes, 263)), (2, 0));
        assert_eq!(
            las::Reader::from_path(&output)
                .unwrap()
                .header()
                .number_of_points(),
            2
        );
    }
}

/// LASzip, the library, reads wave packets of version 1 only.
#[cfg(feature = "laz")]
#[test]
fn wave_packets_are_compressed_in_their_only_version() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.laz");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/las/simple1_3.las");
    let scan = io::read(path).unwrap();
    io::write(&output, &scan, &labels(scan.cloud.len())).unwrap();
    let file = las::Reader::from_path(&output).unwrap();
    let vlr = file.header().vlrs().iter().find(|v| v.record_id == 22204);
    let items: Vec<Vec<u8>> = vlr.unwrap().data[34..]
        .chunks(6)
        .map(<[u8]>::to_vec)
        .collect();
    let waves = items
        .iter()
        .find(|item| item[0] == 9)
        .expect("the sample has wave packets");
    assert_eq!(waves[4..], [1, 0], "{items:?}");
    let again = io::read(&output).unwrap();
    assert_eq!(
        again.cloud.attribute("wave_packet_index"),
        scan.cloud.attribute("wave_packet_index")
    );
}
