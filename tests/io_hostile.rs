//! Damaged files: cut short and with changed bytes, thousands of each. A reader may refuse or read them; it may not
//! panic, hang, or ask for memory by what a header claims.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use cairn::io;

/// Largest sample that is damaged, bytes: small files are damaged more often in the same time.
const LARGEST: u64 = 36_000;
/// Damaged forms of each sample; `CAIRN_HOSTILE_VARIANTS` asks for more.
const VARIANTS: u64 = 20;

fn samples() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let folders = [
        "las",
        "laz",
        "las_odd",
        "ply",
        "pcd",
        "npy",
        "text",
        "malformed",
    ];
    let mut files: Vec<PathBuf> = folders
        .iter()
        .flat_map(|f| std::fs::read_dir(folder.join(f)).unwrap())
        .map(|e| e.unwrap().path())
        .filter(|p| p.is_file() && std::fs::metadata(p).unwrap().len() <= LARGEST)
        .collect();
    files.sort();
    files
}

/// A small deterministic generator (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// Cuts, changes, repeats or removes something; headers are hit more often than points.
fn damage(bytes: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..1 + random.below(4) {
        if bytes.is_empty() {
            break;
        }
        let reach = match random.below(3) {
            0 => bytes.len(),
            1 => bytes.len().min(500),
            _ => bytes.len().min(120),
        };
        let at = random.below(reach);
        match random.below(8) {
            0 => bytes.truncate(at),
            1 => bytes[at] ^= 1 << random.below(8),
            2 => bytes[at] = random.next() as u8,
            3 => bytes[at] = [0, 0xff, 0x7f, 0x80, b'9', b'-'][random.below(6)],
            4 => {
                let end = (at + 1 + random.below(8)).min(bytes.len());
                bytes[at..end].fill(if random.below(2) == 0 { 0 } else { 0xff });
            }
            5 => {
                let end = (at + random.below(64)).min(bytes.len());
                bytes.drain(at..end);
            }
            6 => {
                let end = (at + random.below(64)).min(bytes.len());
                let some = bytes[at..end].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, some);
            }
            _ => {
                let at = at.min(bytes.len().saturating_sub(4));
                let end = (at + 4).min(bytes.len());
                let big = random.next().to_le_bytes();
                bytes[at..end].copy_from_slice(&big[..end - at]);
            }
        }
    }
    bytes
}

/// Reads every sample in many damaged forms; run in a process of its own with little memory.
fn read_damaged(variants: u64) {
    let folder = tempfile::tempdir().unwrap();
    let (mut read, mut refused) = (0, 0);
    for (i, sample) in samples().iter().enumerate() {
        let bytes = std::fs::read(sample).unwrap();
        // No extension: the content alone decides which reader gets the file, except where nothing marks it.
        let extension = sample.extension().unwrap().to_str().unwrap();
        let by_name = ["txt", "csv", "xyz", "pts", "ptx", "bin"].contains(&extension);
        let path = folder.path().join(match by_name {
            true => format!("damaged.{extension}"),
            false => "damaged".into(),
        });
        for variant in 0..variants {
            let mut random = Random((i as u64) << 32 | variant);
            let damaged = damage(&bytes, &mut random);
            std::fs::write(&path, &damaged).unwrap();
            let start = Instant::now();
            match io::read(&path) {
                Ok(scan) => {
                    assert_eq!(scan.cloud.len(), scan.records.len());
                    read += 1;
                }
                Err(e) => {
                    assert!(e.to_string().contains("damaged"), "{e}");
                    refused += 1;
                }
            }
            let limit = Duration::from_secs(1 + damaged.len() as u64 / 100_000);
            assert!(
                start.elapsed() < limit,
                "{} variant {variant}",
                sample.display()
            );
        }
    }
    assert!(
        read > 100 && refused > 100,
        "{read} read, {refused} refused"
    );
    println!("{read} read, {refused} refused");
}

/// Address space of the child, KiB: the test program itself takes most of it.
#[cfg(target_os = "linux")]
const ADDRESS_SPACE: u64 = 300_000;

#[cfg(target_os = "linux")]
#[test]
fn damaged_files_are_read_or_refused_in_little_memory() {
    if let Ok(variants) = std::env::var("CAIRN_HOSTILE_CHILD") {
        read_damaged(variants.parse().unwrap());
        return;
    }
    let variants = std::env::var("CAIRN_HOSTILE_VARIANTS").unwrap_or(VARIANTS.to_string());
    let output = Command::new("sh")
        .arg("-c")
        .arg(format!(
            "ulimit -v {ADDRESS_SPACE}; exec \"$0\" --exact --nocapture --test-threads 1 \"$1\""
        ))
        .arg(std::env::current_exe().unwrap())
        .arg("damaged_files_are_read_or_refused_in_little_memory")
        .env("CAIRN_HOSTILE_CHILD", variants)
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("refused"), "the child ran no test: {text}");
    assert!(!text.contains("panicked"), "{text}");
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
