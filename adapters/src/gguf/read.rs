//! Reading: header first, every length measured against what is left of the file.

use super::{ALIGNMENT, GgmlDType, MAGIC, TYPES, Value};
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Most values of all metadata together: a tokenizer has some hundred thousand, and each
/// takes 32 bytes of memory for as little as one of the file.
const MOST_VALUES: u64 = 1 << 24;
/// Arrays within arrays.
const DEEPEST: usize = 4;

/// A tensor in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// How its numbers are stored.
    pub dtype: GgmlDType,
    /// Shape, rows first: the other way round than in the file.
    pub shape: Vec<usize>,
    /// From the start of the file.
    pub offset: u64,
    /// Bytes.
    pub length: usize,
}

/// An open GGUF; header in memory, tensors on disk.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    file: File,
    metadata: BTreeMap<String, Value>,
    tensors: BTreeMap<String, TensorInfo>,
}

impl Gguf {
    /// Reads the header of `path`.
    ///
    /// # Errors
    /// Names the field that is wrong: no GGUF of version 2 or 3, a length beyond the file,
    /// a tensor of an unknown type, or tensors that overlap.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::read(path, e))?;
        let length = file.metadata().map_err(|e| Error::read(path, e))?.len();
        let mut header = Header {
            path,
            file: BufReader::new(&file),
            left: length,
            values: 0,
        };
        let (metadata, tensors) = header.read(length)?;
        Ok(Self {
            path: path.to_owned(),
            metadata,
            tensors,
            file,
        })
    }

    /// Whether the file at `path` starts as a GGUF does.
    pub fn is_one(path: &Path) -> bool {
        let mut magic = [0; 4];
        let read = File::open(path).and_then(|mut f| f.read_exact(&mut magic));
        read.is_ok() && magic == *MAGIC
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A value of the metadata.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// A text of the metadata.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.value(key)?.to_string().ok().map(String::as_str)
    }

    /// All metadata.
    pub fn metadata(&self) -> &BTreeMap<String, Value> {
        &self.metadata
    }

    /// What is known of a tensor.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// All tensors, by name.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    /// The bytes of a tensor.
    ///
    /// # Errors
    /// When there is none of this name, or the disk fails.
    pub fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        let Some(info) = self.tensor(name) else {
            let hint = "the file is of another kind, or not complete";
            let place = format!("tensor `{name}`");
            return Err(Error::content(
                &self.path, place, "a tensor", "nothing", hint,
            ));
        };
        let mut bytes = vec![0; info.length];
        let mut file = &self.file;
        file.seek(SeekFrom::Start(info.offset))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(|e| Error::read(&self.path, e))?;
        Ok(bytes)
    }

    /// The numbers of a tensor in f32, which it must be stored in.
    ///
    /// # Errors
    /// When there is none of this name, or it is of another type.
    pub fn floats(&self, name: &str) -> Result<Vec<f32>> {
        match self.tensor(name).map(|i| i.dtype) {
            Some(GgmlDType::F32) | None => {}
            Some(other) => {
                let place = format!("tensor `{name}`");
                let found = format!("{other:?}");
                let hint = "convert the file to f32";
                return Err(Error::content(&self.path, place, "f32", found, hint));
            }
        }
        let bytes = self.bytes(name)?;
        let (words, _) = bytes.as_chunks::<4>();
        Ok(words.iter().map(|w| f32::from_le_bytes(*w)).collect())
    }
}

/// A header that is being read.
struct Header<'a> {
    path: &'a Path,
    file: BufReader<&'a File>,
    /// Bytes of the file that were not read yet.
    left: u64,
    /// Values read so far.
    values: u64,
}

type Parts = (BTreeMap<String, Value>, BTreeMap<String, TensorInfo>);

impl Header<'_> {
    fn read(&mut self, length: u64) -> Result<Parts> {
        let magic: [u8; 4] = self.bytes("magic")?;
        if magic != *MAGIC {
            return Err(self.wrong("magic", "`GGUF`", format!("{magic:02x?}")));
        }
        let version = self.u32("version")?;
        if !(2..=3).contains(&version) {
            return Err(self.wrong("version", "2 or 3, little endian", version.to_string()));
        }
        let tensors = self.u64("number of tensors")?;
        let entries = self.u64("number of metadata entries")?;
        // An entry takes a key's length, a type and a byte; a tensor its name's length, a
        // number of dims, a type and an offset.
        self.fits("number of metadata entries", entries, 13)?;
        self.fits("number of tensors", tensors, 24)?;
        let mut metadata = BTreeMap::new();
        for i in 0..entries {
            let key = self.text(&format!("key {i}"))?;
            let place = format!("`{key}`");
            let kind = self.u32(&place)?;
            let value = self.value(&place, kind, 0)?;
            if metadata.insert(key, value).is_some() {
                return Err(self.wrong(&place, "each key once", "it twice".into()));
            }
        }
        let alignment = match metadata.get("general.alignment") {
            None => ALIGNMENT,
            Some(value) => match value.to_u32() {
                Ok(a) if a.is_power_of_two() => u64::from(a),
                _ => {
                    let found = format!("{value:?}");
                    return Err(self.wrong("`general.alignment`", "a power of two", found));
                }
            },
        };
        let mut infos = Vec::new();
        for i in 0..tensors {
            infos.push(self.tensor(i)?);
        }
        let data = (length - self.left).next_multiple_of(alignment);
        self.placed(infos, data, alignment, length)
            .map(|tensors| (metadata, tensors))
    }

    /// Name, type and shape of a tensor, with its offset from the start of the data.
    fn tensor(&mut self, i: u64) -> Result<(String, TensorInfo)> {
        let name = self.text(&format!("name of tensor {i}"))?;
        let place = format!("tensor `{name}`");
        let count = self.u32(&place)?;
        if count > 4 {
            return Err(self.wrong(&place, "at most 4 dims", count.to_string()));
        }
        let mut shape = Vec::new();
        for _ in 0..count {
            shape.push(self.u64(&place)?);
        }
        let number = self.u32(&place)?;
        let offset = self.u64(&place)?;
        let Some((_, dtype)) = TYPES.iter().find(|(n, _)| *n == number) else {
            let found = format!("type {number} of ggml");
            return Err(self.wrong(&place, "a type from F32 to Q8_K, or BF16", found));
        };
        let elements = shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d));
        let block = dtype.block_size() as u64;
        let whole = shape.first().is_none_or(|row| row.is_multiple_of(block));
        let length = elements
            .filter(|_| whole)
            .and_then(|n| (n / block).checked_mul(dtype.type_size() as u64))
            .and_then(|n| usize::try_from(n).ok());
        let Some(length) = length else {
            let expected = format!("rows of whole blocks of {block}");
            return Err(self.wrong(&place, &expected, format!("shape {shape:?}")));
        };
        let shape = shape.into_iter().rev().map(|d| d as usize).collect();
        let info = TensorInfo {
            dtype: *dtype,
            shape,
            offset,
            length,
        };
        Ok((name, info))
    }

    /// Tensors within the file, each in a place of its own.
    fn placed(
        &self,
        infos: Vec<(String, TensorInfo)>,
        data: u64,
        alignment: u64,
        length: u64,
    ) -> Result<BTreeMap<String, TensorInfo>> {
        let mut tensors = BTreeMap::new();
        let mut places = Vec::new();
        for (name, mut info) in infos {
            let place = format!("tensor `{name}`");
            if !info.offset.is_multiple_of(alignment) {
                let expected = format!("an offset that is a multiple of {alignment}");
                return Err(self.wrong(&place, &expected, info.offset.to_string()));
            }
            let start = data.checked_add(info.offset);
            let end = start.and_then(|s| s.checked_add(info.length as u64));
            let (Some(start), Some(_)) = (start, end.filter(|e| *e <= length)) else {
                let found = format!("{} bytes at {}", info.length, info.offset);
                return Err(self.wrong(&place, "bytes within the file", found));
            };
            info.offset = start;
            places.push((start, info.length as u64, name.clone()));
            if tensors.insert(name, info).is_some() {
                return Err(self.wrong(&place, "each name once", "it twice".into()));
            }
        }
        places.sort_unstable();
        for pair in places.windows(2) {
            if pair[0].0 + pair[0].1 > pair[1].0 {
                let (one, two) = (&pair[0].2, &pair[1].2);
                let found = format!("bytes of `{one}`");
                return Err(self.wrong(&format!("tensor `{two}`"), "bytes of its own", found));
            }
        }
        Ok(tensors)
    }

    fn value(&mut self, place: &str, kind: u32, depth: usize) -> Result<Value> {
        self.values += 1;
        if self.values > MOST_VALUES {
            return Err(self.wrong(
                place,
                &format!("at most {MOST_VALUES} values"),
                "more".into(),
            ));
        }
        Ok(match kind {
            0 => Value::U8(self.bytes::<1>(place)?[0]),
            1 => Value::I8(i8::from_le_bytes(self.bytes(place)?)),
            2 => Value::U16(u16::from_le_bytes(self.bytes(place)?)),
            3 => Value::I16(i16::from_le_bytes(self.bytes(place)?)),
            4 => Value::U32(self.u32(place)?),
            5 => Value::I32(i32::from_le_bytes(self.bytes(place)?)),
            6 => Value::F32(f32::from_le_bytes(self.bytes(place)?)),
            7 => match self.bytes::<1>(place)?[0] {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                other => return Err(self.wrong(place, "0 or 1", other.to_string())),
            },
            8 => Value::String(self.text(place)?),
            9 if depth < DEEPEST => {
                let (kind, count) = (self.u32(place)?, self.u64(place)?);
                let least = match kind {
                    0 | 1 | 7 => 1,
                    2 | 3 => 2,
                    4..=6 => 4,
                    8 | 10..=12 => 8,
                    _ => 12,
                };
                self.fits(place, count, least)?;
                let mut list = Vec::new();
                for _ in 0..count {
                    list.push(self.value(place, kind, depth + 1)?);
                }
                Value::Array(list)
            }
            10 => Value::U64(self.u64(place)?),
            11 => Value::I64(i64::from_le_bytes(self.bytes(place)?)),
            12 => Value::F64(f64::from_le_bytes(self.bytes(place)?)),
            other => {
                let expected = format!("a type from 0 to 12, arrays at most {DEEPEST} deep");
                return Err(self.wrong(place, &expected, format!("type {other}")));
            }
        })
    }

    fn text(&mut self, place: &str) -> Result<String> {
        let length = self.u64(place)?;
        self.fits(place, length, 1)?;
        let mut bytes = vec![0; length as usize];
        self.fill(place, &mut bytes)?;
        String::from_utf8(bytes).map_err(|e| self.wrong(place, "UTF-8", e.to_string()))
    }

    fn u32(&mut self, place: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.bytes(place)?))
    }

    fn u64(&mut self, place: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.bytes(place)?))
    }

    fn bytes<const N: usize>(&mut self, place: &str) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(place, &mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, place: &str, bytes: &mut [u8]) -> Result<()> {
        self.fits(place, bytes.len() as u64, 1)?;
        self.left -= bytes.len() as u64;
        let read = self.file.read_exact(bytes);
        read.map_err(|e| Error::read(self.path, e))
    }

    /// Whether `count` things of at least `least` bytes can still come.
    fn fits(&self, place: &str, count: u64, least: u64) -> Result<()> {
        match count.checked_mul(least) {
            Some(bytes) if bytes <= self.left => Ok(()),
            _ => {
                let expected = format!("at most the {} bytes that are left", self.left);
                Err(self.wrong(
                    place,
                    &expected,
                    format!("{count} of {least} bytes or more"),
                ))
            }
        }
    }

    fn wrong(&self, place: &str, expected: &str, found: String) -> Error {
        let hint = "the file may be truncated or damaged; fetch or write it again";
        Error::content(self.path, place, expected, found, hint)
    }
}
