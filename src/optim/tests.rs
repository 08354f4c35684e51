//! Tests of optimizers and schedules.

use super::*;
use crate::cloud::tests::golden;

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

#[test]
fn adamw_matches_the_reference_file() {
    let file = golden("op_adamw_schedule");
    for tensor in 0..2 {
        let mut values = file.f32(&format!("p{tensor}.0"));
        let count = values.len();
        let mut rule = AdamW::new(
            count,
            std::iter::once(0..count).collect(),
            0.999,
            1e-8,
            0.05,
        );
        for step in 1..=5 {
            let gradients = file.f32(&format!("g{tensor}.{step}"));
            rule.step(&mut values, &gradients, adamw().base());
            assert_near(&values, &file.f32(&format!("p{tensor}.{step}")), "value");
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
        let state = self.state();
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
    for config in [
        adamw(),
        OptimizerConfig::Sgd {
            lr: 0.1,
            momentum: 0.9,
            nesterov: false,
            weight_decay: 0.1,
        },
    ] {
        let mut values = vec![1.0f32; layout.words()];
        let mut rule = config.build(layout.words(), Trained::of(&layout, &groups));
        rule.step(&mut values, &vec![1.0; layout.words()], config.base());
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
        let mut p = [1.0f32];
        let mut rule = Sgd::new(1, std::iter::once(0..1).collect(), nesterov, 0.2);
        rule.step(&mut p, &[1.0], rate);
        assert!((p[0] - expected[0]).abs() < 1e-6, "{nesterov}: {}", p[0]);
        rule.step(&mut p, &[0.8], rate);
        assert!((p[0] - expected[1]).abs() < 1e-6, "{nesterov}: {}", p[0]);
    }
}

#[test]
fn only_trained_ranges_move() {
    let words = 3 * PIECE + 100;
    let trained = vec![5..10, 50..2 * PIECE, words - 3..words];
    for config in [
        adamw(),
        OptimizerConfig::Sgd {
            lr: 0.1,
            momentum: 0.9,
            nesterov: true,
            weight_decay: 0.1,
        },
    ] {
        let mut values = vec![1.0; words];
        let mut rule = config.build(words, trained.clone().into());
        rule.step(&mut values, &vec![1.0; words], config.base());
        for (i, v) in values.iter().enumerate() {
            let moves = trained.iter().any(|r| r.contains(&i));
            assert_eq!(*v != 1.0, moves, "{config:?}: value {i}");
        }
    }
}

#[test]
fn a_restored_optimizer_goes_on_with_the_same_bits() {
    let gradients: Vec<f32> = (0..40).map(|i| (i as f32 * 0.37).sin()).collect();
    for config in [
        adamw(),
        OptimizerConfig::Sgd {
            lr: 0.1,
            momentum: 0.9,
            nesterov: false,
            weight_decay: 0.1,
        },
    ] {
        let ranges = || std::iter::once(0..40).collect();
        let mut first = config.build(40, ranges());
        let mut a = gradients.clone();
        first.step(&mut a, &gradients, config.base());
        let mut second = config.build(40, ranges());
        let mut b = a.clone();
        let state: Vec<(String, Vec<f32>)> = first
            .state()
            .into_iter()
            .map(|(name, list)| (name.to_string(), list.to_vec()))
            .collect();
        let find = |name: &str| Ok(state.iter().find(|(n, _)| n == name).unwrap().1.clone());
        second.restore(first.steps(), &find).unwrap();
        first.step(&mut a, &gradients, config.base());
        second.step(&mut b, &gradients, config.base());
        assert_eq!(a, b);
        assert!(second.restore(1, &|_| Ok(vec![0.0; 39])).is_err());
    }
}

#[test]
fn clipping_limits_the_norm() {
    let mut gradients = vec![3.0f32; 40_000];
    gradients.extend(vec![4.0; 40_000]);
    let length = norm(&gradients);
    assert!((length - 1000.0).abs() < 1e-9);
    clip(&mut gradients, length, 2000.0);
    assert_eq!(gradients[0], 3.0);
    clip(&mut gradients, length, 10.0);
    assert!((norm(&gradients) - 10.0).abs() < 1e-5);
}

#[test]
fn the_average_follows_its_values() {
    let mut average = Average::new(&[0.0, 4.0], 0.5);
    average.update(&[10.0, 4.0]);
    assert_eq!(average.values, [9.0, 4.0]);
    for _ in 0..100 {
        average.update(&[1.0, 4.0]);
    }
    assert!((average.values[0] - 1.0).abs() < 1e-6);
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
