//! Adapters with full deltas, in a file of our own because PEFT has no form for them.
//!
//! `reptune_delta.safetensors` holds `{module}.delta` (O, I) for a weight that was tuned
//! directly, `{module}.A` (R, I) and `{module}.B` (O, R) for one with factors, all F32. Its
//! metadata has the scale of each pair of factors, the model's fingerprint and a hash of
//! everything. [`crate::lora::peft::load`] reads it too.

use crate::error::{Error, Result};
use crate::formats::tables::{self, CONTENT_HASH, Table};
use crate::lora::adapter::{Adapter, WeightDelta};
use crate::model::ModelSpec;
use crate::model::TargetModule;
use candle_core::{DType, Device, Tensor};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Name of the file in its directory.
pub const FILE: &str = "reptune_delta.safetensors";

const FORMAT: &str = "reptune.delta.1";
const SCALE: &str = "scale ";

/// Writes [`FILE`] into `directory`.
///
/// # Errors
/// When `adapter` has no module, or the file cannot be written.
pub fn save(directory: &Path, adapter: &Adapter, model: &ModelSpec) -> Result<()> {
    if adapter.modules.is_empty() {
        let hint = "tune some modules first";
        return Err(Error::value("adapter", "at least one module", "none", hint));
    }
    let (tables, mut metadata) = tables(adapter)?;
    for (key, value) in [
        ("format", FORMAT),
        ("model", &model.name),
        ("model_fingerprint", &model.fingerprint),
    ] {
        metadata.insert(key.to_owned(), value.to_owned());
    }
    let hash = tables::content_hash(&tables, &metadata);
    metadata.insert(CONTENT_HASH.to_owned(), hash);
    tables::write_tables(&directory.join(FILE), &tables, metadata)
}

/// Tensors of a file and their names.
pub type Tables = BTreeMap<String, Table>;

/// Metadata of a file.
pub type Metadata = HashMap<String, String>;

/// An adapter as tensors `{module}.A`, `{module}.B` or `{module}.delta`, and its scales as
/// metadata, for files that hold more than one adapter.
///
/// # Errors
/// When a factor cannot be read from its device.
pub fn tables(adapter: &Adapter) -> Result<(Tables, Metadata)> {
    let (mut tables, mut metadata) = (Tables::new(), Metadata::new());
    for (module, delta) in &adapter.modules {
        if delta.full.is_none() {
            metadata.insert(format!("{SCALE}{module}"), delta.scale.to_string());
        }
        for (name, factor) in delta.factors() {
            let table = Table {
                shape: factor.dims().to_vec(),
                data: factor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?,
            };
            tables.insert(format!("{module}.{name}"), table);
        }
    }
    Ok((tables, metadata))
}

/// Reads [`FILE`] from `directory` for `model`.
///
/// # Errors
/// When it has another format, was changed, or does not fit the model.
pub fn load(directory: &Path, model: &ModelSpec) -> Result<Adapter> {
    let path = directory.join(FILE);
    let (adapter, metadata) = whole(&path)?;
    let key = "model_fingerprint";
    let found = metadata.get(key).map_or("nothing", String::as_str);
    if found != model.fingerprint {
        return Err(Error::content(
            &path,
            format!("metadata `{key}`"),
            format!("`{}`", model.fingerprint),
            format!("`{found}`"),
            "the adapter belongs to another model",
        ));
    }
    adapter.check_model(&path, model)?;
    Ok(adapter)
}

/// Reads [`FILE`] from `directory`, whatever model it is for.
///
/// # Errors
/// When it has another format, or was changed.
pub fn read(directory: &Path) -> Result<Adapter> {
    Ok(whole(&directory.join(FILE))?.0)
}

fn whole(path: &Path) -> Result<(Adapter, Metadata)> {
    let (tables, metadata) = tables::read_tables(path)?;
    let hash = tables::content_hash(&tables, &metadata);
    for (key, expected) in [("format", FORMAT), (CONTENT_HASH, hash.as_str())] {
        let found = metadata.get(key).map_or("nothing", String::as_str);
        if found != expected {
            return Err(Error::content(
                path,
                format!("metadata `{key}`"),
                format!("`{expected}`"),
                format!("`{found}`"),
                "this is not an adapter of reptune, or it was changed",
            ));
        }
    }
    Ok((from_tables(path, tables, &metadata)?, metadata))
}

/// The adapter of [`tables()`]; errors name the file `path`.
///
/// # Errors
/// When a tensor or scale is missing, superfluous, or of a shape that does not fit the others.
pub fn from_tables(path: &Path, mut tables: Tables, metadata: &Metadata) -> Result<Adapter> {
    let wrong = |place: String, expected: String, found: String| {
        Error::content(path, place, expected, found, "save the adapter again")
    };
    let modules: Vec<(String, Option<TargetModule>)> = tables
        .keys()
        .filter_map(|name| {
            let module = name.strip_suffix(".delta").or(name.strip_suffix(".A"))?;
            Some((name.clone(), TargetModule::parse(module)))
        })
        .collect();
    let mut adapter = Adapter::default();
    for (name, module) in modules {
        let module = module.ok_or_else(|| {
            wrong(
                "tensors".into(),
                "a linear layer of a block".into(),
                format!("`{name}`"),
            )
        })?;
        let mut take = |name: &str, rows: Option<usize>| -> Result<Tensor> {
            let place = format!("tensor `{module}.{name}`");
            let expected = match rows {
                Some(_) => "a matrix whose rank is that of A".to_owned(),
                None => "a matrix".to_owned(),
            };
            let Some(t) = tables.remove(&format!("{module}.{name}")) else {
                return Err(wrong(place, expected, "nothing".into()));
            };
            match t.shape[..] {
                [a, b] if rows.is_none_or(|r| r == b) && a * b == t.data.len() => {
                    Ok(Tensor::from_vec(t.data, (a, b), &Device::Cpu)?)
                }
                _ => Err(wrong(place, expected, format!("shape {:?}", t.shape))),
            }
        };
        let delta = if name.ends_with(".delta") {
            WeightDelta::direct(take("delta", None)?)?
        } else {
            let key = format!("{SCALE}{module}");
            let scale = metadata.get(&key).and_then(|s| s.parse().ok());
            let scale = scale.ok_or_else(|| {
                let found = format!("{:?}", metadata.get(&key));
                wrong(format!("metadata `{key}`"), "a number".into(), found)
            })?;
            let a = take("A", None)?;
            WeightDelta {
                b: take("B", Some(a.dims()[0]))?,
                a,
                scale,
                full: None,
            }
        };
        adapter.modules.insert(module, delta);
    }
    match tables.keys().next() {
        Some(name) => Err(wrong(
            format!("tensor `{name}`"),
            "`A` and `B`, or `delta`, of each module once".into(),
            "another tensor".into(),
        )),
        None => Ok(adapter),
    }
}

#[cfg(test)]
mod tests;
