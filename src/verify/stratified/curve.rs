//! The training curve: the official parameter groups, warm-up and milestones.

use super::super::Case;
use super::super::curve::{Limits, Rates, batches, check};
use super::super::network::{Input, zero_gradients};
use super::super::recipe::{number, optimizer_of, schedule_of};
use super::super::reference::Report;
use super::super::trainer::Trainer;
use super::batch::{ball, classes, config, elements};
use super::network::groups;
use crate::Result;
use crate::models::Model;
use crate::optim::Rate;

/// Checks the curve: a free run, a restart, the final state.
pub(in super::super) fn run(case: &Case<'_>, report: &mut Report) -> Result<()> {
    let file = case.file;
    let [_, channels] = file.dims("batch0.feat")?;
    let ignored = file.ignored("ignore_label")?;
    let label = Some(("label", classes(file)?, ignored));
    let batches = batches(file, |prefix| Input::read(file, prefix, channels, label))?;
    for (i, batch) in batches.iter().enumerate() {
        let prefix = format!("batch{i}.");
        elements(file, &prefix, &batch.offsets, report)?;
        ball(case, &prefix, batch, report)?;
    }
    let rule = file.metadata("optimizer")?;
    let (lr, block_lr) = (number(&rule, "lr")?, number(&rule, "block_lr")?);
    let groups = groups(lr, block_lr);
    let total = file.whole("steps")? as u64;
    let schedule = schedule_of(&file.metadata("schedule")?, total)?;
    let zero = zero_gradients(&file.metadata("zero_grad_params")?);
    let network = config(file, channels)?;
    let start = |prefix: &str| {
        let mut model = Model::new(&network, case.device, 0)?;
        // kernel points never change and are stored once
        let place = |name: &str| match name.ends_with("K_points") {
            true => format!("init.{name}"),
            false => format!("{prefix}{name}"),
        };
        file.load_named(&mut model.params, place)?;
        let config = optimizer_of(&rule, lr, number(&rule, "weight_decay")?);
        let trainer = Trainer::new(case, model, config, &groups, schedule.clone(), total)?;
        Ok(trainer.ignoring(ignored, zero.clone()))
    };
    let limits = Limits {
        miou: 0.01,
        mean: 0.05,
    };
    let of_blocks = |rate: Rate| rate.lr * (block_lr / lr);
    let rates: Rates<'_> = ("lr_blocks", &of_blocks);
    check(case, "", rates, &start, &batches, limits, report)
}
