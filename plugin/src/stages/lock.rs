//! The lock of a run's directory: one process at a time works in it.
//!
//! The system releases the lock of a process that ends, however it ends. Where a disk has no
//! locks, the process that the file names decides.

use crate::error::{Error, Result};
use reptune_adapters::process::ProcessId;
use reptune_adapters::{Error as Fault, files};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

/// The file that is locked.
const LOCK: &str = ".lock";

/// A locked directory. Dropped, it is free again, and gone if nothing was written to it.
pub struct RunLock {
    out: PathBuf,
    /// Open as long as the lock is held.
    _file: File,
    /// Directories that were made for it, the deepest first.
    made: Vec<PathBuf>,
}

/// Who holds a lock.
#[derive(Serialize, Deserialize)]
struct Holder {
    process: ProcessId,
    since: String,
}

impl RunLock {
    /// Locks `out`, which is made if it is not there.
    ///
    /// # Errors
    /// When another process works there, other files lie there, or it cannot be written to.
    pub fn take(out: &Path) -> Result<Self> {
        let io = |e| Fault::write(out, e);
        let is_run = out.join(super::FILE).is_file();
        // and what a process was writing that was killed early on
        let foreign =
            |name: OsString| name != LOCK && !name.to_string_lossy().starts_with(files::TEMPORARY);
        let mut names = std::fs::read_dir(out).into_iter().flatten().flatten();
        if !is_run && names.any(|entry| foreign(entry.file_name())) {
            let (place, found) = ("output directory", "other files");
            let expected = "an empty directory, or that of an earlier run";
            let hint = "name another with --out";
            return Err(Error::model(out, place, expected, found, hint));
        }
        let full = std::path::absolute(out).map_err(io)?;
        let missing = full.ancestors().take_while(|d| !d.exists());
        let made = missing.map(Path::to_owned).collect();
        std::fs::create_dir_all(&full).map_err(io)?;
        let path = full.join(LOCK);
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let file = loop {
            let mut file = options.open(&path).map_err(io)?;
            let mut text = String::new();
            file.read_to_string(&mut text).map_err(io)?;
            let holder: Option<Holder> = serde_json::from_str(&text).ok();
            match file.try_lock() {
                // the last holder may have removed the file after it was opened here
                Ok(()) if !is_at(&file, &path) => {}
                Ok(()) => break file,
                Err(TryLockError::WouldBlock) => return Err(taken(out, holder)),
                Err(TryLockError::Error(_)) => match holder {
                    Some(holder) if !holder.process.has_ended() => {
                        return Err(taken(out, Some(holder)));
                    }
                    _ => break file,
                },
            }
        };
        let holder = Holder {
            process: ProcessId::current().clone(),
            since: now(),
        };
        let write = |mut file: &File| {
            file.set_len(0)?;
            file.rewind()?;
            serde_json::to_writer(file, &holder).map_err(std::io::Error::from)?;
            file.flush()
        };
        write(&file).map_err(io)?;
        Ok(Self {
            out: out.to_owned(),
            _file: file,
            made,
        })
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.out
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.out.join(LOCK));
        // which fails for a directory that holds something
        let mut made = self.made.iter();
        while made.next().is_some_and(|d| std::fs::remove_dir(d).is_ok()) {}
    }
}

fn taken(out: &Path, holder: Option<Holder>) -> Error {
    let found = match holder {
        Some(Holder { process, since }) => format!("{process}, since {since}"),
        None => "another process".to_owned(),
    };
    let (place, expected) = ("directory of the run", "no other process that writes to it");
    let hint = "wait until it ends, stop it, or name another directory with --out";
    Error::model(out, place, expected, found, hint)
}

/// Whether `path` still names the open `file`.
fn is_at(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let ids = |m: std::fs::Metadata| (m.dev(), m.ino());
        let (open, there) = (file.metadata().map(ids), std::fs::metadata(path).map(ids));
        matches!((open, there), (Ok(open), Ok(there)) if open == there)
    }
    #[cfg(not(unix))]
    {
        let _ = (file, path);
        true
    }
}

/// The time: `2026-11-29 11:40:02 UTC`.
fn now() -> String {
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seconds = since_1970.map_or(0, |d| d.as_secs() as i64);
    chrono::DateTime::from_timestamp(seconds, 0).map_or_else(String::new, |t| t.to_string())
}

#[cfg(test)]
mod tests;
