//! Tests of optimizers and schedules.

use super::*;
use crate::cloud::tests::golden;
use crate::device::Device;
use crate::graph::Layout;
use crate::graph::check::devices;

fn adamw() -> OptimizerConfig {
    OptimizerConfig::AdamW {
        lr: 0.006,
        betas: [0.9, 0.999],
        eps: 1e-8,
        weight_decay: 0.05,
    }
}

fn assert_near(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    for (f, e) in found.iter().zip(expected) {
        assert!(
            (f - e).abs() <= 1e-6 * largest,
            "{what}: {f} instead of {e}"
        );
    }
}

/// Every rule on every device.
fn rules() -> Vec<(Device, OptimizerConfig)> {
    let sgd = |nesterov| OptimizerConfig::Sgd {
        lr: 0.1,
        momentum: 0.9,
        nesterov,
        weight_decay: 0.1,
    };
    let all = [adamw(), sgd(false), sgd(true)];
    let on = |device| all.into_iter().map(move |config| (device, config));
    devices().into_iter().flat_map(on).collect()
}

fn whole(count: usize) -> Trained {
    std::iter::once(0..count).collect()
}

#[test]
fn adamw_matches_the_reference_file() {
    for device in devices() {
        adamw_matches_on(device);
    }
}

fn adamw_matches_on(device: Device) {
    let file = golden("op_adamw_schedule");
    for tensor in 0..2 {
        let mut values = Memory::of(device, &file.f32(&format!("p{tensor}.0"))).unwrap();
        let count = values.len();
        let mut rule = AdamW::new(device, count, whole(count), 0.999, 1e-8, 0.05).unwrap();
        for step in 1..=5 {
            let gradients = Memory::of(device, &file.f32(&format!("g{tensor}.{step}"))).unwrap();
            rule.step(&mut values, &gradients, adamw().base()).unwrap();
            let expected = file.f32(&format!("p{tensor}.{step}"));
            assert_near(values.host(), &expected, "value");
            assert_near(
                &rule.mean_and_square().0,
                &file.f32(&format!("m{tensor}.{step}")),
                "mean",
            );
            assert_near(
                &rule.mean_and_square().1,
                &file.f32(&format!("v{tensor}.{step}")),
                "square",
            );
        }
    }
}

impl AdamW {
    fn mean_and_square(&self) -> (Vec<f32>, Vec<f32>) {
        let state = self.state().unwrap();
        (state[0].1.to_vec(), state[1].1.to_vec())
    }
}

#[test]
fn schedules_match_the_reference_file() {
    let file = golden("op_adamw_schedule");
    let multi_step = Schedule::MultiStep {
        milestones: vec![0.6, 0.8],
        gamma: 0.1,
        warm_up_steps: 0,
        warm_up_ratio: 1e-6,
    };
    let one_cycle = Schedule::OneCycle {
        warm_up: 0.05,
        div: 10.0,
        final_div: 1000.0,
        momentum: [0.85, 0.95],
    };
    for (schedule, name, lr) in [
        (multi_step, "multistep", 0.006),
        (one_cycle, "onecycle", 0.005),
    ] {
        let rates = file.f64(&format!("{name}.lr"));
        let betas = file.f64(&format!("{name}.beta1"));
        for step in 0..200 {
            let rate = schedule.at(step as u64, 200, Rate { lr, momentum: 0.9 });
            assert!(
                (rate.lr / rates[step] - 1.0).abs() < 1e-12,
                "{name}, step {step}: {}",
                rate.lr
            );
            assert!(
                (rate.momentum / betas[step] - 1.0).abs() < 1e-12,
                "{name}, step {step}"
            );
        }
    }
}

#[test]
fn multi_step_warms_up_as_in_the_reference_file() {
    let file = crate::geometry::golden::Golden::of("stratified", "curve_a");
    let schedule = Schedule::MultiStep {
        milestones: vec![24.0 / 40.0, 32.0 / 40.0],
        gamma: 0.1,
        warm_up_steps: 6,
        warm_up_ratio: 1e-6,
    };
    schedule.check().unwrap();
    let base = Rate {
        lr: 0.006,
        momentum: 0.9,
    };
    for (step, expected) in file.f64("lr").into_iter().enumerate() {
        let found = schedule.at(step as u64, 40, base).lr;
        assert!(
            (found / expected - 1.0).abs() < 1e-12,
            "step {step}: {found}"
        );
    }
}

#[test]
fn groups_move_at_their_own_rate() {
    let mut layout = Layout::default();
    let mut root = crate::graph::Scope::root(&mut layout);
    let one = crate::graph::Init::Constant(1.0);
    let fast = root.weight("stem.weight", &[3], one);
    let slow = root.weight("layers.0.blocks.1.weight", &[40_000], one);
    let fixed = root.fixed("points", &[3], one);
    let groups = [Group {
        contains: "blocks".into(),
        lr: 0.1,
    }];
    check_groups(&groups, &layout).unwrap();
    for (device, config) in rules() {
        let words = layout.words();
        let mut values = Memory::of(device, &vec![1.0; words]).unwrap();
        let gradients = Memory::of(device, &vec![1.0; words]).unwrap();
        let trained = Trained::of(&layout, &groups);
        let mut rule = config.build(device, words, trained).unwrap();
        rule.step(&mut values, &gradients, config.base()).unwrap();
        let values = values.host();
        let moved = |id| 1.0 - values[layout.range(id)][0];
        assert!((moved(slow) / moved(fast) - 0.1).abs() < 1e-3, "{config:?}");
        let all = &values[layout.range(slow)];
        assert!(
            all.iter().all(|v| *v == all[0]),
            "every piece has the factor"
        );
        assert_eq!(moved(fixed), 0.0);
    }
    for (contains, lr) in [("blocks", 0.0), ("blocks", f64::NAN), ("block.", 0.1)] {
        let group = Group {
            contains: contains.into(),
            lr,
        };
        assert!(check_groups(&[group], &layout).is_err());
    }
}

#[test]
fn cosine_warms_up_and_ends_at_its_floor() {
    let schedule = Schedule::Cosine {
        warm_up: 0.1,
        floor: 0.01,
    };
    let base = Rate {
        lr: 2.0,
        momentum: 0.9,
    };
    let lr = |s| schedule.at(s, 100, base).lr;
    assert_eq!((lr(0), lr(9), lr(10)), (0.2, 2.0, 2.0));
    assert!(lr(55) < lr(54) && (lr(100) - 0.02).abs() < 1e-12);
}

#[test]
fn schedules_stay_finite_for_very_short_runs() {
    let base = Rate {
        lr: 1.0,
        momentum: 0.9,
    };
    for schedule in [
        Schedule::OneCycle {
            warm_up: 0.05,
            div: 10.0,
            final_div: 1000.0,
            momentum: [0.85, 0.95],
        },
        Schedule::OneCycle {
            warm_up: 1.0,
            div: 10.0,
            final_div: 1000.0,
            momentum: [0.85, 0.95],
        },
        Schedule::OneCycle {
            warm_up: 0.5,
            div: 10.0,
            final_div: 1000.0,
            momentum: [0.85, 0.95],
        },
        Schedule::Cosine {
            warm_up: 1.0,
            floor: 0.0,
        },
    ] {
        for total in [1, 2, 3, 20] {
            for step in 0..total {
                let rate = schedule.at(step, total, base);
                assert!(
                    rate.lr.is_finite() && rate.momentum.is_finite(),
                    "{schedule:?} {step}/{total}"
                );
            }
        }
    }
}

#[test]
fn sgd_follows_its_formula() {
    // By hand: lr 0.1, momentum 0.5, decay 0.2, one value.
    let rate = Rate {
        lr: 0.1,
        momentum: 0.5,
    };
    for (nesterov, expected) in [(false, [0.88, 0.7224]), (true, [0.82, 0.6454])] {
        for device in devices() {
            let mut p = Memory::of(device, &[1.0]).unwrap();
            let mut rule = Sgd::new(device, 1, whole(1), nesterov, 0.2).unwrap();
            for (gradient, expected) in [1.0, 0.8].into_iter().zip(expected) {
                let gradient = Memory::of(device, &[gradient]).unwrap();
                rule.step(&mut p, &gradient, rate).unwrap();
                let found = p.host()[0];
                assert!((found - expected).abs() < 1e-6, "{nesterov}: {found}");
            }
        }
    }
}

#[test]
fn only_trained_ranges_move() {
    let words = 3 * PIECE + 100;
    let trained = vec![5..10, 50..2 * PIECE, words - 3..words];
    for (device, config) in rules() {
        let mut values = Memory::of(device, &vec![1.0; words]).unwrap();
        let gradients = Memory::of(device, &vec![1.0; words]).unwrap();
        let mut rule = config.build(device, words, trained.clone().into()).unwrap();
        rule.step(&mut values, &gradients, config.base()).unwrap();
        let values = values.host();
        for (i, v) in values.iter().enumerate() {
            let moves = trained.iter().any(|r| r.contains(&i));
            assert_eq!(*v != 1.0, moves, "{config:?}: value {i}");
        }
    }
}

#[test]
fn a_restored_optimizer_goes_on_with_the_same_bits() {
    let gradients: Vec<f32> = (0..40).map(|i| (i as f32 * 0.37).sin()).collect();
    for (device, config) in rules() {
        let given = Memory::of(device, &gradients).unwrap();
        let mut first = config.build(device, 40, whole(40)).unwrap();
        let mut a = Memory::of(device, &gradients).unwrap();
        first.step(&mut a, &given, config.base()).unwrap();
        let mut second = config.build(device, 40, whole(40)).unwrap();
        let mut b = Memory::of(device, a.host()).unwrap();
        let state: Vec<(String, Vec<f32>)> = first
            .state()
            .unwrap()
            .into_iter()
            .map(|(name, list)| (name.to_string(), list.to_vec()))
            .collect();
        let find = |name: &str| Ok(state.iter().find(|(n, _)| n == name).unwrap().1.clone());
        second.restore(first.steps(), &find).unwrap();
        first.step(&mut a, &given, config.base()).unwrap();
        second.step(&mut b, &given, config.base()).unwrap();
        assert_eq!(a.host(), b.host());
        assert!(second.restore(1, &|_| Ok(vec![0.0; 39])).is_err());
    }
}

/// Gradients of both signs and very different sizes; longer than a piece of any device.
fn gradients(count: usize, seed: f32) -> Vec<f32> {
    let one = |i: usize| (i as f32 * 0.37 + seed).sin() * 10f32.powi(i as i32 % 7 - 4);
    (0..count).map(one).collect()
}

#[test]
fn every_device_takes_the_same_steps_as_the_formula_in_f64() {
    let words = 2 * PIECE + 777;
    let lists: Vec<Vec<f32>> = (0..4).map(|s| gradients(words, s as f32)).collect();
    for (device, config) in rules() {
        let run = || {
            let mut rule = config.build(device, words, whole(words)).unwrap();
            let mut values = Memory::of(device, &vec![0.5; words]).unwrap();
            for list in &lists {
                let gradients = Memory::of(device, list).unwrap();
                rule.step(&mut values, &gradients, config.base()).unwrap();
            }
            values.host().to_vec()
        };
        let found = run();
        for i in 0..words {
            let column: Vec<f64> = lists.iter().map(|l| f64::from(l[i])).collect();
            let (expected, largest) = naive(&config, 0.5, &column);
            // f32 loses places of the largest number on the way, and some values return from far away to near 0.
            let error = (f64::from(found[i]) - expected).abs() / largest;
            assert!(error < 1e-6, "{config:?} on {device}: value {i}: {error}");
        }
        assert_eq!(found, run(), "{config:?} on {device}: the same bits again");
    }
}

/// The rule on one value, by its formula; and the largest value or step on the way.
fn naive(config: &OptimizerConfig, start: f64, gradients: &[f64]) -> (f64, f64) {
    let (mut p, mut m, mut v, mut largest) = (start, 0.0, 0.0, start.abs());
    for (i, g) in gradients.iter().enumerate() {
        let step = match *config {
            OptimizerConfig::AdamW {
                lr,
                betas: [a, b],
                eps,
                weight_decay,
            } => {
                let t = i as i32 + 1;
                m = a * m + (1.0 - a) * g;
                v = b * v + (1.0 - b) * g * g;
                let root = (v / (1.0 - b.powi(t))).sqrt();
                lr * weight_decay * p + lr * m / (1.0 - a.powi(t)) / (root + eps)
            }
            OptimizerConfig::Sgd {
                lr,
                momentum,
                nesterov,
                weight_decay,
            } => {
                let d = g + weight_decay * p;
                m = momentum * m + d;
                lr * if nesterov { d + momentum * m } else { m }
            }
        };
        p -= step;
        largest = largest.max(step.abs()).max(p.abs());
    }
    (p, largest)
}

#[test]
fn clipping_limits_the_norm() {
    for device in devices() {
        let list = [vec![3.0f32; 40_000], vec![4.0; 40_000]].concat();
        let mut gradients = Memory::of(device, &list).unwrap();
        let length = norm(&gradients).unwrap();
        assert!((length - 1000.0).abs() < 1e-9);
        clip(&mut gradients, length, 2000.0).unwrap();
        assert_eq!(gradients.host()[0], 3.0);
        clip(&mut gradients, length, 10.0).unwrap();
        assert!((norm(&gradients).unwrap() - 10.0).abs() < 1e-5);
        assert_eq!(norm(&Memory::new(device, 0).unwrap()).unwrap(), 0.0);
    }
}

#[test]
fn norms_agree_with_the_plain_sum_and_repeat_bit_for_bit() {
    let list = gradients(3 * PIECE + 5, 2.0);
    let square = |g: &f32| f64::from(*g) * f64::from(*g);
    let expected = list.iter().map(square).sum::<f64>().sqrt();
    for device in devices() {
        let memory = Memory::of(device, &list).unwrap();
        let found = norm(&memory).unwrap();
        assert!((found / expected - 1.0).abs() < 1e-12, "{device}");
        assert_eq!(found.to_bits(), norm(&memory).unwrap().to_bits());
        let broken = Memory::of(device, &[1.0, f32::NAN]).unwrap();
        assert!(norm(&broken).unwrap().is_nan(), "{device}");
    }
}

#[test]
fn the_average_follows_its_values() {
    for device in devices() {
        let memory = |values: [f32; 2]| Memory::of(device, &values).unwrap();
        let mut average = Average::new(&memory([0.0, 4.0]), 0.5).unwrap();
        average.update(&memory([10.0, 4.0])).unwrap();
        let values = average.values().unwrap();
        assert!((values[0] - 9.0).abs() < 1e-6, "{}", values[0]);
        assert_eq!(values[1], 4.0);
        let target = memory([1.0, 4.0]);
        for _ in 0..100 {
            average.update(&target).unwrap();
        }
        assert!((average.values().unwrap()[0] - 1.0).abs() < 1e-6);
        assert_eq!(average.updates(), 101);
        average.restore(&[7.0, 8.0], 3).unwrap();
        assert_eq!(average.values().unwrap(), [7.0, 8.0]);
        assert!(average.restore(&[7.0], 3).is_err());
    }
}

#[test]
fn senseless_numbers_name_their_key() {
    let text = |s: &str| toml::from_str::<OptimizerConfig>(s).map(|c| c.check());
    let fault = |s: &str| text(s).unwrap().unwrap_err().to_string();
    assert!(fault("kind = \"adamw\"\nlr = 0.0").contains("optimizer.lr"));
    assert!(fault("kind = \"adamw\"\nlr = 0.1\nbetas = [0.9, 1.0]").contains("betas"));
    assert!(fault("kind = \"sgd\"\nlr = 0.1\nweight_decay = -1.0").contains("weight_decay"));
    assert!(text("kind = \"adamw\"\nlr = 0.1\nmomentum = 0.9").is_err());
    for (schedule, key) in [
        (
            "kind = \"multi_step\"\nmilestones = [0.8, 0.6]",
            "milestones",
        ),
        ("kind = \"one_cycle\"\nwarm_up = 2.0", "warm_up"),
        ("kind = \"cosine\"\nfloor = -0.1", "floor"),
    ] {
        let schedule: Schedule = toml::from_str(schedule).unwrap();
        let error = schedule.check().unwrap_err().to_string();
        assert!(error.contains(key), "{error}");
    }
}
