//! A PEFT directory, read.

use super::config::Config;
use super::{CONFIG, PREFIX, WEIGHTS};
use crate::delta_file;
use crate::error::{Error, Result};
use crate::host::ModelSpec;
use crate::low_rank::{LowRank, LowRankUpdate, Site};
use crate::tensor_file::TensorFile;
use candle_core::{DType, Tensor};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const PICKLED: &str = "adapter_model.bin";

/// Reads a PEFT directory for `model`, or one that [`delta_file`] wrote.
///
/// # Errors
/// When it is not LoRA, is of a kind not taken (each is named), or does not fit the model.
pub fn load(directory: &Path, model: &ModelSpec) -> Result<LowRankUpdate> {
    if directory.join(delta_file::FILE).is_file() && !directory.join(CONFIG).exists() {
        return delta_file::load(directory, model);
    }
    let directory = named(directory)?;
    let update = read(&directory)?;
    update.check_model(&directory.join(WEIGHTS), model)?;
    Ok(update)
}

/// Reads a PEFT directory, whatever model it is for. PEFT writes an adapter that is not
/// called `default` into a directory of that name; it is found if it is the only one.
///
/// # Errors
/// When it is not LoRA, is of a kind not taken (each is named), or its tensors do not fit
/// its configuration.
pub fn read(directory: &Path) -> Result<LowRankUpdate> {
    let directory = named(directory)?;
    let config = Config::read(&directory.join(CONFIG))?;
    let path = directory.join(WEIGHTS);
    if !path.is_file() && directory.join(PICKLED).is_file() {
        return Err(Error::Unsupported {
            what: format!("{}: a pickled adapter", directory.join(PICKLED).display()),
            reason: "pickles run code when they are read; load it with PEFT and save it again \
                     with `save_pretrained(.., safe_serialization=True)`"
                .into(),
        });
    }
    let file = TensorFile::open(&path)?;
    let mut names = file.names();
    names.sort_unstable();
    let mut sites = BTreeMap::new();
    for name in &names {
        let wrong = |expected: &str, found: &str, hint: &str| {
            Error::content(&path, format!("tensor `{name}`"), expected, found, hint)
        };
        if let Some(kind) = other_kind(name) {
            return Err(Error::Unsupported {
                what: format!("{}: tensor `{name}`, {kind},", path.display()),
                reason: "only plain LoRA on linear layers is taken; merge it with PEFT and \
                         give the merged model"
                    .into(),
            });
        }
        let Some((module, factor)) = split(name) else {
            return Err(wrong(
                "`lora_A.weight` and `lora_B.weight` alone",
                "another tensor",
                "only plain LoRA on linear layers is taken",
            ));
        };
        let bare = module.strip_prefix(PREFIX).unwrap_or(module);
        let site = Site::parse(bare).ok_or_else(|| {
            wrong(
                "a linear layer of a block",
                &format!("`{bare}`"),
                "only q, k, v, o, gate, up and down are taken",
            )
        })?;
        let partner = format!(
            "{module}.lora_{}.weight",
            if factor == 'A' { 'B' } else { 'A' }
        );
        if file.info(&partner).is_none() {
            let expected = format!("`{partner}` beside it");
            return Err(wrong(
                &expected,
                "nothing",
                "the adapter is not complete; write it again",
            ));
        }
        if factor == 'B' {
            continue;
        }
        let (rank, scale) = config.module(bare)?;
        let low_rank = LowRank {
            a: matrix(&file, &path, name, 0, rank)?,
            b: matrix(&file, &path, &partner, 1, rank)?,
            scale,
            full: None,
        };
        if sites.insert(site, low_rank).is_some() {
            return Err(wrong("one for this site", "two", "write the adapter again"));
        }
    }
    if sites.is_empty() {
        return Err(Error::content(
            &path,
            "tensors",
            "at least one `lora_A.weight`",
            "none",
            "the file holds no LoRA",
        ));
    }
    Ok(LowRankUpdate { sites })
}

/// `directory`, or the only adapter below it.
fn named(directory: &Path) -> Result<PathBuf> {
    if directory.join(CONFIG).is_file() {
        return Ok(directory.to_owned());
    }
    let listing = std::fs::read_dir(directory).map_err(|e| Error::read(directory, e))?;
    let mut below: Vec<PathBuf> = listing
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join(CONFIG).is_file())
        .collect();
    below.sort();
    match below.as_slice() {
        [] => Ok(directory.to_owned()),
        [one] => Ok(one.clone()),
        several => {
            let name = |p: &PathBuf| p.file_name().map(|n| n.to_string_lossy().into_owned());
            let names: Vec<String> = several.iter().filter_map(name).collect();
            Err(Error::content(
                directory,
                CONFIG,
                "one adapter",
                format!("{}: {}", several.len(), names.join(", ")),
                "name the directory of one of them",
            ))
        }
    }
}

/// Module and factor of a tensor's name.
fn split(name: &str) -> Option<(&str, char)> {
    let (module, suffix) = name.rsplit_once(".lora_")?;
    match suffix {
        "A.weight" => Some((module, 'A')),
        "B.weight" => Some((module, 'B')),
        _ => None,
    }
}

fn other_kind(name: &str) -> Option<&'static str> {
    let (_, suffix) = name.rsplit_once(".lora_")?;
    let kind = suffix.split('.').next().unwrap_or_default();
    match kind {
        "magnitude_vector" => Some("the magnitudes of DoRA"),
        "embedding_A" | "embedding_B" => Some("an update of the embeddings"),
        "B" if suffix == "B.bias" => Some("a bias (`lora_bias`)"),
        _ => None,
    }
}

/// A factor in f32, whose dim `dim` is the rank.
fn matrix(file: &TensorFile, path: &Path, name: &str, dim: usize, rank: usize) -> Result<Tensor> {
    let shape = file.info(name).map(|i| i.shape.clone()).unwrap_or_default();
    if shape.len() != 2 || shape[dim] != rank || shape.contains(&0) {
        return Err(Error::content(
            path,
            format!("tensor `{name}`"),
            format!("a matrix whose dim {dim} is the rank {rank} of its config"),
            format!("shape {shape:?}"),
            "tensors and config belong to different adapters; write it again",
        ));
    }
    let tensor = file.tensor(name)?.to_dtype(DType::F32)?;
    let values = tensor.flatten_all()?.to_vec1::<f32>()?;
    if !values.iter().all(|x| x.is_finite()) {
        return Err(Error::content(
            path,
            format!("tensor `{name}`"),
            "finite numbers",
            "NaN or infinity",
            "the training that wrote it diverged",
        ));
    }
    Ok(tensor)
}
