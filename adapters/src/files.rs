//! Files and directories, written whole or not at all, and hashes: the only place that
//! renames and syncs.

use crate::error::{Error, Result};
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
        tempfile::Builder::new()
            .prefix(".reptune-")
            .suffix(".tmp")
            .tempfile_in(directory)
    };
    let temporary = create().map_err(|e| Error::write(path, e))?;
    let written = write(temporary.path())?;
    let rename = || {
        temporary.as_file().sync_all()?;
        temporary.persist(path).map_err(|e| e.error)?;
        readable_by_all(path, 0o644)
    };
    rename().map_err(|e| Error::write(path, e))?;
    Ok(written)
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
    directory: tempfile::TempDir,
}

impl Staging {
    /// Starts a directory that is to become `out`.
    ///
    /// # Errors
    /// When `out` is a file or holds anything, or its parent cannot be written to.
    pub fn new(out: &Path) -> Result<Self> {
        let io = |e| Error::write(out, e);
        let full = std::path::absolute(out).map_err(io)?;
        let taken = match std::fs::read_dir(&full) {
            Ok(mut entries) => entries.next().map(|_| "a directory with files in it"),
            Err(_) => full.exists().then_some("a file"),
        };
        if let Some(found) = taken {
            let (place, expected) = ("output directory", "a new name or an empty directory");
            let hint = "choose another name, or remove this one first";
            return Err(Error::content(out, place, expected, found, hint));
        }
        let parent = full.parent().unwrap_or(Path::new("/"));
        std::fs::create_dir_all(parent).map_err(io)?;
        let directory = tempfile::Builder::new()
            .prefix(".reptune-")
            .tempdir_in(parent)
            .map_err(io)?;
        Ok(Self {
            given: out.to_owned(),
            out: full,
            directory,
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

    /// Syncs what was written and gives the directory its name.
    ///
    /// # Errors
    /// When `out` holds files by now, or the disk fails; nothing is left behind.
    pub fn commit(self) -> Result<()> {
        let (out, directory) = (&self.out, self.directory.path());
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
        attempt().map_err(|e| Error::write(out, e))?;
        let _ = self.directory.keep(); // it has moved: nothing to remove
        Ok(())
    }
}

#[cfg(test)]
mod tests;
