//! f32 tensors and metadata as one safetensors file, for what is small enough to be in memory.

use super::floats;
use super::safetensors::{TensorFile, sort_metadata};
use crate::error::{Error, Result};
use crate::files::write_atomically;
use candle_core::{DType, Tensor};
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

impl Table {
    /// A tensor in f32.
    ///
    /// # Errors
    /// When it cannot be read from its device.
    pub fn of(tensor: &Tensor) -> Result<Self> {
        Ok(Self {
            shape: tensor.dims().to_vec(),
            data: tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?,
        })
    }
}

/// Tensors of a file by name.
pub type Tables = BTreeMap<String, Table>;

/// Metadata of a file.
pub type Metadata = HashMap<String, String>;

/// Metadata key of the [`content_hash`] of a file.
pub const CONTENT_HASH: &str = "content_sha256";

/// SHA-256 of the names, shapes and data of all tensors, and of all metadata but
/// [`CONTENT_HASH`] itself.
pub fn content_hash(tables: &Tables, metadata: &Metadata) -> String {
    hash(tables, metadata, |table| format!(" {:?}\n", table.shape))
}

/// [`content_hash`] without shapes, as direction files have it: their tensors are vectors.
pub(crate) fn content_hash_of_vectors(tables: &Tables, metadata: &Metadata) -> String {
    hash(tables, metadata, |_| String::new())
}

fn hash(tables: &Tables, metadata: &Metadata, shape: impl Fn(&Table) -> String) -> String {
    let mut hash = Sha256::new();
    for (name, table) in tables {
        hash.update(name.to_owned() + &shape(table));
        for x in &table.data {
            hash.update(x.to_le_bytes());
        }
    }
    let others = metadata.iter().filter(|(k, _)| *k != CONTENT_HASH);
    for (key, value) in others.collect::<BTreeMap<_, _>>() {
        hash.update(format!("{key}={value}\n"));
    }
    format!("{:x}", hash.finalize())
}

/// Refuses the file `path` unless its metadata has `expected` for `key`.
pub(crate) fn expect(
    (path, metadata): (&Path, &Metadata),
    key: &str,
    expected: &str,
    hint: &str,
) -> Result<()> {
    let found = metadata.get(key).map_or("", String::as_str);
    if found == expected {
        return Ok(());
    }
    let found = match found {
        "" => "nothing".to_owned(),
        found => format!("`{found}`"),
    };
    let (place, expected) = (format!("metadata `{key}`"), format!("`{expected}`"));
    Err(Error::content(path, place, expected, found, hint))
}

/// Writes f32 tensors and metadata as safetensors, atomically.
///
/// # Errors
/// When a shape and its data differ, or the file cannot be written.
pub fn write_tables(path: &Path, tables: &Tables, metadata: Metadata) -> Result<()> {
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
        Error::content(path, "header", expected, e.to_string(), hint).caused_by(e)
    })?;
    sort_metadata(&mut file);
    write_atomically(path, |w| w.write_all(&file))
}

/// Reads all tensors (f32 only) and the metadata of a safetensors file.
///
/// # Errors
/// When it is not safetensors, truncated, or holds another dtype.
pub fn read_tables(path: &Path) -> Result<(Tables, Metadata)> {
    let file = TensorFile::open(path)?;
    let mut tables = Tables::new();
    for name in file.names() {
        let Some(info) = file.info(&name) else {
            continue;
        };
        if info.dtype != Dtype::F32 {
            let (place, found) = (format!("tensor `{name}`"), format!("{:?}", info.dtype));
            let hint = "convert the file to float32";
            return Err(Error::content(path, place, "dtype F32", found, hint));
        }
        let (shape, data) = (info.shape.clone(), floats(&file.bytes(&name)?));
        tables.insert(name, Table { shape, data });
    }
    Ok((tables, file.metadata().into_iter().collect()))
}
