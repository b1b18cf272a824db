//! Merging: low-rank updates folded into a full checkpoint.
//!
//! A merged checkpoint has the very files, headers, names and dtypes of the one it
//! comes from, so every shard is copied and only the bytes of the updated tensors
//! are written again: one tensor in memory at a time.

use crate::error::{Error, Result};
use candle_core::{DType, Device, Tensor};
use reptune_adapters::files::{self, Staging};
use reptune_adapters::formats::safetensors::{INDEX, TensorFile, shard_names, shards};
use reptune_adapters::{Adapter, Error as Refused, TargetModule, WeightDelta};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// What merging did to one weight.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MergedSite {
    /// L2 norm of the delta, before rounding.
    pub delta_norm: f64,
    /// L2 norm of the weight before.
    pub weight_norm: f64,
    /// Share of elements that are different after rounding to the weight's dtype.
    pub changed: f64,
}

/// What a merge did.
#[derive(Debug, Clone, PartialEq)]
pub struct MergeReport {
    /// Every updated weight.
    pub modules: BTreeMap<TargetModule, MergedSite>,
    /// Number of files written, weights and others.
    pub files: usize,
}

impl MergeReport {
    /// The module whose delta is largest relative to its weight, with that ratio of norms.
    pub fn largest(&self) -> Option<(TargetModule, f64)> {
        let ratios = self
            .modules
            .iter()
            .map(|(module, m)| (*module, m.delta_norm / m.weight_norm));
        ratios.max_by(|a, b| a.1.total_cmp(&b.1))
    }
}

/// Folds `update` into the checkpoint `model` and writes the result to `out`:
/// `W + scale * B A`, added in f32 and rounded once to the dtype of W.
///
/// Everything else is copied byte for byte, and [`FILE`] names the update;
/// subdirectories and weights in other formats are left out. Shards without an index get one, and
/// names under which every engine finds them. `progress` is called with the
/// path of every finished shard, how many are done, and of how many.
///
/// Shapes: A (R, I), B (O, R), W (O, I).
///
/// # Errors
/// When `out` holds files, a module of `update` is in no shard or has another shape,
/// a weight is not F32, F16 or BF16, the sum does not fit its dtype, or a shard is
/// truncated. Nothing is left at `out` then.
pub fn merge(
    model: &Path,
    update: &Adapter,
    out: &Path,
    progress: &mut dyn FnMut(&Path, usize, usize),
) -> Result<MergeReport> {
    merge_checked(model, update, out, progress, |_| Ok(()))
}

/// The same, with `complete`, which is given the directory before it gets its name: it may
/// replace files there, and what it refuses is not written.
///
/// # Errors
/// Those of [`merge`] and of `complete`.
pub fn merge_checked<E: From<Error>>(
    model: &Path,
    update: &Adapter,
    out: &Path,
    progress: &mut dyn FnMut(&Path, usize, usize),
    complete: impl FnOnce(&Staging) -> std::result::Result<(), E>,
) -> std::result::Result<MergeReport, E> {
    let staging = Staging::new(out).map_err(Error::from)?;
    let report = write(model, update, &staging, progress)?;
    complete(&staging)?;
    staging.commit().map_err(Error::from)?;
    Ok(report)
}

fn write(
    model: &Path,
    update: &Adapter,
    staging: &Staging,
    progress: &mut dyn FnMut(&Path, usize, usize),
) -> Result<MergeReport> {
    let shards = shards(model)?;
    check(model, &shards, update)?;
    let mut modules = BTreeMap::new();
    let mut merged = Merged::read(model)?.unwrap_or_else(Merged::nothing);
    merged.updates.push(update.content_hash()?);
    let names = shard_names(&shards);
    for (done, (shard, name)) in shards.iter().zip(&names).enumerate() {
        let copy = staging.copy_as(shard, name)?;
        let paths = (shard.as_path(), copy.as_path(), staging.shown(&copy));
        modules.extend(merge_shard(&paths, update, &mut merged)?);
        progress(shard, done + 1, shards.len());
    }
    let others = other_files(model)?;
    for file in &others {
        staging.copy(file)?;
    }
    let mut texts = vec![(FILE, merged.text())];
    if names.len() > 1 {
        texts.push((INDEX, index(model, &shards, &names)?));
    }
    for (name, text) in &texts {
        let path = staging.path().join(name);
        std::fs::write(&path, text).map_err(|e| Refused::write(staging.shown(&path), e))?;
    }
    Ok(MergeReport {
        modules,
        files: shards.len() + others.len() + texts.len(),
    })
}

/// The text of the index of `shards`, which are called `names` now.
fn index(model: &Path, shards: &[PathBuf], names: &[String]) -> Result<String> {
    let earlier = model.join(INDEX);
    let kept = shards.iter().zip(names).all(|(s, name)| s.ends_with(name));
    if kept && earlier.is_file() {
        return Ok(String::from_utf8_lossy(&files::read(&earlier)?).into_owned());
    }
    let (mut bytes, mut map) = (0, BTreeMap::new());
    for (file, name) in opened(shards)?.iter().zip(names) {
        for tensor in file.names() {
            bytes += file.place(&tensor).map_or(0, |(_, length)| length);
            map.insert(tensor, name);
        }
    }
    let json = json!({"metadata": {"total_size": bytes}, "weight_map": map});
    Ok(serde_json::to_string_pretty(&json).unwrap_or_default() + "\n")
}

/// Refuses to merge `update` into `model` if it is among `merged`, the hashes of what the model
/// holds already: a second time doubles the change.
///
/// # Errors
/// When it is.
pub fn check_not_merged(model: &Path, merged: &[String], update: &Adapter) -> Result<()> {
    let hash = update.content_hash()?;
    if !merged.contains(&hash) {
        return Ok(());
    }
    let (place, expected) = (
        "merged adapters",
        "an adapter that the model does not hold yet",
    );
    let found = format!("this one ({})", &hash[..12]);
    let hint = "its change would be doubled; leave it out, or say so with `merge --again`";
    Err(Error::input(model, place, expected, found, hint))
}

/// Checks before anything is copied that every module has its weight.
fn check(model: &Path, shards: &[PathBuf], update: &Adapter) -> Result<()> {
    let files = opened(shards)?;
    for (module, adapter) in &update.modules {
        let name = weight_name(module);
        let expected = [adapter.b.dims()[0], adapter.a.dims()[1]];
        let found = match files.iter().find_map(|f| f.info(&name)) {
            Some(info) if info.shape == expected => continue,
            Some(info) => format!("{:?}", info.shape),
            None => "nothing".into(),
        };
        let (place, expected) = (format!("tensor `{name}`"), format!("shape {expected:?}"));
        let hint = "the update is for another model, or this checkpoint is quantized; merge into the full one";
        return Err(Error::input(model, place, expected, found, hint));
    }
    Ok(())
}

fn opened(shards: &[PathBuf]) -> Result<Vec<TensorFile>> {
    shards.iter().map(|s| Ok(TensorFile::open(s)?)).collect()
}

fn weight_name(module: &TargetModule) -> String {
    format!("{module}.weight")
}

/// Writes the updated tensors of `shard` into its `copy`, which is to be called `shown`.
fn merge_shard(
    (shard, copy, shown): &(&Path, &Path, PathBuf),
    update: &Adapter,
    file: &mut Merged,
) -> Result<Vec<(TargetModule, MergedSite)>> {
    let source = TensorFile::open(shard)?;
    let io = |e| Refused::write(shown, e);
    let mut target = OpenOptions::new().write(true).open(copy).map_err(io)?;
    let mut merged = Vec::new();
    for (module, adapter) in &update.modules {
        let name = weight_name(module);
        let Some((offset, _)) = source.place(&name) else {
            continue;
        };
        let weight = source.tensor(&name)?;
        let (sum, report) = add(&weight, adapter)?;
        if !report.delta_norm.is_finite() || !finite(&sum)? {
            let place = format!("tensor `{name}`");
            let expected = format!("a sum that fits {:?}", weight.dtype());
            let found = "numbers that are not finite";
            let hint = "the update is broken or far too large";
            return Err(Error::input(*shard, place, expected, found, hint));
        }
        let mut bytes = Vec::new();
        sum.write_bytes(&mut bytes)?;
        target.seek(SeekFrom::Start(offset)).map_err(io)?;
        target.write_all(&bytes).map_err(io)?;
        file.tensors.insert(name, files::sha256([bytes.as_slice()]));
        merged.push((*module, report));
    }
    Ok(merged)
}

/// `W + scale * B A` in W's dtype.
fn add(weight: &Tensor, adapter: &WeightDelta) -> Result<(Tensor, MergedSite)> {
    let delta = adapter.delta()?.to_device(&Device::Cpu)?;
    let delta = delta.to_dtype(DType::F32)?; // (O, I)
    let before = weight.to_dtype(DType::F32)?;
    let sum = (&before + &delta)?.to_dtype(weight.dtype())?;
    let different: Vec<u8> = sum.ne(weight)?.flatten_all()?.to_vec1()?;
    let changed = different.iter().filter(|&&x| x != 0).count();
    let report = MergedSite {
        delta_norm: norm(&delta)?,
        weight_norm: norm(&before)?,
        changed: changed as f64 / different.len().max(1) as f64,
    };
    Ok((sum, report))
}

fn norm(t: &Tensor) -> Result<f64> {
    let values: Vec<f32> = t.flatten_all()?.to_vec1()?;
    let squares = values.into_iter().map(|x| f64::from(x).powi(2));
    Ok(squares.sum::<f64>().sqrt())
}

fn finite(t: &Tensor) -> Result<bool> {
    let values: Vec<f32> = t.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    Ok(values.into_iter().all(f32::is_finite))
}

/// Files of a checkpoint that hold no weights: configuration, tokenizer, licence.
fn other_files(model: &Path) -> Result<Vec<PathBuf>> {
    let weights = "safetensors bin pth pt gguf uqff h5 msgpack onnx";
    let io = |e| Refused::read(model, e);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(model).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let extension = path.extension().unwrap_or_default();
        let of_weights = weights.split(' ').any(|weights| extension == weights);
        let of_weights = of_weights || name.ends_with(".bin.index.json");
        if path.is_file() && !of_weights && ![FILE, INDEX].contains(&&*name) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The file of a merged checkpoint that names its updates. Its weights have no place for such
/// a text, because their headers stay the same, and nothing else reads it.
pub const FILE: &str = "reptune.json";

const FORMAT: &str = "reptune.merged.1";

/// The updates in a merged checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Merged {
    format: String,
    /// Name and version of the program.
    pub made_by: String,
    /// Hashes of the updates, in the order in which they were merged.
    pub updates: Vec<String>,
    /// SHA-256 of every tensor that is not the base's.
    pub tensors: BTreeMap<String, String>,
}

impl Merged {
    /// Of a checkpoint in which nothing was changed yet.
    pub fn nothing() -> Self {
        Self {
            format: FORMAT.into(),
            made_by: concat!("reptune ", env!("CARGO_PKG_VERSION")).into(),
            updates: Vec::new(),
            tensors: BTreeMap::new(),
        }
    }

    /// What the checkpoint in `directory` says; none if this program merged nothing into it.
    ///
    /// # Errors
    /// When the file is broken.
    pub fn read(directory: &Path) -> Result<Option<Self>> {
        let path = directory.join(FILE);
        if !path.is_file() {
            return Ok(None);
        }
        let found = match serde_json::from_slice::<Self>(&files::read(&path)?) {
            Ok(read) if read.format == FORMAT => return Ok(Some(read)),
            Ok(read) => read.format,
            Err(e) => e.to_string(),
        };
        let hint = "merge again, or remove it";
        Err(Error::input(&path, "content", FORMAT, found, hint))
    }

    /// The text of the file.
    pub fn text(&self) -> String {
        let json = serde_json::to_string_pretty(self).unwrap_or_default();
        json + "\n"
    }

    /// Checks the changed tensors of the checkpoint in `directory` against their hashes.
    ///
    /// # Errors
    /// When one is missing or another.
    pub fn verify(&self, directory: &Path) -> Result<()> {
        let files = opened(&shards(directory)?)?;
        for (name, expected) in &self.tensors {
            let file = files.iter().find(|f| f.info(name).is_some());
            let found = match file {
                Some(file) => files::sha256([file.bytes(name)?.as_slice()]),
                None => "no such tensor".into(),
            };
            if found != *expected {
                let place = format!("tensor `{name}`");
                let expected = format!("SHA-256 {expected}, as {FILE} says");
                let hint = "the checkpoint was changed or damaged after the merge; merge again";
                return Err(Error::input(directory, place, expected, found, hint));
            }
        }
        Ok(())
    }
}
