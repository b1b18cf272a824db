//! An open GGUF file.

use super::cursor::Cursor;
use super::dtype;
use super::layout::{ALIGNMENT, ARCHITECTURE, MAGIC, MOST_DIMS, USUAL_ALIGNMENT};
use crate::error::{Error, Result};
use candle_core::Device;
use candle_core::quantized::gguf_file::Value;
use candle_core::quantized::{GgmlDType, QTensor, ggml_file};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Where a tensor stands and what it is.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorInfo {
    /// Type of its numbers or blocks.
    pub dtype: GgmlDType,
    /// Shape, row-major: (O, I) of a linear layer.
    pub shape: Vec<usize>,
    /// First byte in the file.
    pub offset: u64,
    /// Bytes.
    pub length: usize,
}

/// An open GGUF file, of which only the header is in memory.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    file: File,
    version: u32,
    metadata: BTreeMap<String, Value>,
    tensors: BTreeMap<String, TensorInfo>,
}

impl Gguf {
    /// Whether the file at `path` can be read and starts as a GGUF file does.
    pub fn is_one(path: &Path) -> bool {
        let mut start = [0; MAGIC.len()];
        let read = File::open(path).and_then(|mut file| file.read_exact(&mut start));
        read.is_ok() && start == MAGIC
    }

    /// Reads the header of `path` (version 2 or 3, little-endian) and holds every extent in
    /// it against the file's length.
    ///
    /// # Errors
    /// When it is no GGUF file or truncated; when a key, tensor or byte is claimed twice;
    /// when a tensor has a type, shape or place that cannot be.
    pub fn open(path: &Path) -> Result<Self> {
        let io = |e| Error::read(path, e);
        let file = File::open(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        let mut cursor = Cursor::new(path, BufReader::new(&file), length);
        let (version, metadata, tensors) = header(&mut cursor)?;
        Ok(Self {
            path: path.to_owned(),
            version,
            metadata,
            tensors,
            file,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Version of the format, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// All metadata by key.
    pub fn metadata(&self) -> &BTreeMap<String, Value> {
        &self.metadata
    }

    /// All tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    /// A tensor's type, shape and place.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// A value of the metadata.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// What the file says it is for: `general.architecture`.
    ///
    /// # Errors
    /// When there is none, or it is no text.
    pub fn architecture(&self) -> Result<&str> {
        let text = self.text(ARCHITECTURE)?;
        text.ok_or_else(|| self.wrong_value(ARCHITECTURE, "a text"))
    }

    /// A text of the metadata, if there is one.
    ///
    /// # Errors
    /// When the value is no text.
    pub fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong_value(key, "a text")),
        }
    }

    /// A whole number of any type that is not negative, if there is one: writers differ in
    /// the type that they choose.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn whole(&self, key: &str) -> Result<Option<u64>> {
        let signed = |n: i64| u64::try_from(n).ok();
        let number = match self.value(key) {
            None => return Ok(None),
            Some(Value::U8(n)) => Some((*n).into()),
            Some(Value::U16(n)) => Some((*n).into()),
            Some(Value::U32(n)) => Some((*n).into()),
            Some(Value::U64(n)) => Some(*n),
            Some(Value::I8(n)) => signed((*n).into()),
            Some(Value::I16(n)) => signed((*n).into()),
            Some(Value::I32(n)) => signed((*n).into()),
            Some(Value::I64(n)) => signed(*n),
            Some(_) => None,
        };
        let number = number.ok_or_else(|| self.wrong_value(key, "a whole number, not negative"));
        number.map(Some)
    }

    /// A truth value, if there is one.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn truth(&self, key: &str) -> Result<Option<bool>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Bool(truth)) => Ok(Some(*truth)),
            Some(_) => Err(self.wrong_value(key, "a truth value")),
        }
    }

    /// A finite number, if there is one.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        let number = match self.value(key) {
            None => return Ok(None),
            Some(Value::F32(x)) => Some(f64::from(*x)),
            Some(Value::F64(x)) => Some(*x),
            Some(_) => None,
        };
        let finite = number.filter(|x| x.is_finite());
        finite
            .map(Some)
            .ok_or_else(|| self.wrong_value(key, "a finite number"))
    }

    fn wrong_value(&self, key: &str, expected: &str) -> Error {
        let found = self.value(key).map_or("nothing".to_owned(), said);
        self.wrong(format!("metadata `{key}`"), expected, found)
    }

    /// An [`Error::Content`] of this file.
    pub fn wrong(
        &self,
        place: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Error {
        let hint = "export the file again";
        Error::content(&self.path, place, expected, found, hint)
    }

    fn expect(&self, name: &str) -> Result<&TensorInfo> {
        let missing = || self.wrong(format!("tensor `{name}`"), "a tensor", "nothing");
        self.tensor(name).ok_or_else(missing)
    }

    /// Bytes of a tensor.
    ///
    /// # Errors
    /// When it is missing, or the disk fails.
    pub fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        let info = self.expect(name)?;
        let mut bytes = vec![0; info.length];
        let mut file = &self.file;
        file.seek(SeekFrom::Start(info.offset))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(|e| Error::read(&self.path, e))?;
        Ok(bytes)
    }

    /// The numbers of a tensor that is F32.
    ///
    /// # Errors
    /// When it is missing or of another type, or the disk fails.
    pub fn floats(&self, name: &str) -> Result<Vec<f32>> {
        let dtype = self.expect(name)?.dtype;
        if dtype != GgmlDType::F32 {
            return Err(self.wrong(format!("tensor `{name}`"), "type F32", format!("{dtype:?}")));
        }
        let bytes = self.bytes(name)?;
        let (words, _) = bytes.as_chunks::<4>();
        Ok(words.iter().map(|w| f32::from_le_bytes(*w)).collect())
    }

    /// A tensor of any type as candle computes with it.
    ///
    /// # Errors
    /// When it is missing, or candle does not take it.
    pub fn quantized(&self, name: &str, device: &Device) -> Result<QTensor> {
        let info = self.expect(name)?;
        let bytes = self.bytes(name)?;
        let shape = info.shape.clone();
        Ok(ggml_file::qtensor_from_ggml(
            info.dtype, &bytes, shape, device,
        )?)
    }
}

/// A value for a message: short, whatever it holds.
fn said(value: &Value) -> String {
    match value {
        Value::String(text) => format!("`{}`", text.chars().take(60).collect::<String>()),
        Value::Array(list) => format!("a list of {}", list.len()),
        other => format!("{other:?}"),
    }
}

type Header = (u32, BTreeMap<String, Value>, BTreeMap<String, TensorInfo>);

/// A tensor as the header tells of it: its offset is from the start of the data.
fn header<R: Read>(cursor: &mut Cursor<R>) -> Result<Header> {
    let magic: [u8; 4] = cursor.take("magic")?;
    if magic != MAGIC {
        let found = String::from_utf8_lossy(&magic).escape_debug().to_string();
        return Err(cursor.wrong("magic", "`GGUF`", format!("`{found}`")));
    }
    let version = cursor.u32("version")?;
    match version {
        2 | 3 => {}
        other if matches!(other.swap_bytes(), 2 | 3) => {
            return Err(cursor.wrong("version", "2 or 3", "a big-endian file"));
        }
        other => return Err(cursor.wrong("version", "2 or 3", other.to_string())),
    }
    // A tensor takes at least 24 bytes of header, a pair of key and value 13.
    let tensors = cursor.count("number of tensors", 24)?;
    let pairs = cursor.count("number of metadata pairs", 13)?;
    let mut metadata = BTreeMap::new();
    for i in 0..pairs {
        let key = cursor.name(&format!("key of metadata pair {i}"))?;
        let place = format!("metadata `{key}`");
        let kind = cursor.u32(&place)?;
        let value = cursor.value(&place, kind)?;
        if metadata.insert(key, value).is_some() {
            return Err(cursor.wrong(&place, "each key once", "it twice"));
        }
    }
    let mut infos = BTreeMap::new();
    for i in 0..tensors {
        let name = cursor.name(&format!("name of tensor {i}"))?;
        let place = format!("tensor `{name}`");
        let info = tensor(cursor, &place)?;
        if infos.insert(name, info).is_some() {
            return Err(cursor.wrong(&place, "each name once", "it twice"));
        }
    }
    let alignment = alignment(cursor, metadata.get(ALIGNMENT))?;
    place(cursor, &mut infos, alignment)?;
    Ok((version, metadata, infos))
}

fn tensor<R: Read>(cursor: &mut Cursor<R>, place: &str) -> Result<TensorInfo> {
    let dims = cursor.u32(place)?;
    if dims as usize > MOST_DIMS {
        return Err(cursor.wrong(place, format!("at most {MOST_DIMS} dims"), dims.to_string()));
    }
    let mut shape = Vec::new();
    for _ in 0..dims {
        let dim = cursor.u64(place)?;
        let counted = usize::try_from(dim).ok().filter(|d| *d > 0);
        shape.push(counted.ok_or_else(|| cursor.wrong(place, "dims above 0", dim.to_string()))?);
    }
    shape.reverse();
    let dtype = dtype::of(cursor.u32(place)?);
    let dtype = dtype.map_err(|name| {
        cursor.wrong(
            place,
            "a type that candle computes with, such as F32, F16, Q8_0, Q4K",
            name,
        )
    })?;
    let length = dtype::bytes(dtype, &shape).and_then(|n| usize::try_from(n).ok());
    let length = length.ok_or_else(|| {
        let expected = format!("a shape whose rows are blocks of {}", dtype.block_size());
        cursor.wrong(place, expected, format!("{shape:?} of {dtype:?}"))
    })?;
    let offset = cursor.u64(place)?;
    Ok(TensorInfo {
        dtype,
        shape,
        offset,
        length,
    })
}

fn alignment<R: Read>(cursor: &Cursor<R>, value: Option<&Value>) -> Result<u64> {
    match value {
        None => Ok(USUAL_ALIGNMENT),
        Some(Value::U32(n)) if n.is_power_of_two() => Ok((*n).into()),
        Some(other) => {
            let place = format!("metadata `{ALIGNMENT}`");
            Err(cursor.wrong(&place, "a power of two, as U32", said(other)))
        }
    }
}

/// Turns offsets from the start of the data into offsets from the start of the file.
fn place<R: Read>(
    cursor: &Cursor<R>,
    infos: &mut BTreeMap<String, TensorInfo>,
    alignment: u64,
) -> Result<()> {
    let start = cursor.position().next_multiple_of(alignment);
    let room = (cursor.position() + cursor.left()).saturating_sub(start);
    let mut extents = BTreeSet::new();
    for (name, info) in infos {
        let place = format!("tensor `{name}`");
        if !info.offset.is_multiple_of(alignment) {
            let expected = format!("an offset that is a multiple of {alignment}");
            return Err(cursor.wrong(&place, expected, info.offset.to_string()));
        }
        let end = info.offset.checked_add(info.length as u64);
        let end = end.filter(|end| *end <= room).ok_or_else(|| {
            let found = format!("{} bytes from {} of them", info.length, info.offset);
            cursor.wrong(
                &place,
                format!("a place within {room} bytes of data"),
                found,
            )
        })?;
        extents.insert((info.offset, end, name.clone()));
        info.offset += start;
    }
    let mut last = (0, String::new());
    for (from, to, name) in extents {
        if from < last.0 {
            let place = format!("tensor `{name}`");
            let expected = format!("data after that of `{}`", last.1);
            return Err(cursor.wrong(&place, expected, "data that overlaps it"));
        }
        last = (to, name);
    }
    Ok(())
}
