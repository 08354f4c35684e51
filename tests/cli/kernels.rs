use crate::fixtures::{cairn, fails, json, repository, text};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

const TABLE: &str = "kernels/counts.txt";

/// Kernels of GPUs without TF32 tensor cores, which the emulator runs only when it stands in for one of those.
const TURING: [&str; 3] = [
    "linear_forward_plain",
    "linear_backward_x_plain",
    "linear_backward_w_plain",
];

/// Whether NVRTC and the emulator are there; where they have to be, their absence is a failure.
fn runs_kernels() -> bool {
    let devices = json(&["info", "--devices"]);
    let runs = !devices["nvrtc"].is_null() && !devices["emulator"].is_null();
    let missing = &devices["missing"];
    assert!(
        runs || std::env::var_os("CAIRN_REQUIRE_EMULATOR").is_none(),
        "{missing}"
    );
    if !runs {
        eprintln!("kernels are not counted: {missing}");
    }
    runs
}

/// Names of the kernels in the files of `kernels/`.
fn declared() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(repository("kernels")).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_none_or(|e| e != "cu") {
            continue;
        }
        let source = std::fs::read_to_string(file).unwrap();
        for rest in source.split("extern \"C\" __global__").skip(1) {
            let head = rest.split('{').next().unwrap();
            let (before, _) = head.split_once(['\n', ')']).unwrap();
            let before = if before.contains("__launch_bounds__") {
                head.split_once(')').unwrap().1
            } else {
                head
            };
            let name = before.split('(').next().unwrap();
            names.insert(name.split_whitespace().last().unwrap().to_string());
        }
    }
    assert!(names.contains("relu_forward") && names.contains("column_moments"));
    names
}

#[test]
fn every_kernel_has_a_case_and_its_counts_are_recorded() {
    let table = std::fs::read_to_string(repository(TABLE)).unwrap();
    let recorded: BTreeSet<String> = table
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split_whitespace().nth(1).unwrap().to_string())
        .collect();
    for kernel in declared() {
        let name = kernel.as_str();
        let excused = TURING.contains(&name);
        assert!(
            recorded.contains(name) != excused,
            "{kernel}: add a case that runs it to src/profile/cases.rs, then `cairn kernels --record {TABLE}`"
        );
    }
}

/// Compares with the recorded table, of which one kernel was given another name: only that may be found.
#[test]
fn counts_are_not_worse_than_recorded_and_new_kernels_are_noticed() {
    if !runs_kernels() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("counts.txt");
    let table = std::fs::read_to_string(repository(TABLE)).unwrap();
    let renamed = table.replace(" segment_max_forward ", " segment_max_of_old ");
    std::fs::write(&file, renamed).unwrap();
    let fault = fails(&["kernels", "--compare", file.to_str().unwrap()], 1);
    let lines: Vec<&str> = fault.lines().collect();
    let [_, new_a, new_b, lost_a, lost_b, mend] = lines[..] else {
        panic!("{fault}");
    };
    for line in [new_a, new_b] {
        assert!(line.contains("segment_max_forward is not in the table"));
    }
    for line in [lost_a, lost_b] {
        assert!(line.contains("segment_max_of_old is recorded but does not run"));
    }
    assert!(mend.contains("cairn kernels --record"), "{fault}");
}

/// What the bounds of kernels on a real GPU stand on: counts are a share that stays and one that grows with the points.
#[test]
fn counts_grow_by_the_same_with_every_point() {
    if !runs_kernels() {
        return;
    }
    let count = |points: &str| {
        let found = json(&["kernels", "layer_norm", "--points", points]);
        let kernels = found["kernels"].as_array().unwrap().clone();
        let row = |row: &Value| {
            let channels = row["case"].as_str().unwrap().split_once('x').unwrap().1;
            let key = format!("{channels} {}", row["kernel"].as_str().unwrap());
            (key, row["bytes_read_least"].as_u64().unwrap())
        };
        kernels.iter().map(row).collect::<BTreeMap<_, _>>()
    };
    let [one, two, four] = ["1", "2", "4"].map(count);
    assert!(one.len() >= 6, "{one:?}");
    for (key, once) in one.iter().filter(|(key, _)| key.contains("layer_norm_")) {
        let growth = two[key] - once;
        assert_eq!(four[key], once + 3 * growth, "{key}");
        assert!(growth > 0, "{key}");
    }
}

/// On a GPU without TF32, so that the products of those are seen too.
#[test]
fn kernels_are_described_with_bounds_and_lines() {
    if !runs_kernels() {
        return;
    }
    let out = cairn()
        .args(["kernels", "add", "--json", "--arch", "sm_75"])
        .env("CAIRN_EMULATOR_CC", "75")
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    let found: Value = serde_json::from_slice(&out.stdout).unwrap();
    let kernels = found["kernels"].as_array().unwrap();
    let find = |name: &str| {
        let found = kernels.iter().find(|k| k["kernel"] == name);
        found.unwrap_or_else(|| panic!("{name} did not run"))
    };
    for name in TURING {
        assert_eq!(find(name)["tensor_operations"], 0);
        assert_eq!(find(name)["on_arch"]["spill_load_bytes"], 0);
    }
    let add = find("add_forward");
    // 1024 x 48 values: two read, one written, by requests that waste nothing.
    let bytes = 4 * 1024 * 48;
    assert_eq!(add["bytes_read_least"], 2 * bytes);
    assert_eq!(add["bytes_written_least"], bytes);
    assert_eq!(add["bytes_moved"], 3 * bytes);
    assert_eq!(add["bank_conflicts"], 0);
    let registers = add["on_arch"]["registers"].as_u64().unwrap();
    assert!((8..=64).contains(&registers), "{registers}");
    assert_eq!(add["on_arch"]["occupancy"], 1.0);
    let least = f64::from(3 * bytes) / 2039e3;
    let a100 = &add["bounds"][0];
    assert_eq!(
        (&a100["card"], &a100["by"]),
        (&"A100".into(), &"memory".into())
    );
    assert!((a100["microseconds"].as_f64().unwrap() / least - 1.0).abs() < 1e-9);
    let place = add["lines"][0]["place"].as_str().unwrap();
    assert!(place.starts_with("add.cu:") || place.starts_with("common.cuh:"));
}

#[test]
fn odd_architectures_are_bad_input() {
    let fault = fails(&["kernels", "--arch", "compute_80"], 2);
    assert!(fault.contains("sm_80"), "{fault}");
}
