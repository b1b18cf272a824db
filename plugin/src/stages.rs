//! Stages of a run that are skipped while their inputs are the same.

mod lock;

pub use lock::RunLock;

use crate::error::{Error, Result, caught};
use reptune_adapters::files;
use serde::{Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The directory of a run, with the input hash of every finished stage in
/// `stages.json`. Cut off at any point, the next run does what is not finished.
pub(crate) struct Stages {
    lock: RunLock,
    done: BTreeMap<String, String>,
}

/// The file of a run that names its stages.
pub(crate) const FILE: &str = "stages.json";

impl Stages {
    /// Opens the run in the directory that is locked, or starts one there.
    pub fn open(lock: RunLock) -> Result<Self> {
        let file = lock.directory().join(FILE);
        let done = match file.is_file() {
            true => serde_json::from_slice(&files::read(&file)?).unwrap_or_default(),
            false => BTreeMap::new(),
        };
        remove_abandoned(lock.directory(), DEPTH);
        Ok(Self { lock, done })
    }

    /// A path in the run's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.lock.directory().join(name)
    }

    /// Runs `work` for the artefact `name` unless it is there and was made from the
    /// same `inputs`. What an earlier run left at that path is removed first.
    /// Returns the hash of the inputs, an input of later stages.
    pub fn run(
        &mut self,
        name: &str,
        inputs: impl IntoIterator<Item: AsRef<str>>,
        work: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<String> {
        self.run_resumable(name, inputs, |path| {
            remove(path)?;
            work(path)
        })
    }

    /// [`Stages::run`] of `work` whose result is the JSON file `name`; also reads the file.
    pub fn json<T: Serialize + DeserializeOwned>(
        &mut self,
        name: &str,
        inputs: impl IntoIterator<Item: AsRef<str>>,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<(T, String)> {
        let key = self.run(name, inputs, |path| write_json(path, &work()?))?;
        Ok((self.read(name)?, key))
    }

    /// Reads a JSON file of the run.
    pub fn read<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        let path = self.path(name);
        serde_json::from_slice(&files::read(&path)?).map_err(|e| {
            let (found, hint) = (e.to_string(), "remove it, and run the recipe again");
            Error::model(&path, "file", "what this version writes", found, hint)
        })
    }

    /// [`Stages::run`] of `work` that goes on from what it left at its path when it
    /// was interrupted with the same `inputs`.
    pub fn run_resumable(
        &mut self,
        name: &str,
        inputs: impl IntoIterator<Item: AsRef<str>>,
        work: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<String> {
        let mut parts = String::new();
        for input in inputs {
            parts += input.as_ref();
            parts.push('\n');
        }
        parts += &format!("{name}\n{}\n", env!("CARGO_PKG_VERSION"));
        let key = files::sha256([parts.as_bytes()]);
        let path = self.path(name);
        if self.done.get(name) == Some(&key) && path.exists() {
            return Ok(key);
        }
        let begun = format!("{name} (begun)");
        self.done.remove(name);
        let same = self.done.insert(begun.clone(), key.clone()).as_ref() == Some(&key);
        self.save()?;
        if !same {
            remove(&path)?;
        }
        caught(name, || work(&path))?;
        self.done.remove(&begun);
        self.done.insert(name.to_owned(), key.clone());
        self.save()?;
        Ok(key)
    }

    /// Marks the directory as that of a run, before anything else is written there.
    pub fn save(&self) -> Result<()> {
        write_json(&self.path(FILE), &self.done)
    }
}

/// How deep the artefacts of a run lie: `seeds/1/truth/..`.
const DEPTH: usize = 3;

/// Removes what ended processes were writing in `directory` and below.
fn remove_abandoned(directory: &Path, depth: usize) {
    files::remove_abandoned(directory);
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let below = entries.filter(|e| depth > 0 && e.file_type().is_ok_and(|t| t.is_dir()));
    below.for_each(|e| remove_abandoned(&e.path(), depth - 1));
}

/// Writes `value` to `path`, whole or not at all.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    Ok(files::write_atomically(path, |w| writeln!(w, "{text}"))?)
}

fn remove(path: &Path) -> Result<()> {
    let removed = match path.is_dir() {
        true => std::fs::remove_dir_all(path),
        false if path.exists() => std::fs::remove_file(path),
        false => Ok(()),
    };
    removed.map_err(|e| reptune_adapters::Error::write(path, e).into())
}

#[cfg(test)]
mod tests;
