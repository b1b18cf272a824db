//! Files and directories, written whole or not at all, and hashes: the only place that
//! renames and syncs.

use crate::error::{Error, Result};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Writes a temporary file next to `path`, syncs and renames it, so that a reader sees the
/// old file or the new one, never a part.
///
/// # Errors
/// When the directory cannot be written to or is full; nothing is left behind.
pub fn write_atomically(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<()> {
    let directory = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    let attempt = || -> std::io::Result<()> {
        std::fs::create_dir_all(directory)?;
        let mut temporary = tempfile::Builder::new()
            .prefix(".reptune-")
            .suffix(".tmp")
            .tempfile_in(directory)?;
        let mut buffered = std::io::BufWriter::new(temporary.as_file_mut());
        fill(&mut buffered)?;
        buffered.flush()?;
        drop(buffered);
        temporary.as_file().sync_all()?;
        let file = temporary.persist(path).map_err(|e| e.error)?;
        readable_by_all(&file)
    };
    attempt().map_err(|e| Error::write(path, e))
}

/// Temporary files are private to their owner; the final file is an ordinary one.
fn readable_by_all(file: &std::fs::File) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
    }
    let _ = file;
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
    hex(&hash.finalize())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, b| {
        let _ = write!(hex, "{b:02x}");
        hex
    })
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
        let attempt = || -> std::io::Result<(PathBuf, Option<&str>)> {
            let out = std::path::absolute(out)?;
            let taken = match std::fs::read_dir(&out) {
                Ok(mut entries) => entries.next().map(|_| "a directory with files in it"),
                Err(_) if out.exists() => Some("a file"),
                Err(_) => None,
            };
            Ok((out, taken))
        };
        let io = |e| Error::write(out, e);
        let (out_path, taken) = attempt().map_err(io)?;
        if let Some(found) = taken {
            return Err(Error::content(
                out,
                "output directory",
                "a new name or an empty directory",
                found,
                "choose another name, or remove this one first",
            ));
        }
        let parent = out_path.parent().unwrap_or(Path::new("/"));
        std::fs::create_dir_all(parent).map_err(io)?;
        let directory = tempfile::Builder::new()
            .prefix(".reptune-")
            .tempdir_in(parent)
            .map_err(io)?;
        Ok(Self {
            given: out.to_owned(),
            out: out_path,
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
        let copy = self.path().join(file.file_name().unwrap_or_default());
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
            open_to_all(directory)?;
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

/// Temporary directories are private to their owner; the final one is ordinary.
fn open_to_all(directory: &Path) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755))?;
    }
    let _ = directory;
    Ok(())
}

#[cfg(test)]
mod tests;
