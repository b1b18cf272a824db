//! Files and directories, written whole or not at all, and hashes: the only place that
//! renames and syncs.
//!
//! The name of a temporary file contains the process that writes it. The next process that writes to
//! the same directory removes the files of processes that have ended.

use crate::error::{Error, Result};
use crate::process::ProcessId;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Writes `path` with `fill`, so that a reader sees the old file or the new one, never a
/// part.
///
/// # Errors
/// When the directory cannot be written to or is full; nothing is left behind.
pub fn write_atomically(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<()> {
    replace(path, |temporary| {
        let attempt = || {
            let mut buffered = std::io::BufWriter::new(File::create(temporary)?);
            fill(&mut buffered)?;
            buffered.flush()
        };
        attempt().map_err(|e| Error::write(path, e))
    })
}

/// Replaces `path` by the file that `write` makes: it is given the path of an empty
/// temporary file in the same directory, which is then synced and renamed.
///
/// # Errors
/// Those of `write`, and when the directory cannot be written to or is full; nothing is
/// left behind.
pub fn replace<T, E: From<Error>>(
    path: &Path,
    write: impl FnOnce(&Path) -> std::result::Result<T, E>,
) -> std::result::Result<T, E> {
    let directory = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    let create = || {
        std::fs::create_dir_all(directory)?;
        remove_abandoned(directory);
        tempfile::Builder::new()
            .prefix(&prefix())
            .suffix(".tmp")
            .tempfile_in(directory)
    };
    let temporary = create().map_err(|e| Error::write(path, e))?;
    let written = write(temporary.path())?;
    let rename = || {
        readable_by_all(temporary.path(), 0o644)?;
        temporary.as_file().sync_all()?;
        temporary.persist(path).map_err(|e| e.error)
    };
    rename().map_err(|e| Error::write(path, e))?;
    Ok(written)
}

/// How the names of temporary files and directories begin.
pub const TEMPORARY: &str = ".reptune-";

fn prefix() -> String {
    format!("{TEMPORARY}{}-", ProcessId::current().tag())
}

/// A directory in `parent` that is removed when the returned value is dropped, or, if this
/// process is killed, by the next one that writes there.
///
/// # Errors
/// When `parent` cannot be written to.
pub fn temporary_directory(parent: &Path) -> Result<tempfile::TempDir> {
    remove_abandoned(parent);
    let made = tempfile::Builder::new()
        .prefix(&prefix())
        .tempdir_in(parent);
    made.map_err(|e| Error::write(parent, e))
}

/// Removes the temporary files and directories in `directory` whose process has ended.
pub fn remove_abandoned(directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let tag = name.to_str().and_then(|name| name.strip_prefix(TEMPORARY));
        if tag
            .and_then(ProcessId::of_tag)
            .is_some_and(|p| p.has_ended())
        {
            // one that somebody else removes, or that may not be removed, is no failure
            let _ = match entry.file_type().is_ok_and(|t| t.is_dir()) {
                true => std::fs::remove_dir_all(entry.path()),
                false => std::fs::remove_file(entry.path()),
            };
        }
    }
}

/// Temporary files and directories are private to their owner; final ones are ordinary.
fn readable_by_all(path: &Path, mode: u32) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    }
    let _ = (path, mode);
    Ok(())
}

/// Reads a whole file.
///
/// # Errors
/// When it cannot be read.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| Error::read(path, e))
}

/// SHA-256 of `parts`, one after the other, in hex.
pub fn sha256<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    format!("{:x}", hash.finalize())
}

/// A directory that is being written, under a temporary name next to its final one.
///
/// Dropped without [`Staging::commit`] it leaves nothing behind.
#[derive(Debug)]
pub struct Staging {
    /// As the user gave it.
    given: PathBuf,
    out: PathBuf,
    /// Whether a directory with files is to make room.
    replaces: bool,
    directory: tempfile::TempDir,
}

impl Staging {
    /// Starts a directory that is to become `out`.
    ///
    /// # Errors
    /// When `out` is a file or holds anything, or its parent cannot be written to.
    pub fn new(out: &Path) -> Result<Self> {
        Self::replacing(out, |_| false)
    }

    /// Starts a directory that is to become `out`, in place of one that stands there and is
    /// `replaceable`.
    ///
    /// # Errors
    /// When `out` is a file or a directory that holds anything else, or its parent cannot be
    /// written to.
    pub fn replacing(out: &Path, replaceable: impl FnOnce(&Path) -> bool) -> Result<Self> {
        let io = |e| Error::write(out, e);
        let full = std::path::absolute(out).map_err(io)?;
        let parent = full.parent().unwrap_or(Path::new("/"));
        remove_abandoned(parent);
        let entries = std::fs::read_dir(&full).map(|mut entries| entries.next().is_some());
        let replaces = entries.as_ref().is_ok_and(|any| *any) && replaceable(&full);
        let taken = match entries {
            Ok(any) => (any && !replaces).then_some("a directory with files in it"),
            Err(_) => full.exists().then_some("a file"),
        };
        if let Some(found) = taken {
            let (place, expected) = ("output directory", "a new name or an empty directory");
            let hint = "choose another name, or remove this one first";
            return Err(Error::content(out, place, expected, found, hint));
        }
        std::fs::create_dir_all(parent).map_err(io)?;
        Ok(Self {
            given: out.to_owned(),
            replaces,
            directory: temporary_directory(parent).map_err(|e| match e {
                Error::Write { reason, .. } => io(reason),
                other => other,
            })?,
            out: full,
        })
    }

    /// Where to write.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The name that a file written here will have, for messages.
    pub fn shown(&self, file: &Path) -> PathBuf {
        self.given.join(file.file_name().unwrap_or_default())
    }

    /// Copies the content of `file` under the same name; returns the copy.
    ///
    /// Not its permissions: what lies in a cache is often read-only.
    ///
    /// # Errors
    /// When `file` cannot be read, or the disk is full.
    pub fn copy(&self, file: &Path) -> Result<PathBuf> {
        self.copy_as(file, file.file_name().unwrap_or_default())
    }

    /// The same under another name.
    ///
    /// # Errors
    /// Those of [`Staging::copy`].
    pub fn copy_as(&self, file: &Path, name: impl AsRef<Path>) -> Result<PathBuf> {
        let copy = self.path().join(name);
        let mut from = File::open(file).map_err(|e| Error::read(file, e))?;
        let mut attempt = || std::io::copy(&mut from, &mut File::create(&copy)?);
        attempt().map_err(|e| Error::write(self.shown(&copy), e))?;
        Ok(copy)
    }

    /// `error` with the name that its file will have.
    pub fn named(&self, error: Error) -> Error {
        match error {
            Error::Write { path, reason } if path.starts_with(self.path()) => {
                Error::write(self.shown(&path), reason)
            }
            other => other,
        }
    }

    /// Syncs what was written and gives the directory its name.
    ///
    /// # Errors
    /// When `out` was to be new and holds files by now, or the disk fails; `out` is then as it
    /// was, and nothing else is left behind.
    pub fn commit(self) -> Result<()> {
        let (out, directory) = (&self.out, self.directory.path());
        let mut earlier = None;
        if self.replaces {
            let parent = out.parent().unwrap_or(Path::new("/"));
            let aside = temporary_directory(parent)?;
            std::fs::rename(out, aside.path().join("earlier")).map_err(|e| Error::write(out, e))?;
            earlier = Some(aside);
        }
        let attempt = || -> std::io::Result<()> {
            for entry in std::fs::read_dir(directory)? {
                File::open(entry?.path())?.sync_all()?;
            }
            readable_by_all(directory, 0o755)?;
            if out.exists() {
                std::fs::remove_dir(out)?;
            }
            std::fs::rename(directory, out)?;
            match out.parent() {
                Some(parent) if cfg!(unix) => File::open(parent)?.sync_all(),
                _ => Ok(()),
            }
        };
        if let Err(e) = attempt() {
            if let Some(earlier) = earlier {
                let _ = std::fs::rename(earlier.path().join("earlier"), out);
            }
            return Err(Error::write(out, e));
        }
        let _ = self.directory.keep(); // it has moved: nothing to remove
        Ok(())
    }
}

#[cfg(test)]
mod tests;
