//! f32 tensors and metadata as one safetensors file, for what is small enough to be in memory.

use super::safetensors::{TensorFile, sort_metadata};
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

/// SHA-256 of the names, shapes and data of all tensors, and of all metadata but
/// [`CONTENT_HASH`] itself.
pub fn content_hash(
    tables: &BTreeMap<String, Table>,
    metadata: &HashMap<String, String>,
) -> String {
    hash(tables, metadata, |name, table| {
        format!("{name} {:?}\n", table.shape)
    })
}

/// [`content_hash`] without shapes, as direction files have it: their tensors are vectors.
pub(crate) fn content_hash_of_vectors(
    tables: &BTreeMap<String, Table>,
    metadata: &HashMap<String, String>,
) -> String {
    hash(tables, metadata, |name, _| name.to_owned())
}

fn hash(
    tables: &BTreeMap<String, Table>,
    metadata: &HashMap<String, String>,
    head: impl Fn(&str, &Table) -> String,
) -> String {
    let mut hash = Sha256::new();
    for (name, table) in tables {
        hash.update(head(name, table));
        for x in &table.data {
            hash.update(x.to_le_bytes());
        }
    }
    let others = metadata.iter().filter(|(k, _)| *k != CONTENT_HASH);
    for (key, value) in others.collect::<BTreeMap<_, _>>() {
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
    let bytes = |t: &Table| t.data.iter().flat_map(|x| x.to_le_bytes()).collect();
    let bytes: Vec<Vec<u8>> = tables.values().map(bytes).collect();
    let views = tables.iter().zip(&bytes).map(|((name, t), bytes)| {
        let view = TensorView::new(Dtype::F32, t.shape.clone(), bytes);
        view.map(|view| (name, view))
    });
    let file = views
        .collect::<std::result::Result<Vec<_>, _>>()
        .and_then(|views| safetensors::serialize(views, Some(metadata)));
    let mut file = file.map_err(|e| {
        let (expected, hint) = ("shapes that fit their data", "this is a bug in the writer");
        Error::content(path, "header", expected, e.to_string(), hint)
    })?;
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
