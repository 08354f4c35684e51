//! A progress bar on standard error; nothing where nobody looks.

use super::Global;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;

/// A bar for work whose size is told on the way. It is removed when dropped.
#[derive(Debug)]
pub struct Progress(ProgressBar);

impl Progress {
    /// A bar titled `what`; hidden with `--quiet` and when standard error is no terminal.
    pub fn new(global: &Global, what: &str) -> Progress {
        if global.quiet || !std::io::stderr().is_terminal() {
            return Progress(ProgressBar::hidden());
        }
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(10));
        let style = ProgressStyle::with_template("{msg} {wide_bar} {percent:>3} %  {eta} left")
            .expect("the template is a constant and correct");
        bar.set_style(style);
        bar.set_message(what.to_string());
        Progress(bar)
    }

    /// A bar that counts points and says how many are done in a second.
    pub fn of_points(global: &Global, what: &str) -> Progress {
        let bar = Progress::new(global, what);
        let style = ProgressStyle::with_template(
            "{msg} {wide_bar} {human_pos} of {human_len} points, {per_sec}, {eta} left",
        )
        .expect("the template is a constant and correct");
        bar.0.set_style(style);
        bar
    }

    /// `done` of `total` steps are over.
    pub fn set(&self, done: u64, total: u64) {
        self.0.set_length(total.max(done));
        self.0.set_position(done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
