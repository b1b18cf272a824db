//! Reads numbers, texts and lists of a GGUF header, none beyond the end of the file.

use crate::error::{Error, Result};
use candle_core::quantized::gguf_file::Value;
use std::io::Read;
use std::path::Path;

/// Longest text of a value: a chat template or a merge is far below.
const LONGEST_TEXT: u64 = 1 << 24;

/// Longest key or tensor name; what the format says of keys.
const LONGEST_KEY: u64 = 65_535;

/// Most elements of all lists of a file. An element costs more in memory than on disk, so
/// the length of the file alone is no bound; a tokenizer has three lists of 256 thousand.
const MOST_ELEMENTS: u64 = 1 << 22;

/// Deepest nesting of lists.
const DEEPEST: usize = 3;

/// A reader of `length` bytes that knows where it is.
pub struct Cursor<'a, R> {
    path: &'a Path,
    reader: R,
    /// Bytes read so far.
    pub position: u64,
    length: u64,
    elements: u64,
}

impl<'a, R: Read> Cursor<'a, R> {
    pub fn new(path: &'a Path, reader: R, length: u64) -> Self {
        Self {
            path,
            reader,
            position: 0,
            length,
            elements: 0,
        }
    }

    /// Bytes that are left.
    pub fn left(&self) -> u64 {
        self.length - self.position
    }

    pub fn wrong(
        &self,
        place: &str,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Error {
        let hint = "the file is truncated, or no GGUF writer wrote it; fetch it again";
        Error::content(self.path, place, expected, found, hint)
    }

    /// Refuses to read on where fewer than `needed` bytes are left.
    fn check_left(&self, place: &str, needed: u64) -> Result<()> {
        let (left, length, position) = (self.left(), self.length, self.position);
        if needed <= left {
            return Ok(());
        }
        let found = format!("{left} of {length} bytes left at byte {position}");
        Err(self.wrong(place, format!("{needed} bytes"), found))
    }

    pub fn take<const N: usize>(&mut self, place: &str) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes, place)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8], place: &str) -> Result<()> {
        let needed = bytes.len() as u64;
        self.check_left(place, needed)?;
        let read = self.reader.read_exact(bytes);
        read.map_err(|e| Error::read(self.path, e))?;
        self.position += needed;
        Ok(())
    }

    pub fn u32(&mut self, place: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.take(place)?))
    }

    pub fn u64(&mut self, place: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.take(place)?))
    }

    /// How many of something follow, each of at least `least` bytes.
    pub fn count(&mut self, place: &str, least: u64) -> Result<u64> {
        let count = self.u64(place)?;
        if count > self.left() / least {
            let expected = format!("at most {}, as many as fit the file", self.left() / least);
            return Err(self.wrong(place, expected, count.to_string()));
        }
        Ok(count)
    }

    /// A key or the name of a tensor.
    pub fn name(&mut self, place: &str) -> Result<String> {
        self.text(place, LONGEST_KEY)
    }

    fn text(&mut self, place: &str, longest: u64) -> Result<String> {
        let length = self.u64(place)?;
        if length > longest {
            let expected = format!("a text of at most {longest} bytes");
            return Err(self.wrong(place, expected, format!("one of {length}")));
        }
        self.check_left(place, length)?;
        let mut bytes = vec![0; length as usize];
        self.fill(&mut bytes, place)?;
        String::from_utf8(bytes).map_err(|e| self.wrong(place, "UTF-8", e.to_string()).caused_by(e))
    }

    /// A value of the type `kind` in a list of lists `depth` deep.
    pub fn value(&mut self, place: &str, kind: u32, depth: usize) -> Result<Value> {
        Ok(match kind {
            0 => Value::U8(u8::from_le_bytes(self.take(place)?)),
            1 => Value::I8(i8::from_le_bytes(self.take(place)?)),
            2 => Value::U16(u16::from_le_bytes(self.take(place)?)),
            3 => Value::I16(i16::from_le_bytes(self.take(place)?)),
            4 => Value::U32(self.u32(place)?),
            5 => Value::I32(i32::from_le_bytes(self.take(place)?)),
            6 => Value::F32(f32::from_le_bytes(self.take(place)?)),
            7 => match self.take::<1>(place)? {
                [bit @ (0 | 1)] => Value::Bool(bit == 1),
                [other] => Err(self.wrong(place, "a truth value, 0 or 1", other.to_string()))?,
            },
            8 => Value::String(self.text(place, LONGEST_TEXT)?),
            9 => self.list(place, depth + 1)?,
            10 => Value::U64(self.u64(place)?),
            11 => Value::I64(i64::from_le_bytes(self.take(place)?)),
            12 => Value::F64(f64::from_le_bytes(self.take(place)?)),
            other => Err(self.wrong(place, "a type of value, 0 to 12", other.to_string()))?,
        })
    }

    fn list(&mut self, place: &str, depth: usize) -> Result<Value> {
        if depth > DEEPEST {
            let expected = format!("lists nested at most {DEEPEST} deep");
            return Err(self.wrong(place, expected, "a deeper one"));
        }
        let kind = self.u32(place)?;
        let least = match kind {
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => 12,
            _ => 1,
        };
        let count = self.count(place, least)?;
        self.elements = self.elements.saturating_add(count);
        if self.elements > MOST_ELEMENTS {
            let expected = format!("lists of at most {MOST_ELEMENTS} elements in all");
            return Err(self.wrong(place, expected, self.elements.to_string()));
        }
        // Without a capacity of `count`: it grows with what is really read.
        let mut list = Vec::new();
        for _ in 0..count {
            list.push(self.value(place, kind, depth)?);
        }
        Ok(Value::Array(list))
    }
}
