//! Every reader is given mutated files, tens of thousands each: none may panic, end the program, take long, ask for much
//! memory, or refuse without saying why.
//!
//! Each target runs in a process of its own, which may use one gibibyte of addresses. The mutations depend on nothing but
//! their number, so that what failed can be done again; the message says how.
//!
//! | variable | meaning |
//! |---|---|
//! | `CAIRN_FUZZ_INPUTS` | inputs of each target; 20 000 by default |
//! | `CAIRN_FUZZ_FIRST` | number of the first input; 0 by default |

#![cfg(target_os = "linux")]

#[path = "fuzz/layers.rs"]
mod layers;
#[path = "fuzz/memory.rs"]
mod memory;
#[path = "fuzz/mutate.rs"]
mod mutate;
#[path = "../fuzz/targets.rs"]
mod targets;

use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use targets::{TARGETS, Target, find};

/// Inputs of each target.
const INPUTS: u64 = 20_000;
/// Largest file that is mutated, bytes: small ones are mutated more often in the same time. Larger ones are read as they are.
const LARGEST: usize = 36_000;
/// Address space of a child, KiB.
const ADDRESSES: u64 = 1 << 20;
/// Processor time that 100 kB, or less, may take.
const LONGEST: Duration = Duration::from_secs(1);
/// An input that takes this long by the clock will never end.
const NEVER: Duration = Duration::from_secs(120);
/// Faults that are shown before a target gives up.
const SHOWN: usize = 10;

macro_rules! fuzz {
    ($($name:ident)*) => {
        const TESTED: &[&str] = &[$(stringify!($name)),*];
        $(
            #[test]
            fn $name() {
                fuzz(find(stringify!($name)));
            }
        )*
    };
}

fuzz! { las laz ply pcd text pts ptx room npy bin e57 bag stream safetensors pth config labels }

#[test]
fn every_target_is_tested() {
    let names: Vec<&str> = TARGETS.iter().map(|t| t.name).collect();
    assert_eq!(names, TESTED);
}

/// A number from the environment.
fn variable(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

fn fuzz(target: &Target) {
    match std::env::var_os("CAIRN_FUZZ_CHILD") {
        Some(progress) => mutate_and_read(target, Path::new(&progress)),
        None => watch(target),
    }
}

/// Runs one target in a process of its own and looks after it.
fn watch(target: &Target) {
    let folder = tempfile::tempdir().unwrap();
    let progress = folder.path().join("progress");
    std::fs::write(&progress, [0; 8]).unwrap();
    let log = std::fs::File::create(folder.path().join("log")).unwrap();
    let mut child = Command::new("sh")
        .arg("-c")
        .arg(format!(
            "ulimit -v {ADDRESSES}; exec \"$0\" --exact --nocapture --test-threads 1 \"$1\""
        ))
        .arg(std::env::current_exe().unwrap())
        .arg(target.name)
        .env("CAIRN_FUZZ_CHILD", &progress)
        .env("RUST_BACKTRACE", "0")
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let at = || u64::from_le_bytes(std::fs::read(&progress).unwrap().try_into().unwrap());
    let (mut last, mut since) = (at(), Instant::now());
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if at() != last {
            (last, since) = (at(), Instant::now());
        }
        if since.elapsed() > NEVER {
            child.kill().unwrap();
            child.wait().unwrap();
            break None;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let log = std::fs::read(folder.path().join("log")).unwrap();
    let log = String::from_utf8_lossy(&log);
    match status {
        Some(status) if status.success() => {
            let line = log
                .lines()
                .find(|l| l.contains(" refused, "))
                .expect("the child ran the test");
            println!("{line}");
        }
        // Faults were told by the child.
        Some(status) if log.contains("kept as") => panic!("{log}\nended with {status}"),
        Some(status) => panic!("{log}\nended with {status}: {}", keep(target, at())),
        None => panic!("{log}\nnever ended: {}", keep(target, at())),
    }
}

/// Keeps an input, and says where and how to run it again.
fn keep(target: &Target, number: u64) -> String {
    let bytes = mutate::damaged(&small(&seeds(target)), number);
    let name = format!("fuzz-{}-{number}", target.name);
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&kept, &bytes).unwrap();
    format!(
        "input {number} of {} bytes, kept as {}; again with \
         CAIRN_FUZZ_FIRST={number} CAIRN_FUZZ_INPUTS=1 cargo test --test fuzz {}",
        bytes.len(),
        kept.display(),
        target.name
    )
}

/// Those that are mutated.
fn small(seeds: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let is_small = |bytes: &&Vec<u8>| bytes.len() <= LARGEST;
    seeds.iter().filter(is_small).cloned().collect()
}

/// The files that a target starts from, of any size.
fn seeds(target: &Target) -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let named = |pattern: &&str| cairn::io::expand(&root.join(pattern), &|_| true).unwrap();
    let files = target.seeds.iter().flat_map(named);
    let mut seeds: Vec<_> = files.map(|path| std::fs::read(path).unwrap()).collect();
    if target.name == "laz" {
        seeds.extend([6, 1].map(layers::of_many_extra_bytes));
    }
    seeds
}

/// Processor time of this process.
fn processor_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is that of a live value which the call fills.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    assert_eq!(failed, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Set by a panic in any thread, even one that a reader catches or that dies alone.
static PANICKED: AtomicBool = AtomicBool::new(false);

/// What a target showed.
#[derive(Default)]
struct Seen {
    read: u64,
    refused: u64,
    /// Largest use of memory, bytes.
    peak: usize,
    /// Largest use of memory beyond what is always allowed, in multiples of the input.
    memory: f64,
    /// Longest processor time per 100 kB or less.
    longest: Duration,
    faults: Vec<String>,
}

fn mutate_and_read(target: &Target, progress: &Path) {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICKED.store(true, Ordering::Relaxed);
        hook(panic);
    }));
    let progress = std::fs::File::options().write(true).open(progress).unwrap();
    // In memory, where there is such a place: a million small files wear a disk.
    let folder = match Path::new("/dev/shm") {
        place if place.is_dir() => tempfile::tempdir_in(place),
        _ => tempfile::tempdir(),
    };
    let folder = folder.unwrap();
    let mut seen = Seen::default();
    let seeds = seeds(target);
    for (i, bytes) in seeds.iter().enumerate() {
        let fault = one(target, bytes, folder.path(), &mut seen).err();
        seen.faults
            .extend(fault.map(|fault| format!("{fault}: seed {i}")));
    }
    let seeds = small(&seeds);
    let first = variable("CAIRN_FUZZ_FIRST", 0);
    let count = variable("CAIRN_FUZZ_INPUTS", INPUTS);
    for number in first..first + count {
        progress.write_all_at(&number.to_le_bytes(), 0).unwrap();
        let bytes = mutate::damaged(&seeds, number);
        let Err(fault) = one(target, &bytes, folder.path(), &mut seen) else {
            continue;
        };
        let place = keep(target, number);
        seen.faults.push(format!("{fault}: {place}"));
        if seen.faults.len() == SHOWN {
            break;
        }
    }
    assert!(seen.faults.is_empty(), "{}", seen.faults.join("\n"));
    // A single input is somebody's repetition.
    assert!(count < INPUTS || seen.read > 100 && seen.refused > 100);
    println!(
        "{}: {count} inputs: {} read, {} refused, memory up to {} KiB and {:.1} times the input beyond {} KiB, longest {:?}",
        target.name,
        seen.read,
        seen.refused,
        seen.peak >> 10,
        seen.memory,
        target.always >> 10,
        seen.longest
    );
}

/// Gives one input to a target and compares what it took with what it may.
fn one(target: &Target, bytes: &[u8], folder: &Path, seen: &mut Seen) -> Result<(), String> {
    let start = processor_time();
    PANICKED.store(false, Ordering::Relaxed);
    let (peak, taken) =
        memory::peak_of(|| catch_unwind(AssertUnwindSafe(|| target.takes(bytes, folder))));
    let took = processor_time() - start;
    match taken {
        Ok(true) => seen.read += 1,
        Ok(false) => seen.refused += 1,
        Err(_) => return Err("a panic".into()),
    }
    if PANICKED.load(Ordering::Relaxed) {
        return Err("a panic that was caught".into());
    }
    let took = took.div_f64((bytes.len() as f64 / 1e5).max(1.0));
    if took > LONGEST {
        return Err(format!("{took:?} for every 100 kB"));
    }
    let allowed = target.always + target.times * bytes.len();
    if peak > allowed {
        return Err(format!("{peak} bytes of memory, {allowed} are allowed"));
    }
    seen.longest = seen.longest.max(took);
    let beyond = peak.saturating_sub(target.always) as f64;
    seen.peak = seen.peak.max(peak);
    seen.memory = seen.memory.max(beyond / bytes.len().max(1) as f64);
    Ok(())
}
