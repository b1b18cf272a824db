//! Directories as this project writes them: whole or not at all.

use crate::error::{Error, Result};
use std::fs::File;
use std::path::{Path, PathBuf};

/// A directory that is being written, under a temporary name beside its last one.
///
/// Dropped without [`Staging::commit`] it leaves nothing behind.
#[derive(Debug)]
pub struct Staging {
    /// As the user wrote it.
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
                "name another, or remove this one first",
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

    /// The name that a file written here will have: the one to tell the user.
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
    /// When `out` came to hold files meanwhile, or the disk fails; nothing is left behind then.
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

/// Temporary directories are private to their owner; what they become is an ordinary one.
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
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).expect("readable");
        entries
            .map(|e| e.expect("entry").file_name().to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn a_committed_directory_has_its_name_and_a_dropped_one_leaves_nothing() -> Result<()> {
        let room = tempfile::tempdir().expect("room");
        let out = room.path().join("deep/out");
        let staging = Staging::new(&out)?;
        std::fs::write(staging.path().join("a"), "1").expect("write");
        drop(staging);
        assert_eq!(names(&room.path().join("deep")), [""; 0]);
        std::fs::create_dir(&out).expect("an empty directory may stand there");
        let staging = Staging::new(&out)?;
        std::fs::write(staging.path().join("a"), "2").expect("write");
        staging.commit()?;
        assert_eq!(names(&room.path().join("deep")), ["out"]);
        assert_eq!(names(&out), ["a"]);
        Ok(())
    }

    #[test]
    fn what_stands_there_is_not_overwritten() {
        let room = tempfile::tempdir().expect("room");
        let file = room.path().join("file");
        std::fs::write(&file, "kept").expect("write");
        for (out, found) in [
            (room.path(), "a directory with files in it"),
            (&file, "a file"),
        ] {
            let message = Staging::new(out).expect_err(found).to_string();
            let name = out.display().to_string();
            assert!(
                message.contains(&name) && message.contains(found),
                "{message}"
            );
        }
        assert_eq!(std::fs::read_to_string(&file).expect("still there"), "kept");
    }
}
