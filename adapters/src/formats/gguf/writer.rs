//! Writes GGUF, version 3, whole or not at all.

use super::dtype;
use super::layout::{ALIGNMENT, ARCHITECTURE, LONGEST_NAME, MAGIC, MOST_DIMS, USUAL_ALIGNMENT};
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
        let architecture = Value::String(architecture.to_owned());
        Self {
            metadata: vec![(ARCHITECTURE.to_owned(), architecture)],
            tensors: Vec::new(),
        }
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
        let needed = dtype::bytes(dtype, shape).filter(|n| *n > 0);
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
            put_text(&mut header, key);
            header.extend(kind(value).to_le_bytes());
            put(&mut header, key, value)?;
        }
        let alignment = match self.metadata.iter().find(|(k, _)| k == ALIGNMENT) {
            Some((_, Value::U32(n))) if n.is_power_of_two() => u64::from(*n),
            None => USUAL_ALIGNMENT,
            Some((_, other)) => {
                let expected = "a power of two, as U32";
                let hint = "leave it out";
                return Err(Error::value(
                    ALIGNMENT,
                    expected,
                    format!("{other:?}"),
                    hint,
                ));
            }
        };
        let padding = |length: u64| vec![0; (length.next_multiple_of(alignment) - length) as usize];
        let mut offset = 0u64;
        for t in &self.tensors {
            put_text(&mut header, &t.name);
            header.extend((t.shape.len() as u32).to_le_bytes());
            for dim in t.shape.iter().rev() {
                header.extend((*dim as u64).to_le_bytes());
            }
            header.extend(dtype::number(t.dtype).to_le_bytes());
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

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put(out: &mut Vec<u8>, key: &str, value: &Value) -> Result<()> {
    match value {
        Value::U8(x) => out.push(*x),
        Value::I8(x) => out.extend(x.to_le_bytes()),
        Value::U16(x) => out.extend(x.to_le_bytes()),
        Value::I16(x) => out.extend(x.to_le_bytes()),
        Value::U32(x) => out.extend(x.to_le_bytes()),
        Value::I32(x) => out.extend(x.to_le_bytes()),
        Value::U64(x) => out.extend(x.to_le_bytes()),
        Value::I64(x) => out.extend(x.to_le_bytes()),
        Value::F32(x) => out.extend(x.to_le_bytes()),
        Value::F64(x) => out.extend(x.to_le_bytes()),
        Value::Bool(x) => out.push(u8::from(*x)),
        Value::String(text) => put_text(out, text),
        Value::Array(list) => {
            let first = list.first().map_or(kind(&Value::U32(0)), kind);
            if list.iter().any(|v| kind(v) != first) {
                let what = format!("metadata `{key}` of a GGUF file");
                let hint = "all values of a list have one type";
                return Err(Error::value(what, "values of one type", "several", hint));
            }
            out.extend(first.to_le_bytes());
            out.extend((list.len() as u64).to_le_bytes());
            for value in list {
                put(out, key, value)?;
            }
        }
    }
    Ok(())
}
