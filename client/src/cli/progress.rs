//! The progress bar and the line at the end.

use std::{
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::message::note;
use crate::{interrupt::Interrupt, progress::Progress};

/// Whether a command talks about its progress.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::Args)]
pub(super) struct Talk {
    /// Neither progress nor summary
    #[arg(long, short)]
    quiet: bool,
}

const SIZE_KNOWN: &str =
    "{bar:30} {binary_bytes} of {binary_total_bytes}  {binary_bytes_per_sec}  {eta} left";
const SIZE_UNKNOWN: &str = "{spinner} {binary_bytes}  {binary_bytes_per_sec}";

/// A bar on a terminal; nothing elsewhere.
pub(super) struct Bar {
    bar: ProgressBar,
    talk: Talk,
    interrupt: Interrupt,
    started: Instant,
}

impl Bar {
    /// Starts the clock.
    pub(super) fn start(talk: Talk, interrupt: &Interrupt) -> Self {
        let bar = if talk.quiet || !io::stderr().is_terminal() {
            ProgressBar::hidden()
        } else {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            styled(&bar, SIZE_UNKNOWN);
            bar
        };
        Self { bar, talk, interrupt: interrupt.clone(), started: Instant::now() }
    }

    /// Takes the bar away and says what was done: `extracted 312 entries, 40.2 MiB in 0.31 s (129 MiB/s)`.
    pub(super) fn finish(&self, done: &str, entries: u64, bytes: u64) {
        self.clear();
        if !self.talk.quiet {
            note(&summary(done, entries, bytes, self.started.elapsed()));
        }
    }

    /// Takes the bar away, so that a message stands alone.
    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }

    /// Says something that is neither data nor failure.
    pub(super) fn remark(&self, line: &str) {
        if !self.talk.quiet {
            self.bar.suspend(|| note(line));
        }
    }
}

impl Progress for Bar {
    fn total(&self, bytes: u64) {
        self.bar.set_length(bytes);
        styled(&self.bar, SIZE_KNOWN);
    }

    fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    fn interrupted(&self) -> bool {
        self.interrupt.happened()
    }
}

fn styled(bar: &ProgressBar, template: &str) {
    // A template that does not parse costs the looks, not the work.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
}

fn summary(done: &str, entries: u64, bytes: u64, took: Duration) -> String {
    let noun = if entries == 1 { "entry" } else { "entries" };
    let seconds = took.as_secs_f64();
    let rate = bytes as f64 / seconds.max(1e-9);
    format!(
        "{done} {entries} {noun}, {} in {seconds:.2} s ({}/s)",
        HumanBytes(bytes),
        HumanBytes(rate as u64)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_says_files_bytes_seconds_and_rate() {
        let text = summary("extracted", 312, 3 << 20, Duration::from_millis(1500));
        assert_eq!(text, "extracted 312 entries, 3.00 MiB in 1.50 s (2.00 MiB/s)");
        assert!(summary("sealed", 1, 0, Duration::ZERO).starts_with("sealed 1 entry, 0 B in 0.00 s"));
    }
}
