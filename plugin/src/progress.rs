//! Progress of long work, on stderr: a bar on a terminal, otherwise a line every few seconds.
//!
//! Nothing is shown until [`show`] is called, so libraries and tests stay silent.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write, stderr};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};
use std::{fmt::Display, sync::Mutex};

/// Least time between two lines.
const INTERVAL: Duration = Duration::from_secs(2);

static SHOWN: AtomicU8 = AtomicU8::new(Shown::Nothing as u8);

/// What is written to stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shown {
    Nothing,
    Progress,
    /// Progress, and a line for each stage.
    Notes,
}

/// Sets what this process writes to stderr.
pub fn show(shown: Shown) {
    SHOWN.store(shown as u8, Ordering::Relaxed);
}

fn shows(wanted: Shown) -> bool {
    SHOWN.load(Ordering::Relaxed) >= wanted as u8
}

/// Writes a line where progress is shown. A closed stderr is no error.
pub fn line(text: impl Display) {
    if shows(Shown::Progress) {
        let _ = writeln!(stderr(), "{text}");
    }
}

/// Writes a line where notes are shown.
pub fn note(text: impl Display) {
    if shows(Shown::Notes) {
        line(text);
    }
}

/// Shows the progress of `what` until the returned function is dropped; it is called with the
/// number of steps that are done, and of all.
pub fn of(what: impl Into<String>) -> impl FnMut(usize, usize) {
    let shown = Progress::new(what, 1);
    move |done, all| {
        shown.bar.set_length(all as u64);
        shown.set(done);
    }
}

/// Shows the progress of `length` steps of `what`, as [`of`] does.
pub fn steps(what: impl Into<String>, length: usize) -> impl FnMut(usize) {
    let shown = Progress::new(what, length);
    move |done| shown.set(done)
}

/// The progress of one piece of work; it disappears when it is dropped.
pub struct Progress {
    bar: ProgressBar,
    /// When the last line was written, where lines are.
    lines: Option<Mutex<Instant>>,
}

impl Progress {
    pub fn new(what: impl Into<String>, length: usize) -> Self {
        let (wanted, terminal) = (shows(Shown::Progress), stderr().is_terminal());
        let target = match wanted && terminal {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(Some(length as u64), target);
        let style = ProgressStyle::with_template("{msg:28} {bar:30} {pos}/{len}, {eta} left");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(what.into());
        Self {
            bar,
            lines: (wanted && !terminal).then(|| Mutex::new(Instant::now())),
        }
    }

    pub fn set(&self, done: usize) {
        self.bar.set_position(done as u64);
        self.print();
    }

    pub fn step(&self) {
        self.bar.inc(1);
        self.print();
    }

    pub fn message(&self, what: impl Into<String>) {
        self.bar.set_message(what.into());
    }

    fn print(&self) {
        let Some(lines) = &self.lines else { return };
        let Ok(mut last) = lines.lock() else { return };
        if last.elapsed() < INTERVAL {
            return;
        }
        *last = Instant::now();
        let (what, done) = (self.bar.message(), self.bar.position());
        let (all, left) = (self.bar.length().unwrap_or(0), self.bar.eta().as_secs());
        line(format_args!("{what}: {done}/{all}, {left} s left"));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
