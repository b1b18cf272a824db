//! What commands print on stdout.

use anyhow::Result;
use reptune_report::{aligned, wilson};
use serde::Serialize;
use std::fmt::Display;
use std::io::{ErrorKind, Write, stdout};

/// The reader of stdout has gone, as `head` does. It is no failure.
#[derive(Debug, thiserror::Error)]
#[error("stdout is closed")]
pub struct ClosedPipe;

/// Prints `text` and a newline.
pub fn print(text: impl Display) -> Result<()> {
    let mut stdout = stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Err(ClosedPipe.into()),
        other => Ok(other?),
    }
}

/// Prints `value` as JSON on one line.
pub fn print_json(value: &impl Serialize) -> Result<()> {
    print(serde_json::to_string(value)?)
}

/// Aligned columns under `head`, whose names are separated by commas, with a row for each of
/// `items`.
pub fn table<T>(
    head: &str,
    items: impl IntoIterator<Item = T>,
    row: impl Fn(T) -> Vec<String>,
) -> String {
    let head = head.split(", ").map(str::to_owned).collect();
    let rows = items.into_iter().map(row);
    aligned(&std::iter::once(head).chain(rows).collect::<Vec<_>>())
}

/// A share with its Wilson interval: `0.500 [0.400, 0.600]`.
pub fn share(successes: usize, n: usize) -> String {
    let (low, high) = wilson(successes, n);
    let share = successes as f64 / n.max(1) as f64;
    format!("{share:.3} [{low:.3}, {high:.3}]")
}

/// A number with its sign and two decimals, and no minus before a zero.
pub fn signed(x: f64) -> String {
    format!("{:+.2}", (x * 100.).round() / 100. + 0.)
}

/// Bytes: `1.3 GB`.
pub fn bytes(n: u64) -> String {
    match n {
        0..1_000_000_000 => format!("{:.1} MB", n as f64 / 1e6),
        _ => format!("{:.1} GB", n as f64 / 1e9),
    }
}

/// Rows of a left-aligned name and its value, each line after `indent`.
pub fn facts(indent: &str, rows: &[(String, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.chars().count()).max();
    let width = width.unwrap_or(0);
    let line = |(name, value): &(String, String)| format!("{indent}{name:width$}  {value}");
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
