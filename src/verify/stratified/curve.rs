//! The training curve: the official parameter groups, warm-up and milestones.

use super::super::Case;
use super::super::curve::{Limits, Trainer, check};
use super::super::network::{Input, metadata, zero_gradients};
use super::super::recipe::{number, optimizer_of, schedule_of};
use super::super::reference::Report;
use super::network::{groups, ignored, input, model};
use crate::Result;

/// Checks the curve: a free run, a restart, the final state.
pub(in super::super) fn run(case: &Case<'_>, report: &mut Report) -> Result<()> {
    let mut batches: Vec<Input> = Vec::new();
    while case
        .file
        .get(&format!("batch{}.coord", batches.len()))
        .is_some()
    {
        batches.push(input(case.file, &format!("batch{}.", batches.len()))?);
    }
    let channels = batches[0].feat.len() / batches[0].coord.len().max(1);
    let rule = metadata(case.file, "optimizer")?;
    let lr = number(&rule, "lr")?;
    let groups = groups(lr, number(&rule, "block_lr")?);
    let total = case.file.get_f64("loss")?.len() as u64;
    let schedule = schedule_of(&metadata(case.file, "schedule")?, total)?;
    let zero = zero_gradients(&metadata(case.file, "zero_grad_params")?);
    let start = |prefix: &str| {
        let model = model(case, channels, &state(case, prefix)?)?;
        let config = optimizer_of(&rule, lr, number(&rule, "weight_decay")?);
        let trainer = Trainer::plain(case, model, config, &groups, schedule.clone(), total)?;
        Ok(trainer.ignoring(ignored(case.file)?, zero.clone()))
    };
    let limits = Limits {
        miou: 0.01,
        mean: 0.05,
    };
    check(case, "", &start, &batches, limits, report)
}

/// The state under `prefix`, with the kernel points, which never change and are stored once.
fn state(case: &Case<'_>, prefix: &str) -> Result<crate::weights::Tensors> {
    let mut state = case.file.with_prefix(prefix);
    for (name, tensor) in case.file.with_prefix("init.").iter() {
        if name.ends_with("K_points") && state.get(name).is_none() {
            state.insert(name, tensor.clone())?;
        }
    }
    Ok(state)
}
