//! Low-rank updates as PEFT directories: `adapter_config.json` and
//! `adapter_model.safetensors`, as Hugging Face PEFT and mistral.rs load them.

use crate::artefact::{self, Table};
use crate::delta_file;
use crate::error::{Error, Result};
use crate::host::ModelSpec;
use crate::low_rank::{LowRank, LowRankUpdate, Site};
use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
const PREFIX: &str = "base_model.model.";

/// Writes a PEFT directory.
///
/// `target_modules` lists whole module paths. PEFT matches those exactly, and
/// mistral.rs, which knows no `layers_to_transform` and takes the entries as
/// regular expressions, then merges at just these sites.
///
/// # Errors
/// When the sites have different ranks or scales, one has a full delta, or a file
/// cannot be written.
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
    let (rank, scale) = (first.rank(), first.scale);
    if update
        .sites
        .values()
        .any(|l| l.rank() != rank || l.scale != scale)
    {
        return Err(Error::Unsupported {
            what: "writing an adapter with several ranks or scales".into(),
            reason: "mistral.rs reads one rank and one alpha; use the same for all sites".into(),
        });
    }
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
        for (letter, factor) in [("A", &l.a), ("B", &l.b)] {
            let factor = factor.to_dtype(DType::F32)?;
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

/// Reads a PEFT directory for `model`, or one that [`delta_file`] wrote.
///
/// # Errors
/// When it is not LoRA, is of a kind not taken (each is named), or does not fit the model.
pub fn load(directory: &Path, model: &ModelSpec) -> Result<LowRankUpdate> {
    if directory.join(delta_file::FILE).is_file() && !directory.join(CONFIG).exists() {
        return delta_file::load(directory, model);
    }
    let update = read(directory)?;
    update.check_model(&directory.join(WEIGHTS), model)?;
    Ok(update)
}

/// Reads a PEFT directory, whatever model it is for.
///
/// # Errors
/// When it is not LoRA, is of a kind not taken (each is named), or its tensors do not fit
/// its configuration.
pub fn read(directory: &Path) -> Result<LowRankUpdate> {
    let path = directory.join(CONFIG);
    let config: Value = serde_json::from_slice(&artefact::read(&path)?).map_err(|e| {
        Error::content(
            &path,
            format!("line {}", e.line()),
            "JSON",
            e.to_string(),
            "write the adapter again",
        )
    })?;
    refuse(&path, &config)?;
    let number = |key: &str| {
        config[key].as_f64().filter(|x| *x > 0.).ok_or_else(|| {
            Error::content(
                &path,
                format!("key `{key}`"),
                "a positive number",
                config[key].to_string(),
                "write the adapter again",
            )
        })
    };
    let (rank, alpha) = (number("r")? as usize, number("lora_alpha")?);
    let scale = match config["use_rslora"].as_bool() {
        Some(true) => alpha / (rank as f64).sqrt(),
        _ => alpha / rank as f64,
    };
    let path = directory.join(WEIGHTS);
    let (mut tables, _) = artefact::read_tables(&path)?;
    let mut sites = BTreeMap::new();
    let names: Vec<String> = tables
        .keys()
        .filter(|n| n.ends_with(".lora_A.weight"))
        .cloned()
        .collect();
    for name in names {
        let module = name.trim_end_matches(".lora_A.weight");
        let bare = module.strip_prefix(PREFIX).unwrap_or(module);
        let site = Site::parse(bare).ok_or_else(|| {
            Error::content(
                &path,
                format!("tensor `{name}`"),
                "a linear layer of a block",
                format!("`{bare}`"),
                "only q, k, v, o, gate, up and down are taken",
            )
        })?;
        let mut take = |suffix: &str, dim: usize| -> Result<Tensor> {
            let name = format!("{module}.{suffix}.weight");
            let wrong = |found: String| {
                let expected = format!("a matrix whose dim {dim} is the rank {rank} of its config");
                let hint = "tensors and config belong to different adapters; write it again";
                Error::content(&path, format!("tensor `{name}`"), expected, found, hint)
            };
            let table = tables
                .remove(&name)
                .ok_or_else(|| wrong("nothing".into()))?;
            match table.shape[..] {
                [a, b] if table.shape[dim] == rank => {
                    Ok(Tensor::from_vec(table.data, (a, b), &Device::Cpu)?)
                }
                _ => Err(wrong(format!("shape {:?}", table.shape))),
            }
        };
        let low_rank = LowRank {
            a: take("lora_A", 0)?,
            b: take("lora_B", 1)?,
            scale,
            full: None,
        };
        sites.insert(site, low_rank);
    }
    if let Some(name) = tables.keys().next() {
        return Err(Error::content(
            &path,
            format!("tensor `{name}`"),
            "`lora_A.weight` and `lora_B.weight` alone",
            "another tensor",
            "only plain LoRA on linear layers is taken",
        ));
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

/// Refuses every kind of adapter whose delta is not `scale * B A` on linear weights.
fn refuse(path: &Path, config: &Value) -> Result<()> {
    if config["peft_type"] != "LORA" {
        return Err(Error::content(
            path,
            "key `peft_type`",
            "\"LORA\"",
            config["peft_type"].to_string(),
            "only LoRA adapters are taken",
        ));
    }
    let set = |key: &str| match &config[key] {
        Value::Null | Value::Bool(false) => false,
        Value::Array(a) => !a.is_empty(),
        Value::Object(o) => !o.is_empty(),
        _ => true,
    };
    let kinds = [
        ("use_dora", "DoRA scales the rows of the merged weight"),
        ("lora_bias", "it trains biases beside A and B"),
        ("modules_to_save", "it replaces whole modules"),
        ("layer_replication", "it changes the number of blocks"),
        ("rank_pattern", "it has several ranks"),
        ("alpha_pattern", "it has several alphas"),
        ("fan_in_fan_out", "its weights are transposed"),
        ("use_qalora", "it pools its inputs"),
        ("target_parameters", "it tunes bare parameters"),
        ("trainable_token_indices", "it tunes embeddings"),
        ("alora_invocation_tokens", "it is switched on by tokens"),
    ];
    for (key, reason) in kinds {
        if set(key) {
            return Err(Error::Unsupported {
                what: format!("{}: adapter with `{key}`", path.display()),
                reason: format!("{reason}; only plain LoRA on linear layers is taken"),
            });
        }
    }
    if !matches!(config["bias"].as_str(), None | Some("none")) {
        return Err(Error::Unsupported {
            what: format!(
                "{}: adapter with `bias` = {}",
                path.display(),
                config["bias"]
            ),
            reason: "it trains biases beside A and B; only plain LoRA on linear layers is taken"
                .into(),
        });
    }
    if let Some(init) = config["init_lora_weights"]
        .as_str()
        .filter(|i| *i != "gaussian")
    {
        return Err(Error::Unsupported {
            what: format!(
                "{}: adapter with `init_lora_weights` = \"{init}\"",
                path.display()
            ),
            reason:
                "such an adapter is relative to a changed base model; convert it with PEFT first"
                    .into(),
        });
    }
    Ok(())
}
