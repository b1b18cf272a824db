//! Adapters with full deltas, in a file of our own because PEFT has no form for them.
//!
//! `reptune_delta.safetensors` holds `{module}.delta` (O, I) for a weight that was tuned
//! directly, `{module}.A` (R, I) and `{module}.B` (O, R) for one with factors, all F32. Its
//! metadata has the scale of each pair of factors, the model's fingerprint and a hash of
//! everything. [`crate::lora::peft::load`] reads it too.

use crate::error::{Error, Result};
use crate::formats::tables::{self, CONTENT_HASH, Metadata, Table, Tables};
use crate::lora::adapter::{Adapter, WeightDelta};
use crate::model::{ModelSpec, TargetModule};
use candle_core::{Device, Tensor};
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
    adapter.check_not_empty()?;
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
            tables.insert(format!("{module}.{name}"), Table::of(factor)?);
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
    let hint = "the adapter belongs to another model";
    let key = "model_fingerprint";
    if !metadata.get(key).is_some_and(|found| model.is(found)) {
        tables::expect((&path, &metadata), key, &model.fingerprint, hint)?;
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
        let hint = "this is not an adapter of reptune, or it was changed";
        tables::expect((path, &metadata), key, expected, hint)?;
    }
    Ok((from_tables(path, tables, &metadata)?, metadata))
}

/// The adapter of [`tables()`]; errors name the file `path`.
///
/// # Errors
/// When a tensor or scale is missing, superfluous, or of a shape that does not fit the others.
pub fn from_tables(path: &Path, mut tables: Tables, metadata: &Metadata) -> Result<Adapter> {
    let wrong = |place: String, expected: &str, found: String| {
        Error::content(path, place, expected, found, "save the adapter again")
    };
    let mut adapter = Adapter::default();
    for name in tables.keys().cloned().collect::<Vec<_>>() {
        let Some(module) = name.strip_suffix(".delta").or(name.strip_suffix(".A")) else {
            continue;
        };
        let module = TargetModule::parse(module).ok_or_else(|| {
            let (expected, found) = ("a linear layer of a block", format!("`{name}`"));
            wrong("tensors".into(), expected, found)
        })?;
        let mut take = |factor: &str, columns: Option<usize>| -> Result<Tensor> {
            let name = format!("{module}.{factor}");
            let found = match tables.remove(&name) {
                None => "nothing".to_owned(),
                Some(Table { shape, data }) => match shape[..] {
                    [a, b] if columns.is_none_or(|c| c == b) && a * b == data.len() => {
                        return Ok(Tensor::from_vec(data, (a, b), &Device::Cpu)?);
                    }
                    _ => format!("shape {shape:?}"),
                },
            };
            let expected = match columns {
                Some(_) => "a matrix whose rank is that of A",
                None => "a matrix",
            };
            Err(wrong(format!("tensor `{name}`"), expected, found))
        };
        let delta = if name.ends_with(".delta") {
            WeightDelta::direct(take("delta", None)?)?
        } else {
            let key = format!("{SCALE}{module}");
            let scale = metadata.get(&key).and_then(|s| s.parse().ok());
            let scale = scale.ok_or_else(|| {
                let found = format!("{:?}", metadata.get(&key));
                wrong(format!("metadata `{key}`"), "a number", found)
            })?;
            let a = take("A", None)?;
            let b = take("B", Some(a.dims()[0]))?;
            let full = None;
            WeightDelta { a, b, scale, full }
        };
        adapter.modules.insert(module, delta);
    }
    let Some(name) = tables.keys().next() else {
        return Ok(adapter);
    };
    let (place, found) = (format!("tensor `{name}`"), "another tensor".to_owned());
    let expected = "`A` and `B`, or `delta`, of each module once";
    Err(wrong(place, expected, found))
}

#[cfg(test)]
mod tests;
