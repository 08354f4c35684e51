//! Hostile surroundings and files made to hurt: what random damage (`fuzz.rs`) does not find in its short runs.

use std::path::Path;
use std::process::Command;

use cairn::io;
use e57::{E57Writer, Record, RecordDataType, RecordName, RecordValue};

/// Address space of a child, KiB: the test program itself takes most of it.
#[cfg(target_os = "linux")]
const ADDRESS_SPACE: u64 = 300_000;

/// Puts content into the pages of an E57 file.
fn pages(content: &[u8]) -> Vec<u8> {
    let mut pages = Vec::new();
    for part in content.chunks(1020) {
        let mut page = part.to_vec();
        page.resize(1020, 0);
        let sum = !page.iter().fold(!0u32, |sum, byte| {
            (0..8).fold(sum ^ u32::from(*byte), |s, _| {
                (s >> 1) ^ (0x82f6_3b78 & (s & 1).wrapping_neg())
            })
        });
        pages.extend(page);
        pages.extend(sum.to_be_bytes());
    }
    pages
}

/// An E57 file with three fields of one bit of which only the last packet has all.
fn lopsided_e57(path: &Path) {
    let axes = [
        RecordName::CartesianX,
        RecordName::CartesianY,
        RecordName::CartesianZ,
    ];
    let prototype = axes.map(|name| Record {
        name,
        data_type: RecordDataType::Integer { min: 0, max: 1 },
    });
    let mut writer = E57Writer::from_file(path, "file").unwrap();
    let mut cloud = writer.add_pointcloud("one", prototype.into()).unwrap();
    let point = [0, 1, 0].map(RecordValue::Integer);
    (0..8).for_each(|_| cloud.add_point(point.clone().into()).unwrap());
    cloud.finalize().unwrap();
    writer.finalize().unwrap();
    // It puts its last page into the file when it goes.
    drop(writer);
    let xml = e57::E57Reader::from_file(path).unwrap().xml().to_string();

    // Sections start behind the header of 48 bytes and are not longer than a page before the first packet.
    let mut content = vec![0; 80];
    content[48] = 1;
    content[64..72].copy_from_slice(&80u64.to_le_bytes());
    let mut packet = |lengths: [u16; 3]| {
        let length = 12 + lengths.iter().sum::<u16>();
        content.extend([1, 0]);
        content.extend((length - 1).to_le_bytes());
        content.extend(3u16.to_le_bytes());
        lengths.iter().for_each(|l| content.extend(l.to_le_bytes()));
        content.resize(content.len() + usize::from(length) - 12, 0);
    };
    (0..100).for_each(|_| packet([60_000, 0, 0]));
    packet([0, 4, 4]);
    let (start, length) = (content.len() as u64, xml.len() as u64);
    let place = "fileOffset=\"48\"";
    assert!(xml.contains(place), "{xml}");
    content.extend(xml.as_bytes());
    let size = content.len().div_ceil(1020) as u64 * 1024;
    content[..16].copy_from_slice(b"ASTM-E57\x01\0\0\0\0\0\0\0");
    let numbers = [size, start / 1020 * 1024 + start % 1020, length, 1024];
    for (i, number) in numbers.iter().enumerate() {
        content[16 + 8 * i..24 + 8 * i].copy_from_slice(&number.to_le_bytes());
    }
    std::fs::write(path, pages(&content)).unwrap();
}

/// Six megabytes in one field became 768 in the queues of the crate.
#[cfg(target_os = "linux")]
#[test]
fn fields_of_e57_that_run_apart_take_no_more_memory_than_their_file() {
    if let Ok(path) = std::env::var("CAIRN_LOPSIDED_CHILD") {
        let scan = io::read(path).unwrap();
        assert_eq!(scan.cloud.coord, [[0.0; 3]; 8]);
        println!("read");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lopsided.e57");
    lopsided_e57(&path);
    let output = Command::new("sh")
        .arg("-c")
        .arg(format!(
            "ulimit -v {ADDRESS_SPACE}; exec \"$0\" --exact --nocapture --test-threads 1 \"$1\""
        ))
        .arg(std::env::current_exe().unwrap())
        .arg("fields_of_e57_that_run_apart_take_no_more_memory_than_their_file")
        .env("CAIRN_LOPSIDED_CHILD", &path)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("read"), "{text}");
}

/// Times that switch from series to series: the decoder calls itself for each switch, and all of these bits say so.
#[cfg(feature = "laz")]
#[test]
fn times_without_end_do_not_fill_the_stack() {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/laz/simple.laz");
    let mut bytes = std::fs::read(sample).unwrap();
    // Behind the header, the place of the chunk table and the first point, up to that table.
    bytes[333 + 8 + 34..18203].fill(0xff);
    let fault = io::read_bytes("a.laz", bytes).unwrap_err().to_string();
    assert!(fault.contains("a point has thousands of times"), "{fault}");
}

/// A limit on file size stands for a full disk: the system refuses to write on.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_the_old_file_and_nothing_else() {
    if let Ok(output) = std::env::var("CAIRN_FULL_DISK_CHILD") {
        let sample =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/las/vegetation_1_3.las");
        let scan = io::read(sample).unwrap();
        let fault = io::write_unlabelled(&output, &scan).unwrap_err();
        assert!(matches!(fault, cairn::Error::Io { .. }), "{fault}");
        assert!(fault.to_string().starts_with(&output), "{fault}");
        assert_eq!(fault.exit_code(), 2);
        println!("refused: {fault}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for name in ["out.las", "out.ply", "out.npy", "out.pcd"] {
        let output = folder.path().join(name);
        std::fs::write(&output, "old").unwrap();
        let child = Command::new("sh")
            .arg("-c")
            .arg("trap '' XFSZ; ulimit -f 64; exec \"$0\" --exact --nocapture \"$1\"")
            .arg(std::env::current_exe().unwrap())
            .arg("a_full_disk_leaves_the_old_file_and_nothing_else")
            .env("CAIRN_FULL_DISK_CHILD", &output)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&child.stdout).into_owned()
            + &String::from_utf8_lossy(&child.stderr);
        assert!(child.status.success() && text.contains("refused"), "{text}");
        assert_eq!(std::fs::read(&output).unwrap(), b"old");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 4);
}
