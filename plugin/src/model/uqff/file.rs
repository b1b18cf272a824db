//! A UQFF on disk, read one entry at a time.

use super::entry::Entry;
use super::provenance::{Digests, UqffProvenance};
use crate::error::{Error, Result};
use reptune_adapters::{Error as Fault, formats::safetensors::TensorFile};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The entries of all shards of one UQFF model; their headers are in memory, no more.
pub struct UqffFile {
    /// At least one.
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

    /// The `.uqff` at `path` with the shared file that it names, or those of the only model
    /// in the directory `path`.
    ///
    /// # Errors
    /// When several models lie there, or a file is broken.
    pub fn files(path: &Path) -> Result<Vec<PathBuf>> {
        let is_uqff = |f: &Path| f.extension().is_some_and(|e| e == "uqff");
        if path.is_file() {
            if !is_uqff(path) {
                return Ok(Vec::new());
            }
            let metadata = TensorFile::open(path)?.metadata();
            let shared = UqffProvenance::read(path, &metadata)?.and_then(|p| p.shared);
            let shared = shared.map(|name| path.with_file_name(name));
            return Ok([path.to_owned()].into_iter().chain(shared).collect());
        }
        let listing = std::fs::read_dir(path).map_err(|e| Fault::read(path, e))?;
        let files = listing.filter_map(|f| Some(f.ok()?.path()));
        let mut files: Vec<PathBuf> = files.filter(|f| is_uqff(f)).collect();
        files.sort();
        let families: BTreeSet<String> = files.iter().map(|f| family(f)).collect();
        if families.len() > 1 {
            let names = families.into_iter().collect::<Vec<_>>().join(", ");
            let hint = "name the .uqff file itself";
            return Err(Error::model(path, "*.uqff", "one model", names, hint));
        }
        Ok(files)
    }

    /// The files.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.shards.iter().map(|(path, _)| path.as_path())
    }

    /// Reads all entries, and checks them against the hashes that the files hold.
    /// `progress` is called with the number of entries that are done, and of all.
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

    /// The provenance of the first file, if this program wrote it.
    ///
    /// # Errors
    /// When its metadata is malformed.
    pub fn provenance(&self) -> Result<Option<UqffProvenance>> {
        let (path, file) = &self.shards[0];
        UqffProvenance::read(path, &file.metadata())
    }

    /// Reads an entry whose weight must have the shape (O, I).
    ///
    /// # Errors
    /// When it is missing, broken, or has another shape.
    pub fn shaped(&self, index: usize, shape: (usize, usize)) -> Result<Entry> {
        let entry = self.entry(index)?;
        let (place, found) = (format!("tensor `{index}`"), entry.layout().shape);
        if found != shape {
            let (expected, found) = (format!("a weight of shape {shape:?}"), format!("{found:?}"));
            let hint = "config.json and UQFF belong to different models";
            return Err(Error::model(
                &self.shards[0].0,
                place,
                expected,
                found,
                hint,
            ));
        }
        Ok(entry)
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
            let (path, expected) = (&self.shards[0].0, "an entry");
            let hint = "the UQFF has fewer layers than config.json says";
            return Err(Error::model(path, place, expected, "nothing", hint));
        };
        Entry::read(file.bytes(&index.to_string())?).map_err(|(expected, found)| {
            let hint = "the file may be damaged; fetch or write it again";
            Error::model(path, place, expected, found, hint)
        })
    }
}

/// The name without extension and shard number.
fn family(file: &Path) -> String {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    match stem.rsplit_once('-') {
        Some((name, number)) if number.parse::<usize>().is_ok() => name.to_owned(),
        _ => stem.into_owned(),
    }
}
