//! Models that mistral.rs 0.8.1 loads without a word and computes otherwise than transformers.

use crate::error::{Error, Result};
use crate::model::{ModelConfig, ModelDir};
use reptune_adapters::files;
use reptune_adapters::model::Architecture;
use serde_json::Value;

const OWN: &str = "reptune's own commands (generate, tune, evaluate, ..) run the model as it is";

/// Refuses a model that mistral.rs would compute wrongly.
///
/// One difference is small and left: where attention slides, mistral.rs lets the tokens of a prompt
/// see one token more than transformers does.
pub(crate) fn check(model: &ModelDir) -> Result<()> {
    use Architecture::{Llama, Qwen2, Qwen3};
    let config = ModelConfig::read(&model.directory)?;
    let architecture = config.architecture;
    let is_left_out = matches!(architecture, Llama | Qwen3) && !model.is_quantized();
    let biases = [
        ("attention_bias", config.o_bias),
        ("mlp_bias", config.mlp_bias),
    ];
    if let Some((key, _)) = biases.iter().find(|(_, has)| *has && is_left_out) {
        let hint = "it reads no such biases from full weights, but from a UQFF: write one with \
                    `merge --quantize` or `bake`";
        return refused(&config, key, "false", "true".into(), hint);
    }
    check_uqff(&config)?;
    if config.sliding_window.is_none() && matches!(architecture, Qwen2 | Qwen3) {
        let json: Value = serde_json::from_slice(&files::read(&config.path)?).unwrap_or_default();
        let tokens = json["sliding_window"].as_u64().map(|n| n as usize);
        if let Some(tokens) = tokens.filter(|n| *n < config.max_position_embeddings) {
            let hint = "it does not read `use_sliding_window`: set `sliding_window` to null";
            let found = tokens.to_string();
            return refused(&config, "sliding_window", "null", found, hint);
        }
    }
    Ok(())
}

/// Refuses the configuration of a UQFF that mistral.rs would compute wrongly, before it is written.
pub(crate) fn check_uqff(config: &ModelConfig) -> Result<()> {
    use Architecture::{Llama, Qwen2};
    let (heads, hidden) = (config.num_attention_heads, config.hidden_size);
    let architecture = config.architecture;
    if matches!(architecture, Llama | Qwen2) && heads * config.head_dim != hidden {
        let expected = format!("{hidden} / {heads}");
        let found = config.head_dim.to_string();
        return refused(config, "head_dim", &expected, found, OWN);
    }
    let scaling = &config.json["rope_scaling"];
    if architecture != Llama && !scaling.is_null() {
        return refused(config, "rope_scaling", "none", scaling.to_string(), OWN);
    }
    let slides = |tokens: usize| tokens < config.max_position_embeddings;
    if let Some(window) = config.sliding_window.as_ref().filter(|w| slides(w.tokens)) {
        let everywhere = (0..config.num_hidden_layers).all(|layer| window.is_at(layer));
        if architecture == Qwen2 || !everywhere {
            let expected = "no sliding window, or one in every block of a Mistral or Qwen3";
            let tokens = window.tokens;
            let found = format!("{tokens} tokens in some blocks of a {architecture}");
            return refused(config, "sliding_window", expected, found, OWN);
        }
    }
    Ok(())
}

fn refused(
    config: &ModelConfig,
    key: &str,
    expected: &str,
    found: String,
    hint: &str,
) -> Result<()> {
    let (place, expected) = (
        format!("key `{key}`"),
        format!("{expected}, for mistral.rs 0.8.1"),
    );
    Err(Error::model(&config.path, place, expected, found, hint))
}
