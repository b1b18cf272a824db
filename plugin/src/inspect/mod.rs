//! What an artefact holds, with its hashes checked: one table of kinds and their readers.
//!
//! A file with a wrong hash is an error. What carries no hash says so.

mod directory;
mod file;

use crate::error::{Error, Result};
use reptune_adapters::formats::gguf::Gguf;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inspection {
    /// What it is.
    pub kind: &'static str,
    /// Facts, in the order in which they are printed.
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

/// Reports how much of a large file is read, and of how much.
type Progress<'a> = &'a mut dyn FnMut(usize, usize);

/// A kind of artefact: how it is recognized, and what reads it.
type Kind = (fn(&Path) -> bool, fn(&Path, Progress) -> Result<Inspection>);

/// The first kind that is recognized is read.
const KINDS: [Kind; 10] = [
    (directory::is_adapter, |path, _| directory::adapter(path)),
    (
        |path| path.join(STAGES).is_file(),
        |path, _| directory::run(path),
    ),
    (directory::is_model, directory::model),
    (file::is_directions, |path, _| file::directions(path)),
    (file::is_adapter, |path, _| {
        directory::adapter(path.parent().unwrap_or(path))
    }),
    (
        |path| extension(path) == "safetensors",
        |path, _| file::tensors(path),
    ),
    (|path| extension(path) == "uqff", file::uqff),
    (file::is_control_vector, |path, _| {
        file::foreign_directions(path)
    }),
    (Gguf::is_one, |path, _| file::gguf(path)),
    (
        |path| extension(path) == "svec",
        |path, _| file::foreign_directions(path),
    ),
];

/// File that names the stages of a run.
const STAGES: &str = "stages.json";

/// Describes what lies at `path`: a file or a directory. `progress` is called with how much
/// of a large file is read, and of how much.
///
/// # Errors
/// When the path holds no artefact of a known kind, or a hash, a header or a shape is wrong.
pub fn inspect(path: &Path, progress: Progress) -> Result<Inspection> {
    if let Some((_, read)) = KINDS.iter().find(|(is, _)| is(path)) {
        return read(path, progress);
    }
    let (place, expected, found, hint) = match (path.is_file(), path.is_dir()) {
        (true, _) => (
            "file",
            ".safetensors, .uqff, .gguf, .svec, or a directory",
            "another kind of file",
            "inspect the directory that it lies in",
        ),
        (_, true) => (
            "directory",
            "an adapter, a model, a UQFF or a run",
            "none of their files",
            "inspect what lies in it",
        ),
        _ => (
            "file or directory",
            "an artefact",
            "nothing",
            "check the path",
        ),
    };
    Err(Error::model(path, place, expected, found, hint))
}

/// The extension of a file; empty for a directory.
fn extension(path: &Path) -> &str {
    let extension = path.extension().filter(|_| path.is_file());
    extension.and_then(|e| e.to_str()).unwrap_or_default()
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
mod tests;
