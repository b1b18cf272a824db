//! What an artefact holds: told from its content, with its hashes checked.
//!
//! A file whose hash is wrong is an error, whatever else could be told of it. What carries
//! no hash says so.

mod directory;
mod file;

use crate::error::{Error, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inspection {
    /// What it is.
    pub kind: &'static str,
    /// Facts, in the order in which they are told.
    #[serde(serialize_with = "as_map")]
    pub facts: Vec<(String, String)>,
    /// Its parts in columns, header first; empty if it has none worth a table.
    pub parts: Vec<Vec<String>>,
    /// What was checked, or that nothing could be.
    pub checked: String,
}

fn as_map<S: serde::Serializer>(
    facts: &[(String, String)],
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_map(facts.iter().map(|(k, v)| (k, v)))
}

impl Inspection {
    fn new(kind: &'static str, checked: impl Into<String>) -> Self {
        Self {
            kind,
            facts: Vec::new(),
            parts: Vec::new(),
            checked: checked.into(),
        }
    }

    fn fact(mut self, name: &str, value: impl ToString) -> Self {
        let value = value.to_string();
        if !value.is_empty() {
            self.facts.push((name.to_owned(), value));
        }
        self
    }

    fn table<const N: usize>(mut self, head: [&str; N], rows: Vec<[String; N]>) -> Self {
        self.parts.push(head.map(str::to_owned).to_vec());
        self.parts.extend(rows.into_iter().map(Vec::from));
        self
    }
}

/// Tells what lies at `path`: a file or a directory. `progress` hears how much of a large
/// file is read, and of how much.
///
/// # Errors
/// When nothing of ours or of a known kind lies there, or a hash, a header or a shape is wrong.
pub fn inspect(path: &Path, progress: &mut dyn FnMut(usize, usize)) -> Result<Inspection> {
    match (path.is_file(), path.is_dir()) {
        (true, _) => file::inspect(path, progress),
        (_, true) => directory::inspect(path, progress),
        _ => Err(Error::model(
            path,
            "file or directory",
            "an artefact",
            "nothing",
            "check the path",
        )),
    }
}

/// `43 x q8_0, 1 x f32`.
fn counted<T: ToString>(all: impl IntoIterator<Item = T>) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for one in all {
        *counts.entry(one.to_string()).or_default() += 1;
    }
    let parts = counts.iter().map(|(t, n)| format!("{n} x {t}"));
    parts.collect::<Vec<_>>().join(", ")
}

/// `1-3, 7`.
fn ranges(numbers: impl IntoIterator<Item = usize>) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for n in numbers {
        match runs.last_mut() {
            Some((_, end)) if *end + 1 == n => *end = n,
            _ => runs.push((n, n)),
        }
    }
    let show = |(a, b): &(usize, usize)| match a == b {
        true => a.to_string(),
        false => format!("{a}-{b}"),
    };
    runs.iter().map(show).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_short() {
        assert_eq!(ranges([0, 1, 2, 5, 7, 8]), "0-2, 5, 7-8");
        assert_eq!(ranges([]), "");
        assert_eq!(counted(["b", "a", "b"]), "1 x a, 2 x b");
    }
}
