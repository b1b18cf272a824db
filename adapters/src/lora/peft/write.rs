//! Writing an adapter so that all readers agree on it.

use super::config::{CONFIG, PREFIX, WEIGHTS};
use crate::error::{Error, Result};
use crate::files;
use crate::formats::tables::{self, Table};
use crate::lora::adapter::{Adapter, WeightDelta};
use crate::model::TargetModule;
use candle_core::{DType, Tensor};
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Writes a PEFT directory.
///
/// `target_modules` lists whole module paths. PEFT matches those exactly, and
/// mistral.rs, which knows no `layers_to_transform` and takes the entries as
/// regular expressions, then merges at just these modules.
///
/// One rank and one scale are written. PEFT reads several from `rank_pattern` and
/// `alpha_pattern`, but mistral.rs reads neither: it fails on a different rank and silently
/// applies the wrong alpha. So where they differ
///
/// - a lower rank is padded with zeros to the highest, which changes no delta;
/// - a smaller scale moves into B: `B * (scale / largest scale)`, which rounds B in its
///   last bit unless the ratio is a power of two.
///
/// # Errors
/// When there are no modules, one has a full delta, or a file cannot be written.
pub fn save(directory: &Path, adapter: &Adapter, base_model: &str) -> Result<()> {
    if adapter.modules.is_empty() {
        return Err(Error::value(
            "adapter",
            "at least one module",
            "none",
            "tune some modules first",
        ));
    }
    if let Some((module, _)) = adapter
        .modules
        .iter()
        .find(|(_, delta)| delta.full.is_some())
    {
        return Err(Error::Unsupported {
            what: format!("writing {module}, a full delta, as a PEFT adapter"),
            reason: "PEFT has only factors; write it with `delta_file::save`, or merge it".into(),
        });
    }
    let rank = adapter
        .modules
        .values()
        .map(WeightDelta::rank)
        .fold(0, usize::max);
    let scales = adapter.modules.values().map(|delta| delta.scale);
    let scale = scales.fold(0f64, |s, x| if x.abs() > s.abs() { x } else { s });
    let alpha = scale * rank as f64;
    let whole = (alpha - alpha.round()).abs() < 1e-9;
    let modules: Vec<String> = adapter
        .modules
        .keys()
        .map(TargetModule::to_string)
        .collect();
    let config = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "inference_mode": true,
        "r": rank,
        "lora_alpha": if whole { json!(alpha.round() as i64) } else { json!(alpha) },
        "lora_dropout": 0.0,
        "target_modules": modules,
        "bias": "none",
        "fan_in_fan_out": false,
        "use_rslora": false,
        "use_dora": false,
        "modules_to_save": null,
    });
    let mut tables = BTreeMap::new();
    for (module, delta) in &adapter.modules {
        for (letter, factor) in [
            ("A", padded(&delta.a, 0, rank)?),
            ("B", rescaled(delta, rank, scale)?),
        ] {
            let table = Table {
                shape: factor.dims().to_vec(),
                data: factor.flatten_all()?.to_vec1()?,
            };
            tables.insert(format!("{PREFIX}{module}.lora_{letter}.weight"), table);
        }
    }
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    tables::write_tables(&directory.join(WEIGHTS), &tables, metadata)?;
    let text = serde_json::to_string_pretty(&config).unwrap_or_default();
    files::write_atomically(&directory.join(CONFIG), |w| writeln!(w, "{text}"))
}

/// `factor` in f32, with zeros up to `rank` in `dim`.
fn padded(factor: &Tensor, dim: usize, rank: usize) -> Result<Tensor> {
    let has = factor.dims()[dim];
    Ok(factor
        .to_dtype(DType::F32)?
        .pad_with_zeros(dim, 0, rank - has)?)
}

/// B for `scale` instead of its own.
fn rescaled(delta: &WeightDelta, rank: usize, scale: f64) -> Result<Tensor> {
    let b = padded(&delta.b, 1, rank)?;
    Ok(match delta.scale == scale {
        true => b,
        false => (b.to_dtype(DType::F64)? * (delta.scale / scale))?.to_dtype(DType::F32)?,
    })
}
