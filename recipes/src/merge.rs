//! Merging: low-rank updates folded into a full checkpoint.
//!
//! A merged checkpoint has the very files, headers, names and dtypes of the one it
//! comes from, so every shard is copied and only the bytes of the updated tensors
//! are written anew: one tensor in memory at a time.

use crate::error::Result;
use crate::merged::{self, Merged};
use candle_core::{DType, Device, Tensor};
use reptune_adapters::files::Staging;
use reptune_adapters::formats::safetensors::{TensorFile, shards};
use reptune_adapters::{Adapter, Error, TargetModule, WeightDelta, files};
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
        self.modules
            .iter()
            .map(|(module, m)| (*module, m.delta_norm / m.weight_norm))
            .max_by(|a, b| a.1.total_cmp(&b.1))
    }
}

/// Folds `update` into the checkpoint `model` and writes the result to `out`:
/// `W + scale * B A`, added in f32 and rounded once to the dtype of W.
///
/// Everything else is copied byte for byte, and [`merged::FILE`] tells of the update;
/// subdirectories and weights in other formats are left out. `progress` hears of every finished shard: its path, how
/// many are done, and of how many.
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
    let staging = Staging::new(out)?;
    let shards = shards(model)?;
    check(model, &shards, update)?;
    let mut modules = BTreeMap::new();
    let mut merged = Merged::read(model)?.unwrap_or_else(Merged::nothing);
    merged.updates.push(update.content_hash()?);
    for (done, shard) in shards.iter().enumerate() {
        let copy = staging.copy(shard)?;
        let paths = (shard.as_path(), copy.as_path(), staging.shown(&copy));
        modules.extend(merge_shard(&paths, update, &mut merged)?);
        progress(shard, done + 1, shards.len());
    }
    let others = other_files(model)?;
    for file in &others {
        staging.copy(file)?;
    }
    let told = staging.path().join(merged::FILE);
    std::fs::write(&told, merged.text()).map_err(|e| Error::write(staging.shown(&told), e))?;
    staging.commit()?;
    Ok(MergeReport {
        modules,
        files: shards.len() + others.len() + 1,
    })
}

/// Checks before anything is copied that every module has its weight.
fn check(model: &Path, shards: &[PathBuf], update: &Adapter) -> Result<()> {
    let files: Vec<TensorFile> = shards
        .iter()
        .map(|s| TensorFile::open(s))
        .collect::<std::result::Result<_, _>>()?;
    for (module, adapter) in &update.modules {
        let name = weight_name(module);
        let expected = [adapter.b.dims()[0], adapter.a.dims()[1]];
        let found = match files.iter().find_map(|f| f.info(&name)) {
            Some(info) if info.shape == expected => continue,
            Some(info) => format!("{:?}", info.shape),
            None => "nothing".into(),
        };
        return Err(Error::content(
            model,
            format!("tensor `{name}`"),
            format!("shape {expected:?}"),
            found,
            "the update is for another model, or this checkpoint is quantized; merge into the full one",
        )
        .into());
    }
    Ok(())
}

fn weight_name(module: &TargetModule) -> String {
    format!("{module}.weight")
}

/// Writes the updated tensors of `shard` into its `copy`, which is to be called `shown`.
fn merge_shard(
    (shard, copy, shown): &(&Path, &Path, PathBuf),
    update: &Adapter,
    told: &mut Merged,
) -> Result<Vec<(TargetModule, MergedSite)>> {
    let source = TensorFile::open(shard)?;
    let io = |e| Error::write(shown, e);
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
            return Err(Error::content(
                *shard,
                format!("tensor `{name}`"),
                format!("a sum that fits {:?}", weight.dtype()),
                "numbers that are not finite",
                "the update is broken or far too large",
            )
            .into());
        }
        let mut bytes = Vec::new();
        sum.write_bytes(&mut bytes)?;
        target
            .seek(SeekFrom::Start(offset))
            .and_then(|_| target.write_all(&bytes))
            .map_err(io)?;
        told.tensors.insert(name, files::sha256([bytes.as_slice()]));
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
    let sum: f64 = t
        .flatten_all()?
        .to_vec1::<f32>()?
        .into_iter()
        .map(|x| f64::from(x).powi(2))
        .sum();
    Ok(sum.sqrt())
}

fn finite(t: &Tensor) -> Result<bool> {
    let values: Vec<f32> = t.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    Ok(values.into_iter().all(f32::is_finite))
}

/// Files of a checkpoint that hold no weights: configuration, tokenizer, licence, the index.
fn other_files(model: &Path) -> Result<Vec<PathBuf>> {
    let weights = [
        "safetensors",
        "bin",
        "pth",
        "pt",
        "gguf",
        "uqff",
        "h5",
        "msgpack",
        "onnx",
    ];
    let entries = std::fs::read_dir(model).map_err(|e| Error::read(model, e))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| Error::read(model, e))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let extension = path.extension().unwrap_or_default().to_string_lossy();
        let of_weights = weights.contains(&&*extension) || name.ends_with(".bin.index.json");
        if path.is_file() && !of_weights && name != merged::FILE {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
