//! An entry of the store: a directory with a list of its files.

use super::held::Held;
use reptune_adapters::files::{TEMPORARY, write_atomically};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Name of the list of an entry. Its own time of change is when the entry was last used.
pub(crate) const LIST: &str = "files.json";
/// How the names of files begin that are added to an entry.
pub(crate) const ADDED: &str = "dose_";

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
    pub(super) fn of(directory: PathBuf) -> Self {
        let bytes = |path: &PathBuf| std::fs::metadata(path).map_or(0, |m| m.len());
        let files = files(&directory).unwrap_or_default();
        Self {
            made_from: FileList::read(&directory).map_or("unknown".into(), |list| list.made_from),
            bytes: files.iter().map(bytes).sum(),
            used: changed(&directory.join(LIST)),
            directory,
        }
    }

    /// Whether a process uses it now.
    pub(crate) fn is_in_use(&self) -> bool {
        self.directory.exists() && Held::alone(&self.directory).is_none()
    }

    /// Time since it was last used.
    pub(crate) fn age(&self) -> Duration {
        self.used.elapsed().unwrap_or_default()
    }
}

/// What an entry was made from, and what each of its files held when it was written.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct FileList {
    made_from: String,
    files: BTreeMap<String, Listed>,
}

/// A file when it was hashed.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Listed {
    sha256: String,
    bytes: u64,
    changed: SystemTime,
}

impl Listed {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        Ok(Self {
            sha256: hash(path)?,
            bytes: metadata.len(),
            changed: metadata.modified()?,
        })
    }
}

impl FileList {
    /// Hashes the files of a directory.
    pub(super) fn of(directory: &Path, made_from: &str) -> io::Result<Self> {
        let mut listed = BTreeMap::new();
        for path in files(directory)? {
            listed.insert(name(&path), Listed::of(&path)?);
        }
        Ok(Self {
            made_from: made_from.to_owned(),
            files: listed,
        })
    }

    pub(super) fn read(directory: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(directory.join(LIST)).ok()?).ok()
    }

    pub(super) fn write(&self, directory: &Path) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(self)?;
        let written = write_atomically(&directory.join(LIST), |w| w.write_all(&text));
        written.map_err(io::Error::other)
    }

    /// Hashes the file `name` of the entry `directory`, and adds it to its list.
    pub(super) fn add(directory: &Path, name: &str) -> io::Result<()> {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let mut list = Self::read(directory).ok_or_else(missing)?;
        let listed = Listed::of(&directory.join(name))?;
        list.files.insert(name.to_owned(), listed);
        list.write(directory)
    }

    pub(super) fn names(&self, file: &str) -> bool {
        self.files.contains_key(file)
    }

    /// SHA-256 of a file when it was written.
    pub(super) fn hash(&self, file: &str) -> Option<String> {
        Some(self.files.get(file)?.sha256.clone())
    }

    /// Whether `directory` holds the files of the list, hashed now, and no others.
    pub(super) fn holds(&self, directory: &Path) -> bool {
        self.is_complete(directory)
            && self.files.iter().all(|(name, listed)| {
                hash(&directory.join(name)).is_ok_and(|hash| hash == listed.sha256)
            })
    }

    /// Whether all files are there and no others; but one that is being added is not listed yet.
    fn is_complete(&self, directory: &Path) -> bool {
        let names = files(directory).unwrap_or_default();
        let names: BTreeSet<String> = names.iter().map(|path| name(path)).collect();
        self.files.keys().all(|file| names.contains(file))
            && (names.iter()).all(|file| self.names(file) || file.starts_with(ADDED))
    }
}

/// Whether an entry is as it was written, as far as lengths and times of change say; if so, it
/// counts as used now. A file whose time is another is hashed, once.
pub(super) fn check_and_mark_used(directory: &Path) -> bool {
    let check = || -> Option<bool> {
        let mut list = FileList::read(directory)?;
        let (mut same, mut touched) = (list.is_complete(directory), false);
        for (name, listed) in &mut list.files {
            let path = directory.join(name);
            let now = std::fs::metadata(&path).ok()?;
            let changed = now.modified().ok()?;
            same = same && now.len() == listed.bytes;
            if same && changed != listed.changed {
                same = hash(&path).ok()? == listed.sha256;
                (listed.changed, touched) = (changed, true);
            }
        }
        if same && touched {
            let _ = list.write(directory);
        }
        Some(same)
    };
    let intact = check().unwrap_or(false);
    if intact {
        mark_used(&directory.join(LIST));
    }
    intact
}

/// Sets the time of change of a file to now. A cache that cannot be written can still be read.
pub(super) fn mark_used(path: &Path) {
    let open = File::options().append(true).open(path);
    let _ = open.and_then(|file| file.set_modified(SystemTime::now()));
}

/// Time of change; what cannot be read is as old as can be.
pub(super) fn changed(path: &Path) -> SystemTime {
    let time = std::fs::metadata(path).and_then(|m| m.modified());
    time.unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The files of an entry without the list and what is being written, in order.
pub(super) fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let paths = std::fs::read_dir(directory)?.map(|entry| Ok(entry?.path()));
    let mut files: Vec<PathBuf> = paths.collect::<io::Result<_>>()?;
    let listed = |path: &PathBuf| !path.ends_with(LIST) && !name(path).starts_with(TEMPORARY);
    files.retain(|path| path.is_file() && listed(path));
    files.sort();
    Ok(files)
}

fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// SHA-256 of the content of a file.
pub(super) fn hash(path: &Path) -> io::Result<String> {
    let mut sha = Sha256::new();
    let mut file = BufReader::with_capacity(1 << 20, File::open(path)?);
    io::copy(&mut file, &mut sha)?;
    Ok(format!("{:x}", sha.finalize()))
}
