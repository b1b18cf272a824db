//! Changing a few bytes of a large file in place: all of them or none.
//!
//! What is to be written is put beside the file first, as a whole (the *redo* file), then
//! into it. Cut off in between, the next [`recover`] does it again; cut off before, the file
//! is what it was. A lock on the file keeps two writers apart.

use crate::error::{Error, Result};
use crate::files;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

const MAGIC: &[u8] = b"reptune redo 1\n";

/// Bytes that are to stand at an offset of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patch {
    /// From the start of the file.
    pub offset: u64,
    /// What is to stand there.
    pub bytes: Vec<u8>,
}

/// Puts what `patches` makes of the file at `path` into it; it is handed the file as it is
/// once no other writer is at work.
///
/// # Errors
/// When `patches` fails, a patch reaches beyond the end, or the disk fails; a patch that
/// was begun is finished by [`recover`].
pub fn apply<E: From<Error>>(
    path: &Path,
    patches: impl FnOnce() -> std::result::Result<Vec<Patch>, E>,
) -> std::result::Result<(), E> {
    let file = locked(path)?;
    redo(path, &file)?;
    let patches = patches()?;
    let length = file.metadata().map_err(|e| Error::read(path, e))?.len();
    check(path, &patches, length)?;
    let body = encode(&patches);
    files::write_atomically(&redo_file(path), |w| {
        w.write_all(MAGIC)?;
        w.write_all(files::sha256([body.as_slice()]).as_bytes())?;
        w.write_all(&body)
    })?;
    Ok(redo(path, &file)?)
}

/// Finishes a patch of `path` that was cut off, if there is one.
///
/// # Errors
/// When the redo file is damaged, or the disk fails.
pub fn recover(path: &Path) -> Result<()> {
    if !redo_file(path).exists() {
        return Ok(());
    }
    redo(path, &locked(path)?)
}

fn redo_file(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.redo"))
}

fn locked(path: &Path) -> Result<File> {
    let open = || {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        file.lock()?;
        Ok(file)
    };
    open().map_err(|e| Error::write(path, e))
}

/// Writes what the redo file says, and removes it.
fn redo(path: &Path, file: &File) -> Result<()> {
    let from = redo_file(path);
    if !from.exists() {
        return Ok(());
    }
    let bytes = files::read(&from)?;
    let damaged = || {
        Error::content(
            &from,
            "file",
            "patches with their hash",
            format!("{} other bytes", bytes.len()),
            format!("remove it, and write {} anew", path.display()),
        )
    };
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(damaged)?;
    let (hash, body) = rest.split_at_checked(64).ok_or_else(damaged)?;
    if files::sha256([body]).as_bytes() != hash {
        return Err(damaged());
    }
    let patches = decode(body).ok_or_else(damaged)?;
    let length = file.metadata().map_err(|e| Error::read(path, e))?.len();
    check(path, &patches, length)?;
    let mut file = file;
    let mut write = || {
        for patch in &patches {
            file.seek(SeekFrom::Start(patch.offset))?;
            file.write_all(&patch.bytes)?;
        }
        file.sync_data()?;
        std::fs::remove_file(&from)
    };
    write().map_err(|e| Error::write(path, e))
}

fn check(path: &Path, patches: &[Patch], length: u64) -> Result<()> {
    let end = |p: &Patch| p.offset.saturating_add(p.bytes.len() as u64);
    match patches.iter().find(|p| end(p) > length) {
        None => Ok(()),
        Some(p) => Err(Error::content(
            path,
            format!("byte {}", p.offset),
            format!("{} bytes to write over", p.bytes.len()),
            format!("a file of {length} bytes"),
            "the file was changed meanwhile; write it anew",
        )),
    }
}

fn encode(patches: &[Patch]) -> Vec<u8> {
    let mut body = Vec::new();
    for patch in patches {
        body.extend(patch.offset.to_le_bytes());
        body.extend((patch.bytes.len() as u64).to_le_bytes());
        body.extend(&patch.bytes);
    }
    body
}

fn decode(mut body: &[u8]) -> Option<Vec<Patch>> {
    let mut patches = Vec::new();
    while !body.is_empty() {
        let (offset, rest) = body.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
        let (bytes, rest) = rest.split_at_checked(length)?;
        patches.push(Patch {
            offset: u64::from_le_bytes(*offset),
            bytes: bytes.to_vec(),
        });
        body = rest;
    }
    Some(patches)
}

#[cfg(test)]
mod tests;
