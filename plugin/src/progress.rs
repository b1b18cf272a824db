//! Progress of long work, on stderr: bars on a terminal, otherwise a line every few seconds with
//! the stage, the steps that are done and all, and the time elapsed and left.
//!
//! Every command is shown: a thread looks at the innermost work that has begun, also while that
//! makes no step. Nothing is shown until [`show`] is called, so libraries and tests stay silent.

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::fmt::{self, Display};
use std::io::{IsTerminal, Write, stderr};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A command that is done by then shows nothing.
const FIRST: Duration = Duration::from_secs(2);
/// Time between two lines.
const INTERVAL: Duration = Duration::from_secs(5);
/// How often the thread looks.
const TICK: Duration = Duration::from_millis(200);

static SHOWN: AtomicU8 = AtomicU8::new(Shown::Nothing as u8);
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);
/// What has begun and not ended, the innermost last.
static WORK: Mutex<Vec<Arc<Work>>> = Mutex::new(Vec::new());

/// What is written to stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shown {
    Nothing,
    Progress,
    /// Progress, and a line for each stage.
    Notes,
}

/// Sets what this process writes to stderr, from now on.
pub fn show(shown: Shown) {
    SHOWN.store(shown as u8, Ordering::Relaxed);
    if shows(Shown::Progress) && !stderr().is_terminal() {
        std::thread::spawn(print_lines);
    }
}

fn shows(wanted: Shown) -> bool {
    SHOWN.load(Ordering::Relaxed) >= wanted as u8
}

/// Writes a line where progress is shown. A closed stderr is no error.
pub fn line(text: impl Display) {
    if shows(Shown::Progress) {
        BARS.suspend(|| {
            let _ = writeln!(stderr(), "{text}");
        });
    }
}

/// Writes a line where notes are shown.
pub fn note(text: impl Display) {
    if shows(Shown::Notes) {
        line(text);
    }
}

fn print_lines() {
    std::thread::sleep(FIRST);
    let mut last: Option<Instant> = None;
    loop {
        if last.is_none_or(|last| last.elapsed() >= INTERVAL) {
            let now = working().last().map(|work| work.to_string());
            if let Some(text) = now {
                line(text);
                last = Some(Instant::now());
            }
        }
        std::thread::sleep(TICK);
    }
}

fn working() -> std::sync::MutexGuard<'static, Vec<Arc<Work>>> {
    WORK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Shows the progress of `what` until the returned function is dropped; it is called with the
/// number of steps that are done, and of all.
pub fn of(what: impl Into<String>) -> impl FnMut(usize, usize) {
    let shown = Progress::new(what, 0);
    move |done, all| {
        if shown.0.all.swap(all, Ordering::Relaxed) != all {
            shown.0.bar.set_length(all as u64);
            shown.0.bar.set_style(style(all));
        }
        shown.set(done);
    }
}

/// Shows the progress of `length` steps of `what`, as [`of`] does.
pub fn steps(what: impl Into<String>, length: usize) -> impl FnMut(usize) {
    let shown = Progress::new(what, length);
    move |done| shown.set(done)
}

/// The progress of one piece of work; it disappears when it is dropped.
pub struct Progress(Arc<Work>);

/// A piece of work.
struct Work {
    what: Mutex<String>,
    done: AtomicUsize,
    /// 0 where the number is not known.
    all: AtomicUsize,
    begun: Instant,
    /// Hidden where there is no terminal.
    bar: ProgressBar,
}

impl Progress {
    /// The progress of `length` steps; 0 where their number is not known.
    pub fn new(what: impl Into<String>, length: usize) -> Self {
        let what = what.into();
        let bar = match shows(Shown::Progress) && stderr().is_terminal() {
            true => BARS.add(ProgressBar::new(length as u64)),
            false => ProgressBar::hidden(),
        };
        bar.set_style(style(length));
        bar.set_message(what.clone());
        if !bar.is_hidden() {
            bar.enable_steady_tick(TICK);
        }
        let work = Arc::new(Work {
            what: Mutex::new(what),
            done: AtomicUsize::new(0),
            all: AtomicUsize::new(length),
            begun: Instant::now(),
            bar,
        });
        working().push(Arc::clone(&work));
        Self(work)
    }

    pub fn set(&self, done: usize) {
        self.0.done.store(done, Ordering::Relaxed);
        self.0.bar.set_position(done as u64);
    }

    pub fn step(&self) {
        self.set(self.0.done.load(Ordering::Relaxed) + 1);
    }

    pub fn message(&self, what: impl Into<String>) {
        let what = what.into();
        self.0.bar.set_message(what.clone());
        *self.0.what.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        working().retain(|work| !Arc::ptr_eq(work, &self.0));
        self.0.bar.finish_and_clear();
        BARS.remove(&self.0.bar);
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = self.what.lock().unwrap_or_else(PoisonError::into_inner);
        let [done, all] = [&self.done, &self.all].map(|n| n.load(Ordering::Relaxed));
        f.write_str(&text(&what, (done, all), self.begun.elapsed()))
    }
}

/// A line about work of which `done` of `all` steps took `elapsed`.
fn text(what: &str, (done, all): (usize, usize), elapsed: Duration) -> String {
    let so_far = format!("{} elapsed", time(elapsed));
    match (done, all) {
        (_, 0) => format!("{what}: {so_far}"),
        (0, _) => format!("{what}: 0/{all}, {so_far}"),
        _ => {
            let left = elapsed.mul_f64(all.saturating_sub(done) as f64 / done as f64);
            format!("{what}: {done}/{all}, {so_far}, {} left", time(left))
        }
    }
}

/// `45 s`, `3 min 5 s`, `1 h 20 min`.
fn time(duration: Duration) -> String {
    match duration.as_secs() {
        s @ 0..60 => format!("{s} s"),
        s @ 60..3600 => format!("{} min {} s", s / 60, s % 60),
        s => format!("{} h {} min", s / 3600, s % 3600 / 60),
    }
}

fn style(all: usize) -> ProgressStyle {
    let style = ProgressStyle::with_template(match all {
        0 => "{msg:28} {spinner} {elapsed} elapsed",
        _ => "{msg:28} {bar:30} {pos}/{len}, {elapsed} elapsed, {eta} left",
    });
    style.unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests;
