//! A UQFF on disk, read one entry at a time.

use super::entry::Entry;
use super::provenance::{Digests, Provenance};
use crate::error::{Error, Result};
use reptune_adapters::formats::safetensors::TensorFile;
use reptune_adapters::patch;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The entries of all shards of one UQFF model; their headers are in memory, no more.
pub struct UqffFile {
    shards: Vec<(PathBuf, TensorFile)>,
    /// Shard of each entry.
    entries: BTreeMap<usize, usize>,
}

impl UqffFile {
    /// Opens the `.uqff` at `path`, or the only one (in all its shards) of the
    /// directory `path`; none when there is no `.uqff`.
    ///
    /// # Errors
    /// When several models lie in the directory, or a file is broken.
    pub fn find(path: &Path) -> Result<Option<Self>> {
        let files = Self::files(path)?;
        if files.is_empty() {
            return Ok(None);
        }
        let mut shards = Vec::new();
        let mut entries = BTreeMap::new();
        for file in files {
            patch::recover(&file)?;
            let open = TensorFile::open(&file)?;
            for name in open.names() {
                let wrong = |expected: &str| {
                    let hint = "this is not a UQFF of mistral.rs";
                    Error::model(&file, format!("tensor `{name}`"), expected, &name, hint)
                };
                let index = name.parse().map_err(|_| wrong("an index"))?;
                if entries.insert(index, shards.len()).is_some() {
                    return Err(wrong("each index once, in one shard"));
                }
            }
            shards.push((file, open));
        }
        Ok(Some(Self { shards, entries }))
    }

    /// The `.uqff` at `path` with what it says lies beside it, or those of the only model
    /// in the directory `path`.
    ///
    /// # Errors
    /// When several models lie there, or a file is broken.
    pub fn files(path: &Path) -> Result<Vec<PathBuf>> {
        if path.is_file() {
            return match path.extension().is_some_and(|e| e == "uqff") {
                true => {
                    let metadata = TensorFile::open(path)?.metadata();
                    let beside = Provenance::read(path, &metadata)?.and_then(|p| p.beside);
                    let beside = beside.map(|name| path.with_file_name(name));
                    Ok([path.to_owned()].into_iter().chain(beside).collect())
                }
                false => Ok(Vec::new()),
            };
        }
        let listing =
            std::fs::read_dir(path).map_err(|e| reptune_adapters::Error::read(path, e))?;
        let mut files: Vec<PathBuf> = listing
            .filter_map(|f| Some(f.ok()?.path()))
            .filter(|f| f.extension().is_some_and(|e| e == "uqff"))
            .collect();
        files.sort();
        let families: BTreeSet<String> = files.iter().map(|f| family(f)).collect();
        if families.len() > 1 {
            let names = families.into_iter().collect::<Vec<_>>().join(", ");
            let hint = "name the .uqff file itself";
            return Err(Error::model(path, "*.uqff", "one model", names, hint));
        }
        Ok(files)
    }

    /// The first shard.
    pub fn path(&self) -> &Path {
        self.shards.first().map_or(Path::new(""), |(p, _)| p)
    }

    /// The files.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.shards.iter().map(|(path, _)| path.as_path())
    }

    /// Reads all entries, and checks them against the hashes that the files hold.
    /// `progress` hears how many entries are done, and of how many.
    ///
    /// # Errors
    /// When a hash is wrong, or an entry broken.
    pub fn verify(&self, progress: &mut dyn FnMut(usize, usize)) -> Result<()> {
        let mut done = 0;
        for (shard, (path, file)) in self.shards.iter().enumerate() {
            let mut digests = Digests::default();
            for (index, _) in self.entries.iter().filter(|(_, s)| **s == shard) {
                digests.add(*index, &self.entry(*index)?);
                done += 1;
                progress(done, self.entries.len());
            }
            digests.check(path, &file.metadata())?;
        }
        Ok(())
    }

    /// What the first file says of itself, if it is ours.
    ///
    /// # Errors
    /// When that is broken.
    pub fn provenance(&self) -> Result<Option<Provenance>> {
        match self.shards.first() {
            Some((path, file)) => Provenance::read(path, &file.metadata()),
            None => Ok(None),
        }
    }

    /// Reads an entry whose weight must have the shape (O, I).
    ///
    /// # Errors
    /// When it is missing, broken, or has another shape.
    pub fn shaped(&self, index: usize, shape: (usize, usize)) -> Result<Entry> {
        let entry = self.entry(index)?;
        let found = entry.layout().shape;
        match found == shape {
            true => Ok(entry),
            false => Err(Error::model(
                self.path(),
                format!("tensor `{index}`"),
                format!("a weight of shape {shape:?}"),
                format!("{found:?}"),
                "config.json and UQFF belong to different models",
            )),
        }
    }

    /// Indices of all entries.
    pub fn indices(&self) -> impl Iterator<Item = usize> + '_ {
        self.entries.keys().copied()
    }

    /// Reads an entry.
    ///
    /// # Errors
    /// When it is missing, or its bytes are not an entry.
    pub fn entry(&self, index: usize) -> Result<Entry> {
        let place = format!("tensor `{index}`");
        let Some((path, file)) = self.entries.get(&index).map(|s| &self.shards[*s]) else {
            let hint = "the UQFF has fewer layers than config.json says";
            return Err(Error::model(
                self.path(),
                place,
                "an entry",
                "nothing",
                hint,
            ));
        };
        let bytes = file.bytes(&index.to_string())?;
        Entry::read(bytes).map_err(|(expected, found)| {
            let hint = "the file may be damaged; fetch or write it again";
            Error::model(path, place, expected, found, hint)
        })
    }
}

/// The name without extension and shard number.
fn family(file: &Path) -> String {
    let stem = file
        .file_stem()
        .map(|s| s.to_string_lossy().into_owned())
        .unwrap_or_default();
    match stem.rsplit_once('-') {
        Some((name, number)) if number.parse::<usize>().is_ok() => name.to_owned(),
        _ => stem,
    }
}
