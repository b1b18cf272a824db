//! An open GGUF file.

use super::cursor::Cursor;
use super::layout::{self, ALIGNMENT, MAGIC, MOST_DIMS};
use crate::error::{Error, Result};
use crate::formats::{floats, read_at};
use candle_core::Device;
use candle_core::quantized::{GgmlDType, QTensor, ggml_file, gguf_file::Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, Read};
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
    /// Bytes in the file.
    pub length: usize,
    /// Whether the numbers in the file are F64, which candle does not have: they are read as F32.
    double: bool,
}

impl TensorInfo {
    /// The name of the type in the file.
    pub fn stored(&self) -> String {
        match self.double {
            true => "F64".into(),
            false => format!("{:?}", self.dtype),
        }
    }
}

/// An open GGUF file, of which only the header is in memory.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    file: File,
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
        let (metadata, tensors) = header(&mut cursor)?;
        Ok(Self {
            path: path.to_owned(),
            metadata,
            tensors,
            file,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
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

    fn read<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        take: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        let wrong = || self.wrong(format!("metadata `{key}`"), expected, shown(value));
        take(value).map(Some).ok_or_else(wrong)
    }

    /// A text of the metadata, if there is one.
    ///
    /// # Errors
    /// When the value is no text.
    pub fn text(&self, key: &str) -> Result<Option<&str>> {
        self.read(key, "a text", |value| match value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// Refuses the file unless its text `key` is `expected`.
    pub(crate) fn expect_text(&self, key: &str, expected: &str, hint: &str) -> Result<()> {
        let found = self.text(key)?.unwrap_or("nothing");
        if found == expected {
            return Ok(());
        }
        let [place, expected, found] = [key, expected, found].map(|text| format!("`{text}`"));
        Err(Error::content(&self.path, place, expected, found, hint))
    }

    /// A whole number of any type that is not negative, if there is one: writers differ in
    /// the type that they choose.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn whole(&self, key: &str) -> Result<Option<u64>> {
        self.read(key, "a whole number, not negative", |value| match *value {
            Value::U8(n) => Some(n.into()),
            Value::U16(n) => Some(n.into()),
            Value::U32(n) => Some(n.into()),
            Value::U64(n) => Some(n),
            Value::I8(n) => n.try_into().ok(),
            Value::I16(n) => n.try_into().ok(),
            Value::I32(n) => n.try_into().ok(),
            Value::I64(n) => n.try_into().ok(),
            _ => None,
        })
    }

    /// A finite number, if there is one.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        self.read(key, "a finite number", |value| match *value {
            Value::F32(x) => Some(x.into()).filter(|x: &f64| x.is_finite()),
            Value::F64(x) => Some(x).filter(|x| x.is_finite()),
            _ => None,
        })
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

    /// Bytes of a tensor, in its `dtype`.
    ///
    /// # Errors
    /// When it is missing, or the disk fails.
    pub fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        let info = self.expect(name)?;
        let bytes = read_at((&self.path, &self.file), (info.offset, info.length))?;
        if !info.double {
            return Ok(bytes);
        }
        let (words, _) = bytes.as_chunks::<8>();
        let narrow = |word: &[u8; 8]| (f64::from_le_bytes(*word) as f32).to_le_bytes();
        Ok(words.iter().flat_map(narrow).collect())
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
        Ok(floats(&self.bytes(name)?))
    }

    /// The numbers of a tensor of any type.
    ///
    /// # Errors
    /// When it is missing, or the disk fails.
    pub fn numbers(&self, name: &str) -> Result<Vec<f32>> {
        if self.expect(name)?.dtype == GgmlDType::F32 {
            return self.floats(name);
        }
        let tensor = self.quantized(name, &Device::Cpu)?;
        Ok(tensor.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1()?)
    }

    /// A tensor of any type as candle computes with it.
    ///
    /// # Errors
    /// When it is missing, or candle does not take it.
    pub fn quantized(&self, name: &str, device: &Device) -> Result<QTensor> {
        let TensorInfo { dtype, shape, .. } = self.expect(name)?.clone();
        let bytes = self.bytes(name)?;
        Ok(ggml_file::qtensor_from_ggml(dtype, &bytes, shape, device)?)
    }
}

/// A value for a message: short, whatever it holds.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("`{}`", text.chars().take(60).collect::<String>()),
        Value::Array(list) => format!("a list of {}", list.len()),
        other => format!("{other:?}"),
    }
}

type Header = (BTreeMap<String, Value>, BTreeMap<String, TensorInfo>);

fn header<R: Read>(cursor: &mut Cursor<R>) -> Result<Header> {
    let magic: [u8; 4] = cursor.take("magic")?;
    if magic != MAGIC {
        let found = String::from_utf8_lossy(&magic).escape_debug().to_string();
        return Err(cursor.wrong("magic", "`GGUF`", format!("`{found}`")));
    }
    let version = cursor.u32("version")?;
    if !matches!(version, 2 | 3) {
        let found = match version.swap_bytes() {
            2 | 3 => "a big-endian file".to_owned(),
            _ => version.to_string(),
        };
        return Err(cursor.wrong("version", "2 or 3", found));
    }
    // A tensor takes at least 24 bytes of header, a pair of key and value 13.
    let tensors = cursor.count("number of tensors", 24)?;
    let pairs = cursor.count("number of metadata pairs", 13)?;
    let mut metadata = BTreeMap::new();
    for i in 0..pairs {
        let key = cursor.name(&format!("key of metadata pair {i}"))?;
        let place = format!("metadata `{key}`");
        let kind = cursor.u32(&place)?;
        let value = cursor.value(&place, kind, 0)?;
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
    let alignment = layout::alignment(metadata.get(ALIGNMENT)).map_err(|other| {
        let place = format!("metadata `{ALIGNMENT}`");
        cursor.wrong(&place, "a power of two, as U32", shown(other))
    })?;
    place(cursor, &mut infos, alignment)?;
    Ok((metadata, infos))
}

/// A tensor as the header describes it: its offset is from the start of the data.
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
    let number = cursor.u32(place)?;
    let double = number == layout::F64;
    let dtype = layout::dtype(if double { layout::F32 } else { number }).map_err(|name| {
        let expected = "a type that candle computes with, such as F32, F16, Q8_0, Q4K";
        cursor.wrong(place, expected, name)
    })?;
    let length = layout::bytes(dtype, &shape);
    let length = length.and_then(|n| n.checked_mul(if double { 2 } else { 1 }));
    let length = length.and_then(|n| usize::try_from(n).ok());
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
        double,
    })
}

/// Makes offsets from the start of the data offsets from the start of the file.
fn place<R: Read>(
    cursor: &Cursor<R>,
    infos: &mut BTreeMap<String, TensorInfo>,
    alignment: u64,
) -> Result<()> {
    let start = cursor.position.next_multiple_of(alignment);
    let size = (cursor.position + cursor.left()).saturating_sub(start);
    let mut extents = BTreeSet::new();
    for (name, info) in infos {
        let place = format!("tensor `{name}`");
        if !info.offset.is_multiple_of(alignment) {
            let expected = format!("an offset that is a multiple of {alignment}");
            return Err(cursor.wrong(&place, expected, info.offset.to_string()));
        }
        let end = info.offset.checked_add(info.length as u64);
        let end = end.filter(|end| *end <= size).ok_or_else(|| {
            let expected = format!("a place within {size} bytes of data");
            let found = format!("{} bytes from {} of them", info.length, info.offset);
            cursor.wrong(&place, expected, found)
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
