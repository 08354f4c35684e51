use crate::fixtures::{cairn, fails, json, path, room, succeeds, text, write};
use crate::forward::{command, golden};
use cairn::weights::safetensors;

const CONFIGURATION: &str = include_str!("train.toml");

/// Never a silent f32: whether the processor was asked for or is what `auto` comes to.
#[test]
fn half_precision_on_the_processor_is_bad_input() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let (scan, config, half) = (file("a.npy"), file("train.toml"), file("half.toml"));
    write(&scan, &room(300));
    std::fs::write(&config, CONFIGURATION).unwrap();
    let text = CONFIGURATION.replacen("[train]", "[train]\nprecision = \"bf16\"", 1);
    std::fs::write(&half, text).unwrap();
    let commands = [
        vec!["segment", path(&scan), "--precision", "bf16"],
        vec![
            "eval",
            path(&config),
            "--weights",
            "none",
            "--precision",
            "f16",
        ],
        vec![
            "forward",
            "--weights",
            "none",
            "--input",
            "none",
            "-o",
            "none",
            "--precision",
            "f16",
        ],
        vec!["bench", "--precision", "bf16"],
        vec!["train", path(&config), "--precision", "f16"],
        vec!["train", path(&half)],
    ];
    for command in commands {
        for device in [&["--device", "cpu"][..], &["--device", "auto"], &[]] {
            let fault = fails(&[&command, device].concat(), 2);
            for part in ["f16", "only GPUs can", "--device cuda", "f32"] {
                assert!(fault.contains(part), "{command:?}: {fault}");
            }
        }
    }
    let unknown = fails(&["bench", "--precision", "fp16"], 2);
    assert!(unknown.contains("f32, bf16 and f16"), "{unknown}");
    // Commands that compare with f32 do not know the option.
    let fault = fails(&["verify", "none", "--precision", "bf16"], 2);
    assert!(fault.contains("unexpected argument"), "{fault}");
}

/// Whether there is an emulator to run on; where there has to be one, its absence is a failure.
fn has_emulator() -> bool {
    let devices = json(&["info", "--devices"]);
    let is_there = !devices["emulator"].is_null() && !devices["nvrtc"].is_null();
    let required = std::env::var_os("CAIRN_REQUIRE_EMULATOR").is_some();
    assert!(is_there || !required, "{devices}");
    if !is_there {
        eprintln!("kernels are not tested: {devices}");
    }
    is_there
}

/// The tensor cores of compute capability 7.5 multiply f16, and do not know bf16.
#[test]
fn old_gpus_have_f16_only() {
    if !has_emulator() {
        return;
    }
    let bench = |precision: &str| {
        let sizes = ["--points", "60", "--repeats", "1", "--quiet"];
        let out = cairn()
            .args(["bench", "--device", "emulator", "--precision", precision])
            .args(sizes)
            .env("CAIRN_EMULATOR_CC", "75")
            .output()
            .unwrap();
        (out.status.code(), text(&out.stderr))
    };
    assert_eq!(bench("f16"), (Some(0), String::new()));
    let (code, fault) = bench("bf16");
    assert_eq!(code, Some(2), "{fault}");
    for part in ["compute capability 7.5", "bf16 needs 8.0", "precision f16"] {
        assert!(fault.contains(part), "{part}: {fault}");
    }
}

#[test]
fn logits_in_half_precision_are_near_those_of_the_official_code() {
    if !has_emulator() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (model, batch, expected) = golden(folder.path());
    let output = folder.path().join("logits.safetensors");
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    // Operands are off by at most 2⁻⁹ and 2⁻¹². Some fifty products follow one another, each adds about 0.8 of that, which
    // is 6 of them together, and norms of small deviations make more of it: 16 were seen in bf16.
    for (precision, off) in [("bf16", 2f64.powi(-9)), ("f16", 2f64.powi(-12))] {
        let command = command(&model, &batch, &output);
        let chosen = ["--device", "emulator", "--precision", precision];
        succeeds(&[&command[..], &chosen].concat());
        let found = safetensors::read(&output).unwrap();
        let found = found.get_f64("logits").unwrap();
        let error = norm(&mut found.iter().zip(&expected).map(|(a, b)| a - b));
        let share = error / norm(&mut expected.iter().copied());
        assert!(
            off < share && share < 20.0 * off,
            "{precision}: {share:.2e}"
        );
    }
}
