//! Files that are expensive to write, kept under what they are made from: imported GGUFs,
//! merged, steered and quantized variants.
//!
//! An entry is a directory with a list of its files. It is written to a temporary directory
//! and renamed as a whole, so that two processes that want the same entry both write it and
//! one of them is kept. Small files may be added later: doses, next to the weights that they
//! share. A file is hashed when it is written. Later its length and time of change are compared
//! with the list, and it is hashed again only where they differ, or by `Store::verify`. An
//! entry that is not what was written is removed and written again.
//!
//! What an entry is made from is named by content: two models never share a key, and a model
//! that is copied or moved keeps its own. Hashes of files outside are remembered as notes.
//!
//! The store has a limit. A new entry makes room by the removal of those that were used longest
//! ago, except those that a process holds: whoever gets an entry holds a lock on its directory.

mod entry;
mod held;

use self::entry::{FileList, check_and_mark_used};
use self::held::Held;
use crate::error::Result;
use reptune_adapters::{Error, files};
use std::fs::{File, Metadata};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

pub(crate) use self::entry::{ADDED, LIST, StoreEntry};

/// Part of every key: what is written changes with these.
const VERSION: &str = concat!("mistralrs-0.8.1 reptune-", env!("CARGO_PKG_VERSION"));

/// Extension of notes.
const NOTE: &str = "note";
/// A file that changed this shortly before it was hashed can change again without another
/// time of change, because file systems count time in steps.
const STEP: Duration = Duration::from_millis(100);

/// Bytes of the user's cache where nothing else is said.
pub(crate) const DEFAULT_LIMIT: u64 = 20_000_000_000;
/// The environment variable that says something else.
const LIMIT: &str = "REPTUNE_CACHE_LIMIT";

/// A directory of entries.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
    /// Most bytes of its entries.
    limit: u64,
    held: Held,
}

/// What the user's cache may hold, from the command line; 0: not given.
static GIVEN_LIMIT: AtomicU64 = AtomicU64::new(0);

/// Sets the limit of the user's cache for this process.
pub(crate) fn set_limit(bytes: u64) {
    GIVEN_LIMIT.store(bytes.max(1), Ordering::Relaxed);
}

/// A size such as `20GB`, `500 MB` or `1.5TB`; a number alone counts GB.
pub(crate) fn parse_size(text: &str) -> Option<u64> {
    let units = [("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("", 1e9)];
    let text = text.trim().to_uppercase();
    let (number, unit) = units
        .into_iter()
        .find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)))?;
    let number: f64 = number.trim().parse().ok()?;
    (number >= 0. && number.is_finite()).then_some((number * unit) as u64)
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
        let limit = match (GIVEN_LIMIT.load(Ordering::Relaxed), set(LIMIT)) {
            (0, None) => DEFAULT_LIMIT,
            (0, Some(text)) => parse_size(&text.to_string_lossy()).ok_or_else(|| {
                let hint = "set it to a number of GB, or leave it out";
                Error::value(LIMIT, "a size such as 20GB", text.to_string_lossy(), hint)
            })?,
            (given, _) => given,
        };
        // What is handed out is in use until the process ends.
        static HELD: LazyLock<Held> = LazyLock::new(Held::default);
        let missing = || {
            let expected = "REPTUNE_CACHE, XDG_CACHE_HOME or HOME";
            let hint = "set REPTUNE_CACHE to a directory with room for models";
            Error::value("cache directory", expected, "none of them", hint)
        };
        let cache = Self {
            limit,
            held: HELD.clone(),
            ..Self::at(root.ok_or_else(missing)?)?
        };
        files::remove_abandoned(&cache.root);
        Ok(cache)
    }

    /// The cache in `root`, without a limit. What it hands out is in use until it is dropped.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn at(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        std::fs::create_dir_all(&root).map_err(|e| Error::write(&root, e))?;
        let root = std::path::absolute(&root).map_err(|e| Error::read(&root, e))?;
        Ok(Self {
            root,
            limit: u64::MAX,
            held: Held::default(),
        })
    }

    /// The same cache with room for entries of `bytes`.
    pub fn with_limit(self, bytes: u64) -> Self {
        let limit = bytes;
        Self { limit, ..self }
    }

    /// The directory of its entries.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Most bytes of its entries.
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// The entry under `key`, if it is there and as it was written.
    pub(crate) fn get(&self, key: &StoreKey) -> Option<PathBuf> {
        let place = self.root.join(&key.hash);
        if !place.exists() {
            return None;
        }
        self.held.hold(&place);
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

    /// The file `name`, which begins with [`ADDED`], in the entry `place` that this cache handed
    /// out. If it is missing, `write` makes it, whole or not at all, at the path that it is given.
    pub(crate) fn added(
        &self,
        place: &Path,
        name: &str,
        write: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let path = place.join(name);
        let listed = FileList::read(place).is_some_and(|list| list.names(name));
        if listed && path.is_file() {
            return Ok(path);
        }
        write(&path)?;
        // one list is changed at a time
        let root = File::open(&self.root);
        let _alone = root.and_then(|root| root.lock().map(|()| root));
        FileList::add(place, name).map_err(|e| Error::write(&path, e))?;
        self.make_room(place)?;
        Ok(path)
    }

    /// A directory in this cache that is removed when the returned value is dropped.
    pub(crate) fn temporary(&self) -> Result<tempfile::TempDir> {
        Ok(files::temporary_directory(&self.root)?)
    }

    /// Moves the directory `made`, which lies in this cache, to the entry under `key`.
    pub(crate) fn keep(&self, key: &StoreKey, made: &Path) -> Result<PathBuf> {
        let write = || {
            FileList::of(made, &key.made_from)?.write(made)?;
            let (files, list) = (entry::files(made)?, made.join(LIST));
            let mut all = files.iter().chain([&list]);
            all.try_for_each(|path| File::open(path)?.sync_all())
        };
        write().map_err(|e| Error::write(made, e))?;
        let place = self.root.join(&key.hash);
        let renamed = std::fs::rename(made, &place);
        self.held.hold(&place);
        match renamed {
            Ok(()) => drop(self.make_room(&place)?),
            // another process was faster
            Err(_) if check_and_mark_used(&place) => {}
            Err(e) => return Err(Error::write(&place, e).into()),
        }
        Ok(place)
    }

    /// Removes the entries that were used longest ago, until the others fit, but not `new` and
    /// none that is in use.
    fn make_room(&self, new: &Path) -> Result<Vec<StoreEntry>> {
        let entries = self.entries()?;
        let mut total: u64 = entries.iter().map(|e| e.bytes).sum();
        let mut removed = Vec::new();
        for entry in entries.into_iter().rev() {
            if total <= self.limit {
                break;
            }
            if entry.directory != new && self.remove_unused(&entry.directory)? {
                total -= entry.bytes;
                removed.push(entry);
            }
        }
        Ok(removed)
    }

    /// SHA-256 of the content of a file, computed now.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn hash(path: &Path) -> Result<String> {
        Ok(entry::hash(path).map_err(|e| Error::read(path, e))?)
    }

    /// SHA-256 of the content of a file anywhere. It is computed once, and remembered with the
    /// path, the length, the times of change and the inode of the file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn content_hash(&self, path: &Path) -> Result<String> {
        let read = |e| Error::read(path, e);
        let directory = path.parent().unwrap_or(Path::new(""));
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if directory.parent() == Some(&self.root)
            && let Some(hash) = FileList::read(directory).and_then(|list| list.hash(&name))
        {
            return Ok(hash); // of an entry, which was checked when it was handed out
        }
        let real = path.canonicalize().map_err(read)?;
        let now_there = || std::fs::metadata(&real).map(|m| identity(&m)).map_err(read);
        let (before, now) = (now_there()?, SystemTime::now());
        let parts = [
            b"content".as_slice(),
            real.as_os_str().as_encoded_bytes(),
            before.0.as_bytes(),
        ];
        let key = StoreKey::new("", parts);
        if let Some(known) = self.note(&key) {
            return Ok(known);
        }
        let hash = Self::hash(path)?;
        let settled = now.duration_since(before.1).is_ok_and(|time| time > STEP);
        if settled && now_there()? == before {
            // a cache that cannot be written can still be read
            let _ = self.keep_note(&key, &hash);
        }
        Ok(hash)
    }

    /// A short text under `key`: a guess that its reader must check.
    pub(crate) fn note(&self, key: &StoreKey) -> Option<String> {
        let path = self.note_path(key);
        let text = std::fs::read_to_string(&path).ok()?;
        entry::mark_used(&path);
        Some(text)
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
        content.retain(|(name, path)| path.is_dir() && !name.starts_with('.'));
        let entries = content.into_iter().map(|(_, path)| StoreEntry::of(path));
        let mut entries: Vec<StoreEntry> = entries.collect();
        entries.sort_by(|a, b| (b.used, &a.directory).cmp(&(a.used, &b.directory)));
        Ok(entries)
    }

    /// Hashes every file of every entry, and removes the entries that are not as they were
    /// written. Returns all with whether they are. `progress` is called with the number of
    /// entries that are done, and of all.
    pub(crate) fn verify(
        &self,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Vec<(StoreEntry, bool)>> {
        let entries = self.entries()?;
        let all = entries.len();
        let mut checked = Vec::new();
        for entry in entries {
            let intact =
                FileList::read(&entry.directory).is_some_and(|l| l.holds(&entry.directory));
            if !intact {
                self.remove(&entry.directory)?;
            }
            checked.push((entry, intact));
            progress(checked.len(), all);
        }
        Ok(checked)
    }

    /// Removes the entries that were not used for `unused` (zero removes all that are not in
    /// use), those that were used longest ago if the others exceed the limit, and what
    /// interrupted processes left. Returns the entries that were removed.
    pub(crate) fn gc(&self, unused: Duration) -> Result<Vec<StoreEntry>> {
        files::remove_abandoned(&self.root);
        let mut removed = Vec::new();
        for entry in self.entries()? {
            if entry.age() >= unused && self.remove_unused(&entry.directory)? {
                removed.push(entry);
            }
        }
        removed.extend(self.make_room(Path::new(""))?);
        for (_, path) in self.content()? {
            let note = path.extension().is_some_and(|e| e == NOTE);
            if note && entry::changed(&path).elapsed().unwrap_or_default() >= unused {
                std::fs::remove_file(&path).map_err(|e| Error::write(&path, e))?;
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

    /// Removes an entry unless a process holds it; returns whether it was removed.
    fn remove_unused(&self, entry: &Path) -> Result<bool> {
        // held by nobody else until it has gone
        let Some(_alone) = Held::alone(entry) else {
            return Ok(false);
        };
        self.remove(entry).map(|()| true)
    }

    /// Renames an entry before it is removed, so that no process sees half of it.
    fn remove(&self, entry: &Path) -> Result<()> {
        let temporary = self.temporary()?;
        let renamed = std::fs::rename(entry, temporary.path().join("removed"));
        Ok(renamed.map_err(|e| Error::write(entry, e))?)
    }
}

/// What changes when the content of a file does, and its time of change.
fn identity(file: &Metadata) -> (String, SystemTime) {
    let changed = file.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    #[cfg(unix)]
    let place = {
        use std::os::unix::fs::MetadataExt;
        (file.dev(), file.ino(), file.ctime(), file.ctime_nsec())
    };
    #[cfg(not(unix))]
    let place = ();
    (format!("{} {changed:?} {place:?}", file.len()), changed)
}

#[cfg(test)]
mod tests;
