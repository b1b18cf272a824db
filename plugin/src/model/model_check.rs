//! What a model directory holds, and who loads it as it lies: known before any work begins.

use super::companions::{Companions, parsed_by_engine};
use super::config::ModelConfig;
use super::model_dir::ModelDir;
use super::source::Source;
use crate::error::Result;
use crate::progress;
use reptune_adapters::files;
use reptune_adapters::formats::safetensors::{INDEX, shard_names};
use reptune_recipes::{Chat, TokenizerFile};
use serde_json::Value;
use std::path::PathBuf;

/// A model that was checked: everything that this program and the engine read is there.
pub struct ModelCheck {
    /// The model.
    pub source: Source,
    /// What was found, in the order in which it is printed.
    pub facts: Vec<(&'static str, String)>,
    /// What reptune reads in another way than it lies there, one sentence each.
    pub corrected: Vec<String>,
}

/// Checks the model: configuration, weights (by their headers), tokenizer, chat template, and
/// the companions that mistral.rs would be given.
///
/// # Errors
/// When something is missing, broken or of a kind that is not supported.
pub fn check(model: &ModelDir) -> Result<ModelCheck> {
    let source = Source::open(model.path())?;
    let companions = Companions::of(&model.directory, &source.config)?;
    let chat = Chat::load(&model.directory)?;
    let tokenizer = TokenizerFile::read(&model.directory)?;
    let raw = serde_json::from_slice(&files::read(&model.directory.join("config.json"))?);
    let raw: Value = raw.unwrap_or_default();
    let weights = model.weights()?;
    let mut corrected = config_notes(&raw, &source.config.json);
    corrected.extend(companions.notes.iter().cloned());
    corrected.extend(weight_notes(model, &weights));
    let (config, json) = (&source.config, &source.config.json);
    let text = |value: &Value| {
        value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned)
    };
    let heads = format!(
        "{} of width {}, {} for keys and values",
        config.num_attention_heads, source.spec.head_dim, config.num_key_value_heads
    );
    let rope = match &json["rope_scaling"] {
        Value::Null => format!("theta {}", json["rope_theta"]),
        scaling => {
            let parts = scaling.as_object().into_iter().flatten();
            let parts = parts.map(|(key, value)| format!("{key} {}", text(value)));
            let parts: Vec<String> = parts.collect();
            format!("theta {}, {}", json["rope_theta"], parts.join(", "))
        }
    };
    let end = |id: &u32| {
        let token = chat.tokenizer().id_to_token(*id);
        format!("{} ({id})", token.unwrap_or_else(|| "no token".into()))
    };
    let ends: Vec<String> = chat.stop.iter().map(end).collect();
    let count = chat.tokenizer().get_vocab_size(true);
    let mut facts = vec![
        ("architecture", text(&json["architectures"][0])),
        ("heads", heads),
        ("context", source.spec.context.to_string()),
        ("rope", rope),
        (
            "tokenizer",
            format!(
                "{}, {count} tokens",
                text(&tokenizer.json()["model"]["type"])
            ),
        ),
        ("chat template", template(model)?),
        ("turn ends", ends.join(", ")),
    ];
    let verdicts = verdicts(model, &raw, &source.config, &companions, &weights);
    facts.extend(verdicts.map(|(engine, faults)| match faults.is_empty() {
        true => (engine, "loads as it lies".to_owned()),
        false => (engine, format!("not as it lies: {}", faults.join("; "))),
    }));
    Ok(ModelCheck {
        source,
        facts,
        corrected,
    })
}

/// Checks the model before work begins, and shows what is read in another way than it lies there.
///
/// # Errors
/// Those of [`check`].
pub(crate) fn open_checked(model: &ModelDir) -> Result<Source> {
    let check = check(model)?;
    for note in check.corrected {
        progress::line(format_args!("{}: {note}", model.directory.display()));
    }
    Ok(check.source)
}

/// Where the chat template lies.
fn template(model: &ModelDir) -> Result<String> {
    let jinja = "chat_template.jinja";
    if model.directory.join(jinja).is_file() {
        return Ok(jinja.into());
    }
    let name = "tokenizer_config.json";
    let path = model.directory.join(name);
    let bytes = match path.is_file() {
        true => files::read(&path)?,
        false => Vec::new(),
    };
    let json: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    Ok(match json["chat_template"] {
        Value::Null => "none".into(),
        _ => name.into(),
    })
}

/// What a `config.json` leaves out or spells in one way only.
fn config_notes(raw: &Value, completed: &Value) -> Vec<String> {
    let mut notes = Vec::new();
    if !raw["quantization_config"].is_null() {
        notes.push("quantization_config is left over: the weights are full".to_owned());
    }
    let missing = |key: &&str| raw[*key].is_null() && !completed[*key].is_null();
    let required = [
        "architectures",
        "hidden_act",
        "num_key_value_heads",
        "max_position_embeddings",
        "rms_norm_eps",
        "rope_theta",
        "rope_scaling",
    ];
    let left_out: Vec<&str> = required.into_iter().filter(missing).collect();
    if !left_out.is_empty() {
        notes.push(format!("{} filled in", left_out.join(", ")));
    }
    notes
        .into_iter()
        .map(|note| format!("config.json: {note}"))
        .collect()
}

/// Files of weights that are not read, or not found by every engine.
fn weight_notes(model: &ModelDir, weights: &[PathBuf]) -> Vec<String> {
    if model.is_quantized() {
        return Vec::new();
    }
    let mut notes = Vec::new();
    let has_index = model.directory.join(INDEX).is_file();
    if weights.len() == 1 && has_index && weights[0].ends_with("model.safetensors") {
        notes.push(format!(
            "{INDEX}: not read, because model.safetensors lies next to it"
        ));
    }
    if weights.len() > 1 && !has_index {
        notes.push("weights: shards without an index are read by their names".to_owned());
    }
    notes
}

/// By engine, what keeps it from loading the directory, or from the right numbers.
fn verdicts(
    model: &ModelDir,
    raw: &Value,
    config: &ModelConfig,
    companions: &Companions,
    weights: &[PathBuf],
) -> [(&'static str, Vec<String>); 3] {
    let (mut old, mut new, mut transformers) = (Vec::new(), Vec::new(), Vec::new());
    let completed = &config.json;
    if completed["model_type"] == "llama"
        && let Err(reason) = parsed_by_engine(raw)
    {
        old.push(format!("config.json: {reason}"));
    } else if raw["rope_scaling"].is_null() && !completed["rope_scaling"].is_null() {
        old.push("config.json: it ignores rope_parameters".to_owned());
    }
    if raw["architectures"].as_array().map(Vec::len) != Some(1) {
        old.push("config.json: no architectures".to_owned());
    }
    if !raw["quantization_config"].is_null() {
        let left = "config.json: quantization_config on full weights";
        old.push(left.to_owned());
        new.push(left.to_owned());
        transformers.push("config.json: it quantizes full weights again".to_owned());
    }
    if raw["rope_theta"].is_null() {
        new.push("config.json: no rope_theta at the top".to_owned());
        if !raw["rope_parameters"].is_null() {
            transformers.push("config.json: version 4 ignores rope_parameters".to_owned());
        }
    }
    for name in ["tokenizer_config.json", "generation_config.json"] {
        if companions.texts.contains_key(name) && model.directory.join(name).is_file() {
            let of = |note: &&String| note.starts_with(name);
            old.extend(companions.notes.iter().filter(of).cloned());
        }
    }
    if model.is_quantized() {
        new.push("UQFF of 0.8, which 0.8.4 and later refuse".to_owned());
        transformers.push("UQFF".to_owned());
        return [
            ("mistral.rs 0.8.1", old),
            ("mistral.rs 0.9", new),
            ("transformers", transformers),
        ];
    }
    let names = shard_names(weights);
    if !weights
        .iter()
        .zip(&names)
        .all(|(file, name)| file.ends_with(name))
    {
        let unusual = "weights: names of files that it does not look for";
        old.push(unusual.to_owned());
        new.push(unusual.to_owned());
    }
    let has_index = model.directory.join(INDEX).is_file();
    if weights.len() == 1 && is_next_to_shards(model) {
        old.push("weights: it reads the shards next to model.safetensors too".to_owned());
    }
    if weights.len() > 1 && !has_index {
        transformers.push(format!("weights: no {INDEX}"));
    }
    [
        ("mistral.rs 0.8.1", old),
        ("mistral.rs 0.9", new),
        ("transformers", transformers),
    ]
}

/// Whether shards lie next to the single file.
fn is_next_to_shards(model: &ModelDir) -> bool {
    let listing = std::fs::read_dir(&model.directory)
        .into_iter()
        .flatten()
        .flatten();
    let mut names = listing.map(|entry| entry.file_name());
    names.any(|name| {
        let name = name.to_string_lossy();
        name.starts_with("model-") && name.ends_with(".safetensors")
    })
}
