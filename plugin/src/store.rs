//! Files that are expensive to write, kept under what they are made from: imported GGUFs,
//! merged, steered and quantized variants.
//!
//! An entry is a directory with a list of its files. It is written to a temporary directory
//! and renamed as a whole, so that two processes that want the same entry both write it and
//! one of them is kept. A file is hashed when it is written. Later its length and time of
//! change are compared with the list, and it is hashed again only where they differ. An entry
//! that is not what was written is removed and written again.

use crate::error::Result;
use reptune_adapters::{Error, files};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Part of every key: what is written changes with these.
const VERSION: &str = concat!("mistralrs-0.8.1 reptune-", env!("CARGO_PKG_VERSION"));

/// Name of the list of an entry. Its own time of change is when the entry was last used.
pub(crate) const LIST: &str = "files.json";
/// Prefix of directories that are being written.
const NEW: &str = ".new-";
/// Extension of notes.
const NOTE: &str = "note";
/// A directory that is being written is abandoned after this time.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);
/// A file that changed this shortly before it was hashed can change again without another
/// time of change, because file systems count time in steps.
const STEP: Duration = Duration::from_millis(100);

/// A directory of entries.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// What an entry is made from: a hash that changes with it, and words that say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoreKey {
    hash: String,
    made_from: String,
}

impl StoreKey {
    /// The key of what is made from `parts`, in this order; `made_from` describes them to a
    /// reader. Two lists of parts never share a key, nor do two versions of this program.
    pub(crate) fn new<P: AsRef<[u8]>>(
        made_from: impl Into<String>,
        parts: impl IntoIterator<Item = P>,
    ) -> Self {
        let mut all = vec![VERSION.as_bytes().to_vec()];
        for part in parts {
            let part = part.as_ref();
            all.push(format!("{}:", part.len()).into_bytes());
            all.push(part.to_vec());
        }
        Self {
            hash: files::sha256(all.iter().map(Vec::as_slice)),
            made_from: made_from.into(),
        }
    }

    /// The key of what is made from what this key stands for, and from `part`.
    pub(crate) fn and(&self, part: impl AsRef<[u8]>) -> Self {
        Self::new(&self.made_from, [self.hash.as_bytes(), part.as_ref()])
    }
}

/// An entry of a [`Store`] as `reptune cache ls` lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoreEntry {
    pub directory: PathBuf,
    pub made_from: String,
    /// Of its files.
    pub bytes: u64,
    /// When it was last used.
    pub used: SystemTime,
}

impl StoreEntry {
    /// An entry as it is listed, damaged or not.
    fn of(directory: PathBuf) -> Self {
        let bytes = |path: &PathBuf| std::fs::metadata(path).map_or(0, |m| m.len());
        let files = entry_files(&directory).unwrap_or_default();
        Self {
            made_from: FileList::read(&directory).map_or("unknown".into(), |list| list.made_from),
            bytes: files.iter().map(bytes).sum(),
            used: changed(&directory.join(LIST)),
            directory,
        }
    }

    /// Time since it was last used.
    pub(crate) fn age(&self) -> Duration {
        self.used.elapsed().unwrap_or_default()
    }
}

impl Store {
    /// The user's cache: `$REPTUNE_CACHE`, else `$XDG_CACHE_HOME/reptune`, else
    /// `~/.cache/reptune`. It can be removed at any time.
    ///
    /// # Errors
    /// When none of these variables is set, or the directory cannot be made.
    pub fn open() -> Result<Self> {
        let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
        let root = set("REPTUNE_CACHE")
            .map(PathBuf::from)
            .or_else(|| set("XDG_CACHE_HOME").map(|d| Path::new(&d).join("reptune")))
            .or_else(|| set("HOME").map(|d| Path::new(&d).join(".cache/reptune")));
        let missing = || {
            let expected = "REPTUNE_CACHE, XDG_CACHE_HOME or HOME";
            let hint = "set REPTUNE_CACHE to a directory with room for models";
            Error::value("cache directory", expected, "none of them", hint)
        };
        Self::at(root.ok_or_else(missing)?)
    }

    /// The cache in `root`.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn at(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        std::fs::create_dir_all(&root).map_err(|e| Error::write(&root, e))?;
        let root = std::path::absolute(&root).map_err(|e| Error::read(&root, e))?;
        Ok(Self { root })
    }

    /// The directory of its entries.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The entry under `key`, if it is there and as it was written.
    pub(crate) fn get(&self, key: &StoreKey) -> Option<PathBuf> {
        let place = self.root.join(&key.hash);
        if !place.exists() {
            return None;
        }
        if check_and_mark_used(&place) {
            return Some(place);
        }
        let _ = self.remove(&place);
        None
    }

    /// The entry under `key`. If it is missing or damaged, `write` makes its directory at the
    /// path that it is given.
    pub(crate) fn entry(
        &self,
        key: &StoreKey,
        write: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        if let Some(place) = self.get(key) {
            return Ok(place);
        }
        let temporary = self.temporary()?;
        let made = temporary.path().join("entry");
        write(&made)?;
        self.keep(key, &made)
    }

    /// A directory in this cache that is removed when the returned value is dropped.
    pub(crate) fn temporary(&self) -> Result<tempfile::TempDir> {
        let made = tempfile::Builder::new().prefix(NEW).tempdir_in(&self.root);
        Ok(made.map_err(|e| Error::write(&self.root, e))?)
    }

    /// Moves the directory `made`, which lies in this cache, to the entry under `key`.
    pub(crate) fn keep(&self, key: &StoreKey, made: &Path) -> Result<PathBuf> {
        let write = || {
            FileList::of(made, &key.made_from)?.write(made)?;
            let (files, list) = (entry_files(made)?, made.join(LIST));
            let mut all = files.iter().chain([&list]);
            all.try_for_each(|path| File::open(path)?.sync_all())
        };
        write().map_err(|e| Error::write(made, e))?;
        let place = self.root.join(&key.hash);
        match std::fs::rename(made, &place) {
            Ok(()) => Ok(place),
            // another process was faster
            Err(_) if check_and_mark_used(&place) => Ok(place),
            Err(e) => Err(Error::write(&place, e).into()),
        }
    }

    /// A short text under `key`: a guess that its reader must check.
    pub(crate) fn note(&self, key: &StoreKey) -> Option<String> {
        std::fs::read_to_string(self.note_path(key)).ok()
    }

    /// Keeps a short text under `key`.
    pub(crate) fn keep_note(&self, key: &StoreKey, text: &str) -> Result<()> {
        let path = self.note_path(key);
        Ok(files::write_atomically(&path, |w| {
            w.write_all(text.as_bytes())
        })?)
    }

    fn note_path(&self, key: &StoreKey) -> PathBuf {
        self.root.join(&key.hash).with_extension(NOTE)
    }

    /// All entries, the one used last first.
    pub(crate) fn entries(&self) -> Result<Vec<StoreEntry>> {
        let mut content = self.content()?;
        content.retain(|(name, path)| path.is_dir() && !name.starts_with(NEW));
        let entries = content.into_iter().map(|(_, path)| StoreEntry::of(path));
        let mut entries: Vec<StoreEntry> = entries.collect();
        entries.sort_by(|a, b| (b.used, &a.directory).cmp(&(a.used, &b.directory)));
        Ok(entries)
    }

    /// Removes the entries that were not used for `unused` (zero removes all), and what
    /// interrupted processes left. Returns the entries that were removed.
    pub(crate) fn gc(&self, unused: Duration) -> Result<Vec<StoreEntry>> {
        let mut removed = self.entries()?;
        removed.retain(|entry| entry.age() >= unused);
        for entry in &removed {
            self.remove(&entry.directory)?;
        }
        for (name, path) in self.content()? {
            let wait = match name.starts_with(NEW) {
                true => ABANDONED,
                false if path.extension().is_some_and(|e| e == NOTE) => unused,
                false => continue,
            };
            if changed(&path).elapsed().unwrap_or_default() >= wait {
                match path.is_dir() {
                    true => std::fs::remove_dir_all(&path),
                    false => std::fs::remove_file(&path),
                }
                .map_err(|e| Error::write(&path, e))?;
            }
        }
        Ok(removed)
    }

    /// Names and paths of what lies in the cache.
    fn content(&self) -> Result<Vec<(String, PathBuf)>> {
        let entries = std::fs::read_dir(&self.root).map_err(|e| Error::read(&self.root, e))?;
        let named = entries.flatten().map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, entry.path())
        });
        Ok(named.collect())
    }

    /// Renames an entry before it is removed, so that no process sees half of it.
    fn remove(&self, entry: &Path) -> Result<()> {
        let temporary = self.temporary()?;
        let renamed = std::fs::rename(entry, temporary.path().join("removed"));
        Ok(renamed.map_err(|e| Error::write(entry, e))?)
    }
}

/// What an entry was made from, and what each of its files held when it was written.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct FileList {
    made_from: String,
    files: BTreeMap<String, Listed>,
}

/// A file when it was hashed.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Listed {
    sha256: String,
    bytes: u64,
    changed: SystemTime,
    hashed: SystemTime,
}

impl Listed {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        let hashed = SystemTime::now();
        Ok(Self {
            sha256: hash(path)?,
            bytes: metadata.len(),
            changed: metadata.modified()?,
            hashed,
        })
    }

    /// Whether the file at `path` is as it was when it was hashed, as far as its length and
    /// time of change say.
    fn looks_same(&self, path: &Path) -> bool {
        let settled = self.hashed.duration_since(self.changed);
        let same = |m: std::fs::Metadata| {
            m.len() == self.bytes && m.modified().is_ok_and(|time| time == self.changed)
        };
        settled.is_ok_and(|time| time > STEP) && std::fs::metadata(path).is_ok_and(same)
    }
}

impl FileList {
    /// Hashes the files of a directory.
    fn of(directory: &Path, made_from: &str) -> io::Result<Self> {
        let mut files = BTreeMap::new();
        for path in entry_files(directory)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            files.insert(name.into_owned(), Listed::of(&path)?);
        }
        Ok(Self {
            made_from: made_from.to_owned(),
            files,
        })
    }

    fn read(directory: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(directory.join(LIST)).ok()?).ok()
    }

    fn write(&self, directory: &Path) -> io::Result<()> {
        std::fs::write(directory.join(LIST), serde_json::to_vec_pretty(self)?)
    }
}

/// Whether an entry is as it was written; if so, it counts as used now.
fn check_and_mark_used(directory: &Path) -> bool {
    let check = || -> Option<bool> {
        let list = FileList::read(directory)?;
        let mut same = entry_files(directory).ok()?.len() == list.files.len();
        for (name, listed) in &list.files {
            let path = directory.join(name);
            same = same && (listed.looks_same(&path) || hash(&path).ok()? == listed.sha256);
        }
        Some(same)
    };
    let intact = check().unwrap_or(false);
    if intact {
        // a cache that cannot be written can still be read
        let list = File::options().append(true).open(directory.join(LIST));
        let _ = list.and_then(|file| file.set_modified(SystemTime::now()));
    }
    intact
}

/// Time of change; what cannot be read is as old as can be.
fn changed(path: &Path) -> SystemTime {
    let time = std::fs::metadata(path).and_then(|m| m.modified());
    time.unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The files of an entry without the list, in order.
fn entry_files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let paths = std::fs::read_dir(directory)?.map(|entry| Ok(entry?.path()));
    let mut files: Vec<PathBuf> = paths.collect::<io::Result<_>>()?;
    files.retain(|path| path.is_file() && !path.ends_with(LIST));
    files.sort();
    Ok(files)
}

fn hash(path: &Path) -> io::Result<String> {
    let mut sha = Sha256::new();
    let mut file = BufReader::with_capacity(1 << 20, File::open(path)?);
    io::copy(&mut file, &mut sha)?;
    Ok(format!("{:x}", sha.finalize()))
}

#[cfg(test)]
mod tests;
