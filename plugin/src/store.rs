//! Files that were expensive to write, kept by what they were made of.
//!
//! An entry is a directory under a key, with a list of its files and their hashes.
//! It is written beside its place and renamed as a whole, so two processes that want
//! the same entry both write it and one of them is kept. Whatever is read is hashed
//! first: an entry that is not what was written is removed and written again.

use crate::error::Result;
use reptune_adapters::{Error, files};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

const LIST: &str = "files.json";

/// A directory of entries.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// The user's cache: `$REPTUNE_CACHE`, else `$XDG_CACHE_HOME/reptune`, else
    /// `~/.cache/reptune`. It may be removed at any time, and is never cleaned up.
    ///
    /// # Errors
    /// When none of these variables is set, or the directory cannot be made.
    pub fn open() -> Result<Self> {
        let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
        let root = set("REPTUNE_CACHE")
            .map(PathBuf::from)
            .or_else(|| set("XDG_CACHE_HOME").map(|d| Path::new(&d).join("reptune")))
            .or_else(|| set("HOME").map(|d| Path::new(&d).join(".cache/reptune")));
        match root {
            Some(root) => Self::at(root),
            None => Err(Error::value(
                "cache directory",
                "REPTUNE_CACHE, XDG_CACHE_HOME or HOME",
                "none of them",
                "set REPTUNE_CACHE to a directory with room for models",
            )
            .into()),
        }
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
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The entry under `key` if it is there, and as it was written.
    pub fn get(&self, key: &str) -> Option<PathBuf> {
        let place = self.root.join(key);
        if !place.exists() {
            return None;
        }
        if intact(&place) {
            return Some(place);
        }
        // out of the way before it goes, so that nobody sees half of it
        if let Ok(aside) = self.room() {
            let _ = std::fs::rename(&place, aside.path().join("broken"));
        }
        None
    }

    /// The entry under `key`; `write` makes its directory, at the path it is given,
    /// where it is not there or broken.
    ///
    /// # Errors
    /// Those of `write`, and when the disk is full.
    pub fn entry(&self, key: &str, write: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        if let Some(place) = self.get(key) {
            return Ok(place);
        }
        let room = self.room()?;
        let made = room.path().join("entry");
        write(&made)?;
        self.keep(key, &made)
    }

    /// A directory in this cache that is removed with what it returns.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn room(&self) -> Result<tempfile::TempDir> {
        let made = tempfile::Builder::new()
            .prefix(".new-")
            .tempdir_in(&self.root);
        Ok(made.map_err(|e| Error::write(&self.root, e))?)
    }

    /// Takes the directory `made`, which lies in this cache, as the entry under `key`.
    ///
    /// # Errors
    /// When it cannot be read, or the disk is full.
    pub fn keep(&self, key: &str, made: &Path) -> Result<PathBuf> {
        let mut files = BTreeMap::new();
        for path in listing(made).map_err(|e| Error::read(made, e))? {
            let hash = hash(&path).map_err(|e| Error::read(&path, e))?;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            files.insert(name.into_owned(), hash);
        }
        let list = serde_json::to_vec_pretty(&files).unwrap_or_default();
        let path = made.join(LIST);
        std::fs::write(&path, list).map_err(|e| Error::write(&path, e))?;
        for path in listing(made).map_err(|e| Error::read(made, e))? {
            let synced = File::open(&path).and_then(|f| f.sync_all());
            synced.map_err(|e| Error::write(&path, e))?;
        }
        let place = self.root.join(key);
        match std::fs::rename(made, &place) {
            Ok(()) => Ok(place),
            // another process was faster
            Err(_) if intact(&place) => Ok(place),
            Err(e) => Err(Error::write(&place, e).into()),
        }
    }

    /// A short text under `key`: a guess that its reader must check.
    pub fn note(&self, key: &str) -> Option<String> {
        std::fs::read_to_string(self.root.join(format!("{key}.note"))).ok()
    }

    /// Keeps a short text under `key`.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn keep_note(&self, key: &str, text: &str) -> Result<()> {
        let path = self.root.join(format!("{key}.note"));
        Ok(files::write_atomically(&path, |file| {
            std::io::Write::write_all(file, text.as_bytes())
        })?)
    }
}

impl Store {
    /// The entries, the last used first.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn entries(&self) -> Result<Vec<StoreEntry>> {
        let io = |e| Error::read(&self.root, e);
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(&self.root).map_err(io)? {
            let directory = entry.map_err(io)?.path();
            if !directory.join(LIST).is_file() {
                continue;
            }
            let sizes = listing(&directory).map_err(io)?.into_iter();
            let sizes = sizes.map(|f| std::fs::metadata(f).map_or(0, |m| m.len()));
            let changed = std::fs::metadata(directory.join(LIST)).and_then(|m| m.modified());
            entries.push(StoreEntry {
                bytes: sizes.sum(),
                made_from: directory
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into(),
                used: changed.map_err(io)?,
                directory,
            });
        }
        entries.sort_by(|a, b| (b.used, &a.directory).cmp(&(a.used, &b.directory)));
        Ok(entries)
    }

    /// Removes the entries that have not been used for `unused`, and returns them.
    ///
    /// # Errors
    /// When one cannot be removed.
    pub fn gc(&self, unused: std::time::Duration) -> Result<Vec<StoreEntry>> {
        let mut removed = self.entries()?;
        removed.retain(|entry| entry.age() >= unused);
        for entry in &removed {
            let io = |e| Error::write(&entry.directory, e);
            std::fs::remove_dir_all(&entry.directory).map_err(io)?;
        }
        Ok(removed)
    }
}

/// An entry of a [`Store`].
#[derive(Debug, Clone)]
pub struct StoreEntry {
    /// Its directory.
    pub directory: PathBuf,
    /// What it was made from.
    pub made_from: String,
    /// Bytes of its files.
    pub bytes: u64,
    /// When it was last used.
    pub used: std::time::SystemTime,
}

impl StoreEntry {
    /// How long it has not been used.
    pub fn age(&self) -> std::time::Duration {
        self.used.elapsed().unwrap_or_default()
    }
}

/// The files of a directory, without the list, in order.
fn listing(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_file() && !path.ends_with(LIST) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn intact(place: &Path) -> bool {
    let check = || -> Option<bool> {
        let list = std::fs::read(place.join(LIST)).ok()?;
        let files: BTreeMap<String, String> = serde_json::from_slice(&list).ok()?;
        let found = listing(place).ok()?.len();
        let same = files
            .iter()
            .all(|(name, sha)| hash(&place.join(name)).is_ok_and(|h| h == *sha));
        Some(same && found == files.len())
    };
    check().unwrap_or(false)
}

fn hash(path: &Path) -> std::io::Result<String> {
    let (mut file, mut sha) = (File::open(path)?, Sha256::new());
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece)? {
            0 => break,
            n => sha.update(&piece[..n]),
        }
    }
    Ok(sha.finalize().iter().map(|b| format!("{b:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(text: &str) -> impl FnOnce(&Path) -> Result<()> {
        let text = text.to_owned();
        move |directory| {
            std::fs::create_dir(directory).expect("made");
            std::fs::write(directory.join("a"), text).expect("written");
            Ok(())
        }
    }

    fn never(_: &Path) -> Result<()> {
        panic!("an intact entry is not written again")
    }

    #[test]
    fn an_entry_is_written_once_and_again_when_it_is_broken() -> Result<()> {
        let room = tempfile::tempdir().expect("room");
        let cache = Store::at(room.path().join("deep"))?;
        let place = cache.entry("key", write("one"))?;
        assert_eq!(cache.entry("key", never)?, place);
        std::fs::write(place.join("a"), "two").expect("broken");
        assert_eq!(cache.get("key"), None);
        cache.entry("key", write("one"))?;
        assert_eq!(
            std::fs::read_to_string(place.join("a")).expect("read"),
            "one"
        );
        std::fs::remove_file(place.join("a")).expect("removed");
        assert_eq!(cache.get("key"), None, "a file is missing");
        cache.entry("key", write("one"))?;
        std::fs::write(place.join("b"), "").expect("one more");
        assert_eq!(cache.get("key"), None, "a file too many");
        let left = std::fs::read_dir(room.path().join("deep")).expect("read");
        assert_eq!(left.count(), 0, "nothing else stays");
        Ok(())
    }

    #[test]
    fn of_two_writers_one_is_kept_and_both_get_it() -> Result<()> {
        let room = tempfile::tempdir().expect("room");
        let cache = Store::at(room.path())?;
        let slow = cache.entry("key", |directory| {
            // meanwhile
            cache.entry("key", write("one"))?;
            write("one")(directory)
        })?;
        assert_eq!(cache.get("key"), Some(slow));
        Ok(())
    }

    #[test]
    fn a_failed_write_leaves_nothing() -> Result<()> {
        let room = tempfile::tempdir().expect("room");
        let cache = Store::at(room.path())?;
        let message = cache
            .entry("key", |directory| {
                write("half")(directory)?;
                Err(Error::value("it", "one", "none", "retry").into())
            })
            .expect_err("failed")
            .to_string();
        assert!(message.contains("it: expected one"), "{message}");
        assert_eq!(std::fs::read_dir(room.path()).expect("read").count(), 0);
        Ok(())
    }
}
