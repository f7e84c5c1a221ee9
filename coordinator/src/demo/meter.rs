//! Progress on stderr: a bar on a terminal, a line now and then elsewhere.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a line is written where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(2);

/// Counts up to a known number.
pub(super) struct Meter {
    bar: ProgressBar,
    what: &'static str,
    is_terminal: bool,
    last_line: Instant,
}

impl Meter {
    pub(super) fn new(what: &'static str, total: usize) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{msg:10} [{bar:40}] {pos}/{len} {per_sec:.dim} {elapsed:.dim}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
        bar.set_message(what);
        Self { bar, what, is_terminal, last_line: Instant::now() }
    }

    /// Sets how far it is.
    pub(super) fn set(&mut self, position: usize) {
        self.bar.set_position(position as u64);
        let is_due = self.last_line.elapsed() >= LINE_INTERVAL;
        if !self.is_terminal && is_due {
            self.write_line();
        }
    }

    fn write_line(&mut self) {
        self.last_line = Instant::now();
        eprintln!("{}: {} of {}", self.what, self.bar.position(), self.bar.length().unwrap_or_default());
    }

    /// Says something without disturbing the bar.
    pub(super) fn say(&self, text: &str) {
        self.bar.suspend(|| eprintln!("{text}"));
    }

    /// The last word.
    pub(super) fn finish(mut self) {
        self.bar.finish();
        if !self.is_terminal {
            self.write_line();
        }
    }
}
