//! Writes GGUF, version 3, whole or not at all.

use super::layout::{self, ALIGNMENT, LONGEST_NAME, MAGIC, MOST_DIMS};
use crate::error::{Error, Result};
use crate::files;
use candle_core::quantized::{GgmlDType, gguf_file::Value};
use std::path::Path;

struct Stored {
    name: String,
    dtype: GgmlDType,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// Builds a GGUF file; pairs and tensors are written in the order in which they were added.
pub struct GgufWriter {
    metadata: Vec<(String, Value)>,
    tensors: Vec<Stored>,
}

impl GgufWriter {
    /// A file for `architecture`, without tensors.
    pub fn new(architecture: &str) -> Self {
        let (metadata, tensors) = (Vec::new(), Vec::new());
        let mut file = Self { metadata, tensors };
        file.text("general.architecture", architecture);
        file
    }

    /// Sets a value of the metadata, or replaces it.
    pub fn set(&mut self, key: &str, value: Value) -> &mut Self {
        match self.metadata.iter_mut().find(|(k, _)| k == key) {
            Some((_, old)) => *old = value,
            None => self.metadata.push((key.to_owned(), value)),
        }
        self
    }

    /// [`GgufWriter::set`] of a text.
    pub fn text(&mut self, key: &str, text: impl Into<String>) -> &mut Self {
        self.set(key, Value::String(text.into()))
    }

    /// Adds a tensor of floats; `shape` is row-major.
    ///
    /// # Errors
    /// As [`GgufWriter::tensor`].
    pub fn floats(&mut self, name: &str, shape: &[usize], data: &[f32]) -> Result<&mut Self> {
        let bytes = data.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.tensor(name, GgmlDType::F32, shape, bytes)
    }

    /// Adds a tensor of any type, by its blocks as they stand in a file; `shape` is row-major.
    ///
    /// # Errors
    /// When the name is taken or longer than llama.cpp reads, or bytes and shape differ.
    pub fn tensor(
        &mut self,
        name: &str,
        dtype: GgmlDType,
        shape: &[usize],
        bytes: Vec<u8>,
    ) -> Result<&mut Self> {
        let what = format!("tensor `{name}` of a GGUF file");
        if name.len() > LONGEST_NAME || self.tensors.iter().any(|t| t.name == name) {
            let expected = format!("a new name of at most {LONGEST_NAME} bytes");
            let found = format!("a name of {} bytes, or one in use", name.len());
            return Err(Error::value(what, expected, found, "choose another name"));
        }
        let needed = layout::bytes(dtype, shape).filter(|n| *n > 0);
        if shape.len() > MOST_DIMS || needed != Some(bytes.len() as u64) {
            let expected = format!("the bytes of {shape:?} in {dtype:?}, at most {MOST_DIMS} dims");
            let found = format!("{} bytes", bytes.len());
            let hint = "rows must be whole blocks, and no dim 0";
            return Err(Error::value(what, expected, found, hint));
        }
        self.tensors.push(Stored {
            name: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
            bytes,
        });
        Ok(self)
    }

    /// Writes the file; returns its length.
    ///
    /// # Errors
    /// When a list holds values of several types, or the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<u64> {
        let mut header = MAGIC.to_vec();
        header.extend(3u32.to_le_bytes());
        header.extend((self.tensors.len() as u64).to_le_bytes());
        header.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            header.extend(text(key));
            let (kind, bytes) = encoded(key, value)?;
            header.extend(kind.to_le_bytes());
            header.extend(bytes);
        }
        let stated = self.metadata.iter().find(|(k, _)| k == ALIGNMENT);
        let alignment = layout::alignment(stated.map(|(_, value)| value)).map_err(|other| {
            let (expected, found) = ("a power of two, as U32", format!("{other:?}"));
            Error::value(ALIGNMENT, expected, found, "leave it out")
        })?;
        let padding = |length: u64| vec![0; (length.next_multiple_of(alignment) - length) as usize];
        let mut offset = 0u64;
        for t in &self.tensors {
            header.extend(text(&t.name));
            header.extend((t.shape.len() as u32).to_le_bytes());
            for dim in t.shape.iter().rev() {
                header.extend((*dim as u64).to_le_bytes());
            }
            header.extend(layout::number_of(t.dtype).to_le_bytes());
            header.extend(offset.to_le_bytes());
            offset += (t.bytes.len() as u64).next_multiple_of(alignment);
        }
        header.extend(padding(header.len() as u64));
        files::write_atomically(path, |file| {
            file.write_all(&header)?;
            self.tensors.iter().try_for_each(|t| {
                file.write_all(&t.bytes)?;
                file.write_all(&padding(t.bytes.len() as u64))
            })
        })?;
        Ok(header.len() as u64 + offset)
    }
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// The number of the type of the value of `key`, and its bytes.
fn encoded(key: &str, value: &Value) -> Result<(u32, Vec<u8>)> {
    Ok(match value {
        Value::U8(x) => (0, x.to_le_bytes().to_vec()),
        Value::I8(x) => (1, x.to_le_bytes().to_vec()),
        Value::U16(x) => (2, x.to_le_bytes().to_vec()),
        Value::I16(x) => (3, x.to_le_bytes().to_vec()),
        Value::U32(x) => (4, x.to_le_bytes().to_vec()),
        Value::I32(x) => (5, x.to_le_bytes().to_vec()),
        Value::F32(x) => (6, x.to_le_bytes().to_vec()),
        Value::Bool(x) => (7, vec![u8::from(*x)]),
        Value::String(x) => (8, text(x)),
        Value::Array(list) => {
            let each = list.iter().map(|value| encoded(key, value));
            let (kinds, values): (Vec<_>, Vec<_>) = each.collect::<Result<_>>()?;
            let kind = kinds.first().copied().unwrap_or(4);
            if kinds.iter().any(|k| *k != kind) {
                let what = format!("metadata `{key}` of a GGUF file");
                let hint = "all values of a list have one type";
                return Err(Error::value(what, "values of one type", "several", hint));
            }
            let length = (list.len() as u64).to_le_bytes();
            let bytes = [&kind.to_le_bytes()[..], &length, &values.concat()].concat();
            (9, bytes)
        }
        Value::U64(x) => (10, x.to_le_bytes().to_vec()),
        Value::I64(x) => (11, x.to_le_bytes().to_vec()),
        Value::F64(x) => (12, x.to_le_bytes().to_vec()),
    })
}
