//! safetensors files read and written one tensor at a time, so that a checkpoint
//! never has to be in memory as a whole.

use super::read_at;
use crate::error::{Error, Result};
use crate::files;
use candle_core::{DType, Device, Tensor};
use safetensors::{Dtype, tensor::Metadata, tensor::TensorInfo};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The one file of a checkpoint that is not split.
const SINGLE: &str = "model.safetensors";
/// The file that says which shard holds which tensor.
pub const INDEX: &str = "model.safetensors.index.json";

/// The safetensors files of a checkpoint. As in transformers, `model.safetensors` counts more
/// than an index next to it; where there is neither, those named
/// `model-00001-of-00003.safetensors` and so on.
///
/// # Errors
/// When there are none, or one is missing.
pub fn shards(directory: &Path) -> Result<Vec<PathBuf>> {
    let file = directory.join(SINGLE);
    match directory.join(INDEX) {
        _ if file.is_file() => Ok(vec![file]),
        index if index.is_file() => indexed(directory, &index),
        _ => numbered(directory),
    }
}

/// The shards of a directory without an index.
fn numbered(directory: &Path) -> Result<Vec<PathBuf>> {
    let listing = std::fs::read_dir(directory).map_err(|e| Error::read(directory, e))?;
    let names = listing.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let found: BTreeMap<(usize, usize), String> = names
        .filter_map(|name| Some((shard_number(&name)?, name)))
        .collect();
    let wrong = |expected: String, found: &str, hint| {
        Err(Error::content(directory, "weights", expected, found, hint))
    };
    let Some((_, of)) = found.keys().next().copied() else {
        let hint = "give a full checkpoint in Hugging Face layout, not a quantized file";
        return wrong(format!("{SINGLE} or {INDEX}"), "neither", hint);
    };
    let hint = "fetch the checkpoint again, or remove the files of another one";
    let all = (1..=of).map(|number| (number, of));
    if let Some((number, _)) = all.clone().find(|shard| !found.contains_key(shard)) {
        return wrong(format!("shard {number} of {of}"), "no such file", hint);
    }
    match found.len() == of {
        true => Ok(found
            .into_values()
            .map(|name| directory.join(name))
            .collect()),
        false => wrong(
            format!("the {of} shards of one checkpoint"),
            "others too",
            hint,
        ),
    }
}

/// The names under which every engine finds the files of a checkpoint: those that they have, if
/// they are the usual ones.
pub fn shard_names(shards: &[PathBuf]) -> Vec<String> {
    let given = shards.iter().map(|shard| shard.file_name()?.to_str());
    let given: Option<Vec<&str>> = given.collect();
    let usual = |names: &Vec<&str>| names.iter().all(|name| shard_number(name).is_some());
    let of = shards.len();
    match given.filter(usual) {
        _ if of == 1 => vec![SINGLE.into()],
        Some(names) => names.into_iter().map(str::to_owned).collect(),
        None => (1..=of)
            .map(|n| format!("model-{n:05}-of-{of:05}.safetensors"))
            .collect(),
    }
}

/// Number and count of a shard, from its name.
fn shard_number(name: &str) -> Option<(usize, usize)> {
    let name = name.strip_prefix("model-")?.strip_suffix(".safetensors")?;
    let (number, of) = name.split_once("-of-")?;
    Some((number.parse().ok()?, of.parse().ok()?))
}

/// The shards that an index names.
fn indexed(directory: &Path, index: &Path) -> Result<Vec<PathBuf>> {
    let wrong = |expected: &str, found: String| {
        let hint = "fetch the checkpoint again";
        Error::content(index, "key `weight_map`", expected, found, hint)
    };
    let json: Value = serde_json::from_slice(&files::read(index)?).unwrap_or_default();
    let map = &json["weight_map"];
    let entries = map.as_object();
    let entries = entries.ok_or_else(|| wrong("tensor names and files", map.to_string()))?;
    let mut names = BTreeSet::new();
    for (tensor, file) in entries {
        let expected = || format!("the name of the file that holds `{tensor}`");
        let name = file.as_str();
        names.insert(name.ok_or_else(|| wrong(&expected(), file.to_string()))?);
    }
    if names.is_empty() {
        return Err(wrong("tensor names and files", "none".into()));
    }
    let find = |name: &str| {
        let file = directory.join(name);
        if Path::new(name).file_name() != Some(name.as_ref()) {
            let expected = "names of files in the directory of the index";
            return Err(wrong(expected, format!("`{name}`")));
        }
        let expected = || format!("shard {name} in the directory of the index");
        match file.is_file() {
            true => Ok(file),
            false => Err(wrong(&expected(), "no such file".into())),
        }
    };
    names.into_iter().map(find).collect()
}

/// An open safetensors file, of which only the header is in memory.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    file: File,
    header: Metadata,
    data: u64,
}

impl TensorFile {
    /// Reads the header of `path` and checks the file's length against it.
    ///
    /// # Errors
    /// When it is not safetensors, or truncated.
    pub fn open(path: &Path) -> Result<Self> {
        let io = |e| Error::read(path, e);
        let broken = |found: String| {
            let expected = "a complete safetensors file";
            let hint = "it may be truncated; fetch it again";
            Error::content(path, "file", expected, found, hint)
        };
        let mut file = File::open(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        let mut size = [0u8; 8];
        file.read_exact(&mut size)
            .map_err(|_| broken(format!("{length} bytes")))?;
        let size = u64::from_le_bytes(size);
        if size > length.saturating_sub(8) {
            return Err(broken(format!("{length} bytes for a header of {size}")));
        }
        let mut json = vec![0; size as usize];
        file.read_exact(&mut json).map_err(io)?;
        let header: Metadata =
            serde_json::from_slice(&json).map_err(|e| broken(e.to_string()).caused_by(e))?;
        // the header may claim more bytes than can be counted
        let (data, claimed) = (length - 8 - size, header.data_len() as u64);
        if data != claimed {
            let found = format!("{data} bytes of data where the header says {claimed}");
            return Err(broken(found));
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            header,
            data: 8 + size,
        })
    }

    /// Names, in the order of the data.
    pub fn names(&self) -> Vec<String> {
        self.header.offset_keys()
    }

    /// The metadata of the header.
    pub fn metadata(&self) -> BTreeMap<String, String> {
        let metadata = self.header.metadata().clone().unwrap_or_default();
        metadata.into_iter().collect()
    }

    /// Shape and dtype.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.header.info(name)
    }

    /// Offset in the file and length of a tensor's bytes.
    pub fn place(&self, name: &str) -> Option<(u64, usize)> {
        let (start, end) = self.info(name)?.data_offsets;
        Some((self.data + start as u64, end - start))
    }

    /// Bytes of a tensor.
    ///
    /// # Errors
    /// When it is missing, or the disk fails.
    pub fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        let place = self.place(name);
        let place = place.ok_or_else(|| self.missing(name, "a tensor", "nothing".into()))?;
        read_at((&self.path, &self.file), place)
    }

    /// A tensor in its own dtype.
    ///
    /// # Errors
    /// When it is missing, or in another dtype than F32, F16 or BF16.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let missing = || self.missing(name, "a tensor", "nothing".into());
        let TensorInfo { dtype, shape, .. } = self.info(name).ok_or_else(missing)?;
        let dtype = match dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => {
                return Err(self.missing(name, "dtype F32, F16 or BF16", format!("{other:?}")));
            }
        };
        let bytes = self.bytes(name)?;
        Ok(Tensor::from_raw_buffer(&bytes, dtype, shape, &Device::Cpu)?)
    }

    fn missing(&self, name: &str, expected: &str, found: String) -> Error {
        let hint = "give a full checkpoint in Hugging Face layout, not a quantized one";
        let place = format!("tensor `{name}`");
        Error::content(&self.path, place, expected, found, hint)
    }
}

/// The length and a header of `space` bytes, padded with spaces; or how long it would be.
fn header(
    metadata: BTreeMap<String, String>,
    tensors: Vec<(String, TensorInfo)>,
    space: usize,
) -> std::result::Result<Vec<u8>, String> {
    let some = (!metadata.is_empty()).then(|| metadata.into_iter().collect());
    let header = Metadata::new(some, tensors).map_err(|e| e.to_string())?;
    let json = serde_json::to_vec(&header).map_err(|e| e.to_string())?;
    if json.len() > space {
        return Err(format!("{} bytes", json.len()));
    }
    let mut bytes = [&(space as u64).to_le_bytes()[..], &json].concat();
    bytes.resize(8 + space, b' ');
    sort_metadata(&mut bytes);
    Ok(bytes)
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

/// A safetensors file that is being written, tensor after tensor.
///
/// The header stands before the data but is known only after it, so space is reserved for it;
/// what is left over is padded with spaces, as the format allows.
pub struct TensorFileWriter {
    path: PathBuf,
    file: BufWriter<File>,
    /// Bytes that are reserved for the header.
    space: usize,
    written: usize,
    tensors: Vec<(String, TensorInfo)>,
}

/// Bytes of a tensor's entry in the header without its name: dtype, up to four dims, two
/// offsets.
const LINE: usize = 160;

impl TensorFileWriter {
    /// Creates `path` for tensors of exactly these `names`, which may come in any order, and
    /// for up to `metadata` bytes of metadata. Errors name the file `shown`.
    ///
    /// # Errors
    /// When the file cannot be created.
    pub fn create<'a>(
        (path, shown): (&Path, &Path),
        names: impl IntoIterator<Item = &'a str>,
        metadata: usize,
    ) -> Result<Self> {
        let lines: usize = names.into_iter().map(|n| n.len() + LINE).sum();
        let space = (lines + metadata + 2).next_multiple_of(8);
        let create = || {
            let mut file = BufWriter::new(File::create(path)?);
            file.seek(SeekFrom::Start(8 + space as u64))?;
            Ok(file)
        };
        Ok(Self {
            file: create().map_err(|e| Error::write(shown, e))?,
            path: shown.to_owned(),
            space,
            written: 0,
            tensors: Vec::new(),
        })
    }

    /// Writes a tensor.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn push(&mut self, name: &str, dtype: Dtype, shape: &[usize], bytes: &[u8]) -> Result<()> {
        let written = self.file.write_all(bytes);
        written.map_err(|e| Error::write(&self.path, e))?;
        let end = self.written + bytes.len();
        let info = TensorInfo {
            dtype,
            shape: shape.to_vec(),
            data_offsets: (self.written, end),
        };
        self.tensors.push((name.to_owned(), info));
        self.written = end;
        Ok(())
    }

    /// Writes the header, with `metadata`; returns the length of the file.
    ///
    /// # Errors
    /// When a tensor's bytes do not fit its shape, more tensors or metadata came than were
    /// announced, or the disk is full.
    pub fn finish(mut self, metadata: BTreeMap<String, String>) -> Result<u64> {
        let header = header(metadata, self.tensors, self.space).map_err(|found| {
            let expected = format!("the announced tensors and metadata, {} bytes", self.space);
            let hint = "announce all of them";
            Error::content(&self.path, "header", expected, found, hint)
        })?;
        let mut finish = || -> std::io::Result<()> {
            self.file.seek(SeekFrom::Start(0))?;
            self.file.write_all(&header)?;
            self.file.flush()
        };
        finish().map_err(|e| Error::write(&self.path, e))?;
        Ok((8 + self.space + self.written) as u64)
    }
}

#[cfg(test)]
mod tests;
