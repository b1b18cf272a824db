//! Containers: safetensors and GGUF, one reader and one writer each. Hostile input is refused.

pub mod gguf;
pub mod safetensors;
pub mod tables;

use crate::error::{Error, Result};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// The bytes of an open file at a place: offset and length.
fn read_at((path, mut file): (&Path, &File), (from, length): (u64, usize)) -> Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let read = file.seek(SeekFrom::Start(from));
    let read = read.and_then(|_| file.read_exact(&mut bytes));
    read.map_err(|e| Error::read(path, e))?;
    Ok(bytes)
}

/// Numbers of 4 bytes, little-endian.
pub(crate) fn floats(bytes: &[u8]) -> Vec<f32> {
    let (words, _) = bytes.as_chunks::<4>();
    words.iter().map(|w| f32::from_le_bytes(*w)).collect()
}
