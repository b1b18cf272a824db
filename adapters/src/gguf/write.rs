//! Writing small files: control vectors and adapters.

use super::{ALIGNMENT, GgmlDType, MAGIC, TYPES, Value};
use crate::artefact;
use crate::error::{Error, Result};
use std::path::Path;

/// A GGUF in memory, version 3.
#[derive(Debug, Clone, Default)]
pub struct GgufWriter {
    metadata: Vec<(String, Value)>,
    tensors: Vec<(String, GgmlDType, Vec<usize>, Vec<u8>)>,
}

impl GgufWriter {
    /// Adds a value.
    pub fn value(&mut self, key: &str, value: Value) {
        self.metadata.push((key.to_owned(), value));
    }

    /// Adds a text.
    pub fn text(&mut self, key: &str, text: impl Into<String>) {
        self.value(key, Value::String(text.into()));
    }

    /// Adds a tensor of f32; `shape` has rows first.
    pub fn floats(&mut self, name: &str, shape: &[usize], floats: &[f32]) {
        let bytes = floats.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.tensor(name, GgmlDType::F32, shape, bytes);
    }

    /// Adds a tensor whose blocks are `bytes`; `shape` has rows first.
    pub fn tensor(&mut self, name: &str, dtype: GgmlDType, shape: &[usize], bytes: Vec<u8>) {
        let tensor = (name.to_owned(), dtype, shape.to_vec(), bytes);
        self.tensors.push(tensor);
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// When a tensor's bytes do not fit its shape, or the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            text(&mut bytes, key);
            bytes.extend(kind(value).to_le_bytes());
            content(&mut bytes, value);
        }
        let mut offset = 0u64;
        for (name, dtype, shape, data) in &self.tensors {
            let elements: usize = shape.iter().product();
            let expected = elements / dtype.block_size() * dtype.type_size();
            if data.len() != expected || !elements.is_multiple_of(dtype.block_size()) {
                return Err(Error::value(
                    format!("tensor `{name}`"),
                    format!("{expected} bytes for shape {shape:?}"),
                    data.len().to_string(),
                    "write what the shape takes",
                ));
            }
            text(&mut bytes, name);
            bytes.extend((shape.len() as u32).to_le_bytes());
            for dim in shape.iter().rev() {
                bytes.extend((*dim as u64).to_le_bytes());
            }
            let number = TYPES
                .iter()
                .find(|(_, t)| t == dtype)
                .map_or(0, |(n, _)| *n);
            bytes.extend(number.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
            offset = (offset + data.len() as u64).next_multiple_of(ALIGNMENT);
        }
        let pad = |bytes: &mut Vec<u8>| {
            let whole = bytes.len().next_multiple_of(ALIGNMENT as usize);
            bytes.resize(whole, 0);
        };
        for (_, _, _, data) in &self.tensors {
            pad(&mut bytes);
            bytes.extend(data);
        }
        pad(&mut bytes);
        artefact::write_atomically(path, |w| w.write_all(&bytes))
    }
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

fn kind(value: &Value) -> u32 {
    match value {
        Value::U8(_) => 0,
        Value::I8(_) => 1,
        Value::U16(_) => 2,
        Value::I16(_) => 3,
        Value::U32(_) => 4,
        Value::I32(_) => 5,
        Value::F32(_) => 6,
        Value::Bool(_) => 7,
        Value::String(_) => 8,
        Value::Array(_) => 9,
        Value::U64(_) => 10,
        Value::I64(_) => 11,
        Value::F64(_) => 12,
    }
}

fn content(bytes: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(x) => bytes.push(*x),
        Value::I8(x) => bytes.extend(x.to_le_bytes()),
        Value::U16(x) => bytes.extend(x.to_le_bytes()),
        Value::I16(x) => bytes.extend(x.to_le_bytes()),
        Value::U32(x) => bytes.extend(x.to_le_bytes()),
        Value::I32(x) => bytes.extend(x.to_le_bytes()),
        Value::F32(x) => bytes.extend(x.to_le_bytes()),
        Value::Bool(x) => bytes.push(u8::from(*x)),
        Value::String(x) => text(bytes, x),
        Value::U64(x) => bytes.extend(x.to_le_bytes()),
        Value::I64(x) => bytes.extend(x.to_le_bytes()),
        Value::F64(x) => bytes.extend(x.to_le_bytes()),
        Value::Array(list) => {
            bytes.extend(list.first().map_or(0, kind).to_le_bytes());
            bytes.extend((list.len() as u64).to_le_bytes());
            list.iter().for_each(|x| content(bytes, x));
        }
    }
}
