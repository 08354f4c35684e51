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

    /// `done` of `total` steps are over.
    pub fn set(&self, done: usize, total: usize) {
        self.0.set_length(total as u64);
        self.0.set_position(done as u64);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
