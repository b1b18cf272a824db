//! f32 tensors and metadata as one safetensors file, for what is small enough to be in memory.

use super::safetensors::TensorFile;
use crate::error::{Error, Result};
use crate::files::{hex, write_atomically};
use safetensors::{Dtype, tensor::TensorView};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// An f32 tensor with its shape, as it stands in a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// Shape.
    pub shape: Vec<usize>,
    /// Data, row-major.
    pub data: Vec<f32>,
}

/// Metadata key of the [`content_hash`] of a file.
pub const CONTENT_HASH: &str = "content_sha256";

/// SHA-256 of all tensors and of all metadata but [`CONTENT_HASH`] itself.
pub fn content_hash(
    tables: &BTreeMap<String, Table>,
    metadata: &HashMap<String, String>,
) -> String {
    let mut hash = Sha256::new();
    for (name, table) in tables {
        hash.update(format!("{name} {:?}\n", table.shape));
        for x in &table.data {
            hash.update(x.to_le_bytes());
        }
    }
    let sorted: BTreeMap<_, _> = metadata
        .iter()
        .filter(|(k, _)| *k != CONTENT_HASH)
        .collect();
    for (key, value) in sorted {
        hash.update(format!("{key}={value}\n"));
    }
    hex(&hash.finalize())
}

/// Writes f32 tensors and metadata as safetensors, atomically.
///
/// # Errors
/// When a shape and its data differ, or the file cannot be written.
pub fn write_tables(
    path: &Path,
    tables: &BTreeMap<String, Table>,
    metadata: HashMap<String, String>,
) -> Result<()> {
    let bytes: Vec<(&String, &Table, Vec<u8>)> = tables
        .iter()
        .map(|(name, t)| {
            (
                name,
                t,
                t.data.iter().flat_map(|x| x.to_le_bytes()).collect(),
            )
        })
        .collect();
    let views = bytes
        .iter()
        .map(|(name, t, b)| {
            Ok((
                name.as_str(),
                TensorView::new(Dtype::F32, t.shape.clone(), b)?,
            ))
        })
        .collect::<std::result::Result<Vec<_>, safetensors::SafeTensorError>>()
        .map_err(|e| broken(path, &e))?;
    let mut file = safetensors::serialize(views, Some(metadata)).map_err(|e| broken(path, &e))?;
    sort_metadata(&mut file);
    write_atomically(path, |w| w.write_all(&file))
}

/// Reads all tensors (f32 only) and the metadata of a safetensors file.
///
/// # Errors
/// When it is not safetensors, truncated, or holds another dtype.
pub fn read_tables(path: &Path) -> Result<(BTreeMap<String, Table>, HashMap<String, String>)> {
    let file = TensorFile::open(path)?;
    let mut tables = BTreeMap::new();
    for name in file.names() {
        let Some(info) = file.info(&name) else {
            continue;
        };
        if info.dtype != Dtype::F32 {
            return Err(Error::content(
                path,
                format!("tensor `{name}`"),
                "dtype F32",
                format!("{:?}", info.dtype),
                "convert the file to float32",
            ));
        }
        let (shape, bytes) = (info.shape.clone(), file.bytes(&name)?);
        let (words, _) = bytes.as_chunks::<4>();
        let data = words.iter().map(|w| f32::from_le_bytes(*w)).collect();
        tables.insert(name, Table { shape, data });
    }
    Ok((tables, file.metadata().into_iter().collect()))
}

/// A safetensors file that cannot be parsed, as an [`Error::Content`].
pub fn broken(path: &Path, source: &safetensors::SafeTensorError) -> Error {
    Error::content(
        path,
        "header",
        "a complete safetensors file",
        source.to_string(),
        "the file may be truncated; fetch or write it again",
    )
}

/// safetensors writes metadata in the order of a hash map; sorting the keys in
/// place makes the bytes the same from run to run.
pub fn sort_metadata(file: &mut [u8]) {
    let Some((length, rest)) = file.split_first_chunk_mut::<8>() else {
        return;
    };
    let header = &mut rest[..u64::from_le_bytes(*length) as usize];
    let Ok(mut json) = serde_json::from_slice::<serde_json::Value>(header) else {
        return;
    };
    if let Some(metadata) = json.get_mut("__metadata__").and_then(|m| m.as_object_mut()) {
        metadata.sort_keys();
    }
    let mut sorted = json.to_string().into_bytes();
    if sorted.len() <= header.len() {
        sorted.resize(header.len(), b' ');
        header.copy_from_slice(&sorted);
    }
}
