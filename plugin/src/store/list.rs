//! The list of an entry's files: what each held when it was written.

use super::StoreEntry;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Name of the list. Its own time of change is when the entry was last used.
pub(crate) const LIST: &str = "files.json";

/// A file that changed this shortly before it was hashed can change again without another
/// time of change, because file systems count time in steps.
const STEP: Duration = Duration::from_millis(100);

/// What an entry was made from, and its files.
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
        let settled = self
            .hashed
            .duration_since(self.changed)
            .is_ok_and(|time| time > STEP);
        settled
            && std::fs::metadata(path).is_ok_and(|metadata| {
                metadata.len() == self.bytes
                    && metadata.modified().is_ok_and(|time| time == self.changed)
            })
    }
}

impl FileList {
    /// Hashes the files of a directory.
    pub(super) fn of(directory: &Path, made_from: &str) -> io::Result<Self> {
        let mut files = BTreeMap::new();
        for path in paths(directory)? {
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

    pub(super) fn write(&self, directory: &Path) -> io::Result<()> {
        std::fs::write(directory.join(LIST), serde_json::to_vec_pretty(self)?)
    }
}

/// Whether an entry is as it was written; if so, it counts as used now.
pub(super) fn check_and_mark_used(directory: &Path) -> bool {
    let check = || -> Option<bool> {
        let list = FileList::read(directory)?;
        if paths(directory).ok()?.len() != list.files.len() {
            return Some(false);
        }
        for (name, listed) in &list.files {
            let path = directory.join(name);
            if !listed.looks_same(&path) && hash(&path).ok()? != listed.sha256 {
                return Some(false);
            }
        }
        Some(true)
    };
    let intact = check().unwrap_or(false);
    if intact {
        // a cache that cannot be written can still be read
        let _ = File::options()
            .append(true)
            .open(directory.join(LIST))
            .and_then(|file| file.set_modified(SystemTime::now()));
    }
    intact
}

/// An entry as it is listed, damaged or not.
pub(super) fn describe(directory: PathBuf) -> StoreEntry {
    let list = FileList::read(&directory);
    let bytes = |path: &PathBuf| std::fs::metadata(path).map_or(0, |m| m.len());
    StoreEntry {
        made_from: list.map_or("unknown".into(), |list| list.made_from),
        bytes: paths(&directory)
            .unwrap_or_default()
            .iter()
            .map(bytes)
            .sum(),
        used: changed(&directory.join(LIST)),
        directory,
    }
}

/// Time of change; what cannot be read is as old as can be.
pub(super) fn changed(path: &Path) -> SystemTime {
    let time = std::fs::metadata(path).and_then(|m| m.modified());
    time.unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Has the system write all files of a directory to the disk.
pub(super) fn sync(directory: &Path) -> io::Result<()> {
    paths(directory)?
        .iter()
        .chain([&directory.join(LIST)])
        .try_for_each(|path| File::open(path)?.sync_all())
}

/// The files of a directory without the list, in order.
fn paths(directory: &Path) -> io::Result<Vec<PathBuf>> {
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

fn hash(path: &Path) -> io::Result<String> {
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
