//! A PEFT directory, written.

use super::{CONFIG, PREFIX, WEIGHTS};
use crate::artefact::{self, Table};
use crate::error::{Error, Result};
use crate::low_rank::{LowRank, LowRankUpdate, Site};
use candle_core::{DType, Tensor};
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Writes a PEFT directory.
///
/// `target_modules` lists whole module paths. PEFT matches those exactly, and
/// mistral.rs, which knows no `layers_to_transform` and takes the entries as
/// regular expressions, then merges at just these sites.
///
/// PEFT could say several ranks and scales in patterns, but mistral.rs skips those without
/// a word. So one rank and one scale are written: smaller factors get rows and columns of
/// zeros, and the ratio of the scales goes into B. The deltas stay what they were (a ratio
/// that is no power of two rounds B once).
///
/// # Errors
/// When there are no sites, one has a full delta, or a file cannot be written.
pub fn save(directory: &Path, update: &LowRankUpdate, base_model: &str) -> Result<()> {
    let Some(first) = update.sites.values().next() else {
        return Err(Error::value(
            "adapter",
            "at least one site",
            "none",
            "tune some sites first",
        ));
    };
    if let Some((site, _)) = update.sites.iter().find(|(_, l)| l.full.is_some()) {
        return Err(Error::Unsupported {
            what: format!("writing {site}, a full delta, as a PEFT adapter"),
            reason: "PEFT has factors alone; write it with `delta_file::save`, or merge it".into(),
        });
    }
    let ranks = update.sites.values().map(LowRank::rank);
    let (rank, scale) = (ranks.max().unwrap_or(1), first.scale);
    let alpha = scale * rank as f64;
    let whole = (alpha - alpha.round()).abs() < 1e-9;
    let modules: Vec<String> = update.sites.keys().map(Site::to_string).collect();
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
    for (site, l) in &update.sites {
        let (a, b) = alike(l, rank, scale)?;
        for (letter, factor) in [("A", a), ("B", b)] {
            let table = Table {
                shape: factor.dims().to_vec(),
                data: factor.flatten_all()?.to_vec1()?,
            };
            tables.insert(format!("{PREFIX}{site}.lora_{letter}.weight"), table);
        }
    }
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    artefact::write_tables(&directory.join(WEIGHTS), &tables, metadata)?;
    let text = serde_json::to_string_pretty(&config).unwrap_or_default();
    artefact::write_atomically(&directory.join(CONFIG), |w| writeln!(w, "{text}"))
}

/// Factors of the same delta with this rank and scale, f32.
fn alike(l: &LowRank, rank: usize, scale: f64) -> Result<(Tensor, Tensor)> {
    let (mut a, mut b) = (l.a.to_dtype(DType::F32)?, l.b.to_dtype(DType::F32)?);
    if l.scale != scale {
        b = (b.to_dtype(DType::F64)? * (l.scale / scale))?.to_dtype(DType::F32)?;
    }
    if l.rank() < rank {
        a = a.pad_with_zeros(0, 0, rank - l.rank())?; // (R, I)
        b = b.pad_with_zeros(1, 0, rank - l.rank())?; // (O, R)
    }
    Ok((a, b))
}
