//! `config.json` of a Llama, checked.

use crate::error::{Error, Result};
use reptune_adapters::{ModelSpec, files};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// The longest context taken: that of the longest Llama 3 published.
const LONGEST: usize = 1 << 22;

/// The numbers of a Llama's `config.json`.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct LlamaConfig {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub vocab_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub rms_norm_eps: f64,
    pub max_position_embeddings: usize,
    pub tie_word_embeddings: bool,
    /// The whole file.
    json: Value,
    path: PathBuf,
}

impl LlamaConfig {
    /// Reads `config.json` in `directory`.
    ///
    /// # Errors
    /// When it is missing, not a Llama, or lacks a number.
    pub fn read(directory: &Path) -> Result<Self> {
        let path = directory.join("config.json");
        if !path.is_file() {
            return Err(Error::model(
                directory,
                "config.json",
                "a file",
                "nothing",
                "give a directory in Hugging Face layout",
            ));
        }
        let json = serde_json::from_slice(&files::read(&path)?).map_err(|e| {
            Error::model(
                &path,
                format!("line {}", e.line()),
                "JSON",
                e.to_string(),
                "fetch the file again",
            )
        })?;
        Self::parse(&path, json)
    }

    /// Takes the numbers out of the content of a `config.json`; `path` is for messages.
    ///
    /// # Errors
    /// When it is not a Llama, or lacks a number.
    pub fn parse(path: &Path, mut json: Value) -> Result<Self> {
        let architecture = match &json["architectures"][0] {
            Value::String(name) => name.clone(),
            _ => json["model_type"].as_str().unwrap_or("none").to_owned(),
        };
        if !matches!(architecture.as_str(), "LlamaForCausalLM" | "llama") {
            return Err(Error::model(
                path,
                "key `architectures`",
                "LlamaForCausalLM (Llama 2, 3, 3.1, 3.2)",
                architecture,
                "other architectures are not taken",
            ));
        }
        for key in ["attention_bias", "mlp_bias"] {
            if !matches!(json[key], Value::Null | Value::Bool(false)) {
                return Err(Error::model(
                    path,
                    format!("key `{key}`"),
                    "false",
                    json[key].to_string(),
                    "Llamas with biases are not taken",
                ));
            }
        }
        if !json["hidden_act"].is_null() && json["hidden_act"] != "silu" {
            return Err(Error::model(
                path,
                "key `hidden_act`",
                "\"silu\"",
                json["hidden_act"].to_string(),
                "other activations are not taken",
            ));
        }
        let wrong = |key: &str, expected: &str| {
            let hint = "fetch the file again";
            Error::model(
                path,
                format!("key `{key}`"),
                expected,
                json[key].to_string(),
                hint,
            )
        };
        // Only what is left out has a default; what is of another type is wrong.
        let number = |key: &str, default: Option<usize>| match (&json[key], default) {
            (Value::Null, Some(default)) => Ok(default),
            (value, _) => match value.as_u64().map(usize::try_from) {
                Some(Ok(n)) if n > 0 => Ok(n),
                _ => Err(wrong(key, "a positive whole number")),
            },
        };
        let rms_norm_eps = match &json["rms_norm_eps"] {
            Value::Null => 1e-6,
            eps => (eps.as_f64().filter(|eps| *eps >= 0.))
                .ok_or_else(|| wrong("rms_norm_eps", "a number, not below 0"))?,
        };
        let tie_word_embeddings = match &json["tie_word_embeddings"] {
            Value::Null => false,
            tied => {
                (tied.as_bool()).ok_or_else(|| wrong("tie_word_embeddings", "true or false"))?
            }
        };
        let heads = number("num_attention_heads", None)?;
        let config = Self {
            hidden_size: number("hidden_size", None)?,
            intermediate_size: number("intermediate_size", None)?,
            vocab_size: number("vocab_size", None)?,
            num_hidden_layers: number("num_hidden_layers", None)?,
            num_attention_heads: heads,
            num_key_value_heads: number("num_key_value_heads", Some(heads))?,
            rms_norm_eps,
            max_position_embeddings: number("max_position_embeddings", Some(2048))?,
            tie_word_embeddings,
            json: Value::Null,
            path: path.to_owned(),
        };
        let head_dim = number("head_dim", Some(config.head_dim()))?;
        // mistral.rs computes the angles of all positions when it loads a model
        if config.max_position_embeddings > LONGEST {
            return Err(Error::model(
                path,
                "key `max_position_embeddings`",
                format!("at most {LONGEST}"),
                config.max_position_embeddings.to_string(),
                "give the length that you need; the angles of all positions are kept in memory",
            ));
        }
        if head_dim.checked_mul(heads) != Some(config.hidden_size)
            || !head_dim.is_multiple_of(2)
            || !heads.is_multiple_of(config.num_key_value_heads)
        {
            return Err(Error::model(
                path,
                "key `num_attention_heads`",
                "heads of even width that divide hidden_size, in equal groups",
                format!(
                    "hidden_size {}, {heads} heads of {head_dim}, {} key/value heads",
                    config.hidden_size, config.num_key_value_heads
                ),
                "mistral.rs 0.8.1 runs no other Llama",
            ));
        }
        // What mistral.rs wants and older files leave out.
        let theta = json["rope_parameters"]["rope_theta"]
            .as_f64()
            .unwrap_or(10000.);
        for (key, value) in [
            ("num_key_value_heads", json!(config.num_key_value_heads)),
            (
                "max_position_embeddings",
                json!(config.max_position_embeddings),
            ),
            ("rms_norm_eps", json!(config.rms_norm_eps)),
            ("rope_theta", json!(theta)),
            ("hidden_act", json!("silu")),
        ] {
            if json[key].is_null() {
                json[key] = value;
            }
        }
        Ok(Self { json, ..config })
    }

    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// Name of the tensor that the output head is: its own, or the embeddings.
    pub fn head(&self) -> &'static str {
        match self.tie_word_embeddings {
            true => "model.embed_tokens.weight",
            false => "lm_head.weight",
        }
    }

    /// Whether it says that the weights have 16 bits.
    pub fn is_half(&self) -> bool {
        let kind = self.json["torch_dtype"].as_str();
        let kind = kind.or(self.json["dtype"].as_str());
        kind.is_some_and(|kind| kind.ends_with("16"))
    }

    /// The file, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file as mistral.rs's own configuration type takes it.
    pub fn for_runtime(&self) -> Value {
        self.json.clone()
    }
}

/// Sizes and identity of the model in `directory`, without its weights.
///
/// # Errors
/// When the tokenizer is missing.
pub fn model_spec(config: &LlamaConfig, directory: &Path) -> Result<ModelSpec> {
    let tokenizer = files::read(&directory.join("tokenizer.json"))?;
    Ok(spec(config, &directory.display().to_string(), &tokenizer))
}

pub(crate) fn spec(config: &LlamaConfig, name: &str, tokenizer: &[u8]) -> ModelSpec {
    let c = config;
    let sizes = format!(
        "llama {} {} {} {} {} {} {}",
        c.hidden_size,
        c.intermediate_size,
        c.vocab_size,
        c.num_hidden_layers,
        c.num_attention_heads,
        c.num_key_value_heads,
        c.rms_norm_eps
    );
    ModelSpec {
        name: name.to_owned(),
        fingerprint: files::sha256([sizes.as_bytes(), tokenizer]),
        layers: c.num_hidden_layers,
        hidden: c.hidden_size,
        intermediate: c.intermediate_size,
        heads: c.num_attention_heads,
        kv_heads: c.num_key_value_heads,
        head_dim: c.head_dim(),
        vocab: c.vocab_size,
        context: c.max_position_embeddings,
    }
}
