//! `cairn info --devices`: what there is to compute with.

use crate::cli::print;
use crate::device::cuda::{self, Card, Inventory};
use crate::device::simd;
use serde_json::{Value, json};
use std::fmt::Write;
use std::process::ExitCode;

/// Prints the devices.
pub fn run(as_json: bool) -> anyhow::Result<ExitCode> {
    let inventory = cuda::describe();
    if as_json {
        print::json(&machine(&inventory))?;
    } else {
        print::result(&text(&inventory))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn too_old(card: &Card) -> Option<&'static str> {
    (!card.is_usable()).then_some("too old: the kernels need compute capability 7.5")
}

fn text(inventory: &Inventory) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        writeln!(text, "{name:<10} {value}").expect("writing to a string never fails");
    };
    let threads = rayon::current_num_threads();
    line(
        "cpu",
        format!("{threads} threads, {} instructions", simd::level()),
    );
    match &inventory.cards {
        Err(fault) => line("cuda", format!("none: {fault}")),
        Ok(cards) if cards.is_empty() => line("cuda", "none: the driver reports no card".into()),
        Ok(cards) => {
            for (ordinal, card) in cards.iter().enumerate() {
                let fault = too_old(card).map(|fault| format!("; {fault}"));
                line(
                    &format!("cuda:{ordinal}"),
                    format!(
                        "{card}, driver for CUDA {}{}",
                        card.driver,
                        fault.unwrap_or_default()
                    ),
                );
            }
        }
    }
    match &inventory.nvrtc {
        Ok(nvrtc) => {
            let place = nvrtc.file.as_ref().map(|file| file.display().to_string());
            let place = place.unwrap_or_else(|| "found by the system's loader".into());
            line("nvrtc", format!("{}, {place}", nvrtc.version));
        }
        Err(fault) => {
            line("nvrtc", format!("none: {fault}"));
            for folder in &inventory.nvrtc_folders {
                line("", format!("looked in {}", folder.display()));
            }
        }
    }
    match &inventory.emulator {
        Ok(file) => line("emulator", file.display().to_string()),
        Err(fault) => line("emulator", format!("none: {fault}")),
    }
    text
}

/// Everything as JSON; what is missing is `null` and has its reason under `missing`.
fn machine(inventory: &Inventory) -> Value {
    let card = |card: &Card| {
        json!({
            "name": card.name,
            "compute_capability": f64::from(card.capability) / 10.0,
            "memory_bytes": card.memory,
            "driver_cuda": card.driver,
            "usable": card.is_usable(),
        })
    };
    let mut missing = serde_json::Map::new();
    let mut keep = |name: &str, found: Result<Value, &String>| {
        found.unwrap_or_else(|fault| {
            missing.insert(name.into(), json!(fault));
            Value::Null
        })
    };
    let cards = inventory.cards.as_ref();
    let nvrtc = inventory.nvrtc.as_ref();
    json!({
        "cpu": {
            "threads": rayon::current_num_threads(),
            "instructions": simd::level().to_string(),
        },
        "cuda": keep("cuda", cards.map(|cards| cards.iter().map(card).collect())),
        "nvrtc": keep("nvrtc", nvrtc.map(|n| json!({ "version": n.version, "file": n.file }))),
        "nvrtc_folders": inventory.nvrtc_folders,
        "emulator": keep("emulator", inventory.emulator.as_ref().map(|file| json!(file))),
        "missing": missing,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cuda::Nvrtc;

    fn nothing() -> Inventory {
        Inventory {
            cards: Err("no driver; install it".into()),
            nvrtc: Err("NVRTC was not found; get it with `pip install`".into()),
            nvrtc_folders: vec!["/opt/a".into(), "/opt/b".into()],
            emulator: Err("build it with cargo".into()),
        }
    }

    #[test]
    fn what_is_missing_says_what_to_do() {
        let text = text(&nothing());
        for part in [
            "install it",
            "pip install",
            "looked in /opt/a",
            "looked in /opt/b",
            "build it with cargo",
        ] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
        let value = machine(&nothing());
        assert!(value["cuda"].is_null() && value["nvrtc"].is_null());
        assert_eq!(value["missing"].as_object().unwrap().len(), 3);
    }

    #[test]
    fn cards_are_listed_and_old_ones_marked() {
        let card = |name: &str, capability| Card {
            name: name.into(),
            capability,
            memory: 24 << 30,
            driver: "12.8".into(),
        };
        let inventory = Inventory {
            cards: Ok(vec![card("New", 89), card("Old", 61)]),
            nvrtc: Ok(Nvrtc {
                version: "13.0".into(),
                file: Some("/opt/libnvrtc.so.13".into()),
            }),
            emulator: Ok("/opt/libcairn_emulator.so".into()),
            ..nothing()
        };
        let text = text(&inventory);
        let line = |name: &str| text.lines().find(|l| l.starts_with(name)).unwrap();
        let new = line("cuda:0");
        for part in ["New", "8.9", "24.0 GiB", "CUDA 12.8"] {
            assert!(new.contains(part), "{part} is not in: {new}");
        }
        assert!(!new.contains("too old"), "{new}");
        assert!(line("cuda:1").contains("too old"));
        assert!(line("nvrtc").contains("13.0, /opt/libnvrtc.so.13"));
        assert!(!text.contains("looked in"), "{text}");
        let value = machine(&inventory);
        assert_eq!(value["cuda"][1]["usable"], false);
        assert_eq!(value["cuda"][0]["memory_bytes"], 24u64 << 30);
        assert_eq!(value["missing"].as_object().unwrap().len(), 0);
    }
}
