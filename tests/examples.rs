//! Every example runs to its end; each checks what it teaches.

// The town tile is compressed.
#[cfg(feature = "laz")]
#[path = "../examples/custom_model.rs"]
mod custom_model;
#[path = "../examples/custom_op.rs"]
mod custom_op;
#[cfg(feature = "laz")]
#[path = "../examples/repeat_scan.rs"]
mod repeat_scan;
#[cfg(feature = "laz")]
#[path = "../examples/segment_scan.rs"]
mod segment_scan;
#[path = "../examples/train_small.rs"]
mod train_small;

#[test]
#[cfg(feature = "laz")]
fn custom_model_runs() {
    custom_model::main().unwrap();
}

#[test]
fn custom_op_runs() {
    custom_op::main().unwrap();
}

#[test]
#[cfg(feature = "laz")]
fn repeat_scan_runs() {
    repeat_scan::main().unwrap();
}

#[test]
#[cfg(feature = "laz")]
fn segment_scan_runs() {
    segment_scan::main().unwrap();
}

#[test]
fn train_small_runs() {
    train_small::main().unwrap();
}

#[test]
fn no_example_is_forgotten() {
    let here = include_str!("examples.rs");
    for entry in std::fs::read_dir("examples").unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let listed = here.contains(&format!("/{name}\""));
        assert!(listed || !name.ends_with(".rs"), "{name}");
    }
}
