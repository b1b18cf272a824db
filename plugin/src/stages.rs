//! Stages of a run that are skipped while their inputs are the same.

use crate::error::{Error, Result};
use reptune_adapters::{Error as Fault, files};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The file of a run that names its stages.
pub(crate) const FILE: &str = "stages.json";

/// The directory of a run, with the input hash of every finished stage in
/// `stages.json`. Cut off at any point, the next run does what is not finished.
pub struct Stages {
    out: PathBuf,
    done: BTreeMap<String, String>,
}

impl Stages {
    /// Opens the run in `out`, or starts one there.
    ///
    /// # Errors
    /// When `out` holds something else.
    pub fn open(out: &Path) -> Result<Self> {
        let io = |e| Fault::write(out, e);
        let file = out.join(FILE);
        if !file.is_file() && out.exists() && std::fs::read_dir(out).map_err(io)?.next().is_some() {
            let expected = "an empty directory, or that of an earlier run";
            let (found, hint) = ("other files", "name another with --out");
            return Err(Error::model(out, "output directory", expected, found, hint));
        }
        std::fs::create_dir_all(out).map_err(io)?;
        let done = match file.is_file() {
            true => serde_json::from_slice(&files::read(&file)?).unwrap_or_default(),
            false => BTreeMap::new(),
        };
        // What an interrupted run was writing.
        for entry in std::fs::read_dir(out).map_err(io)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(".reptune-") {
                remove(&entry.path())?;
            }
        }
        let out = out.to_owned();
        let stages = Self { out, done };
        stages.save()?;
        Ok(stages)
    }

    /// A path in the run's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.out.join(name)
    }

    /// Runs `work` for the artefact `name` unless it is there and was made from the
    /// same `inputs`. What an earlier run left at that path is removed first.
    /// Returns the hash of the inputs, an input of later stages.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn run(
        &mut self,
        name: &str,
        inputs: &[&str],
        work: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<String> {
        self.run_resumable(name, inputs, |path| {
            remove(path)?;
            work(path)
        })
    }

    /// [`Stages::run`] of `work` that continues from what it left at its path when it
    /// was interrupted with the same `inputs`.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn run_resumable(
        &mut self,
        name: &str,
        inputs: &[&str],
        work: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<String> {
        let parts = inputs.iter().chain([&name, &env!("CARGO_PKG_VERSION")]);
        let key = files::sha256(parts.flat_map(|s| [s.as_bytes(), b"\n"]));
        let path = self.path(name);
        if self.done.get(name) == Some(&key) && path.exists() {
            return Ok(key);
        }
        let begun = format!("{name} (begun)");
        self.done.remove(name);
        let earlier = self.done.insert(begun.clone(), key.clone());
        self.save()?;
        if earlier.as_ref() != Some(&key) {
            remove(&path)?;
        }
        work(&path)?;
        self.done.remove(&begun);
        self.done.insert(name.to_owned(), key.clone());
        self.save()?;
        Ok(key)
    }

    fn save(&self) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.done).unwrap_or_default();
        Ok(files::write_atomically(&self.path(FILE), |w| {
            writeln!(w, "{text}")
        })?)
    }
}

fn remove(path: &Path) -> Result<()> {
    let removed = match path.is_dir() {
        true => std::fs::remove_dir_all(path),
        false if path.exists() => std::fs::remove_file(path),
        false => Ok(()),
    };
    Ok(removed.map_err(|e| Fault::write(path, e))?)
}

#[cfg(test)]
mod tests;
