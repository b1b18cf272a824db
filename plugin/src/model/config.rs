//! `config.json` of a Llama, checked.

use crate::error::{Error, Result};
use reptune_adapters::{ModelSpec, TargetModule, files};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Name of the embedding table.
pub const EMBEDDINGS: &str = "model.embed_tokens.weight";

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
    /// The whole file as mistral.rs's own configuration type takes it.
    pub json: Value,
    /// The file, for messages.
    pub path: PathBuf,
}

impl LlamaConfig {
    /// Reads `config.json` in `directory`.
    ///
    /// # Errors
    /// When it is missing, not a Llama, or lacks a number.
    pub fn read(directory: &Path) -> Result<Self> {
        let path = directory.join("config.json");
        if !path.is_file() {
            let (place, hint) = ("config.json", "give a directory in Hugging Face layout");
            return Err(Error::model(directory, place, "a file", "nothing", hint));
        }
        let json = serde_json::from_slice(&files::read(&path)?).map_err(|e| {
            let (line, found) = (format!("line {}", e.line()), e.to_string());
            Error::model(&path, line, "JSON", found, "fetch the file again")
        })?;
        Self::parse(&path, json)
    }

    /// Takes the numbers out of the content of a `config.json`; `path` is for messages.
    ///
    /// # Errors
    /// When it is not a Llama, or lacks a number.
    pub fn parse(path: &Path, json: Value) -> Result<Self> {
        let file = ConfigFile { path, json: &json };
        file.check_is_llama()?;
        let eps = |v: &Value| v.as_f64().filter(|eps| *eps >= 0.);
        let (tie, yes_or_no) = ("tie_word_embeddings", "true or false");
        let heads = file.number("num_attention_heads", None)?;
        let mut config = Self {
            rms_norm_eps: file.field("rms_norm_eps", Some(1e-6), "a number, not below 0", eps)?,
            tie_word_embeddings: file.field(tie, Some(false), yes_or_no, Value::as_bool)?,
            hidden_size: file.number("hidden_size", None)?,
            intermediate_size: file.number("intermediate_size", None)?,
            vocab_size: file.number("vocab_size", None)?,
            num_hidden_layers: file.number("num_hidden_layers", None)?,
            num_attention_heads: heads,
            num_key_value_heads: file.number("num_key_value_heads", Some(heads))?,
            max_position_embeddings: file.number("max_position_embeddings", Some(2048))?,
            json: Value::Null,
            path: path.to_owned(),
        };
        file.check_sizes(&config)?;
        let rope = file.rope()?;
        config.json = complete(json, &config, rope);
        Ok(config)
    }

    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// Name of the weight of a module, or of the output head if there is none: its own, or the
    /// embeddings.
    pub fn weight_name(&self, module: Option<TargetModule>) -> String {
        match module {
            Some(module) => format!("{module}.weight"),
            None if self.tie_word_embeddings => EMBEDDINGS.to_owned(),
            None => "lm_head.weight".to_owned(),
        }
    }

    /// Whether it says that the weights have 16 bits.
    pub fn is_half(&self) -> bool {
        let kind = self.json["torch_dtype"].as_str();
        let kind = kind.or(self.json["dtype"].as_str());
        kind.is_some_and(|kind| kind.ends_with("16"))
    }
}

/// A `config.json`, for messages that name its keys.
struct ConfigFile<'a> {
    path: &'a Path,
    json: &'a Value,
}

impl ConfigFile<'_> {
    fn error(&self, key: &str, expected: &str, found: String, hint: &str) -> Error {
        Error::model(self.path, format!("key `{key}`"), expected, found, hint)
    }

    fn check_is_llama(&self) -> Result<()> {
        let json = self.json;
        let architecture = match &json["architectures"][0] {
            Value::String(name) => name.clone(),
            _ => json["model_type"].as_str().unwrap_or("none").to_owned(),
        };
        if !matches!(architecture.as_str(), "LlamaForCausalLM" | "llama") {
            let expected = "LlamaForCausalLM (Llama 2, 3, 3.1, 3.2)";
            let hint = "other architectures are not taken";
            return Err(self.error("architectures", expected, architecture, hint));
        }
        for key in ["attention_bias", "mlp_bias"] {
            if !matches!(json[key], Value::Null | Value::Bool(false)) {
                let hint = "Llamas with biases are not taken";
                return Err(self.error(key, "false", json[key].to_string(), hint));
            }
        }
        if !json["hidden_act"].is_null() && json["hidden_act"] != "silu" {
            let (found, hint) = (&json["hidden_act"], "other activations are not taken");
            return Err(self.error("hidden_act", "\"silu\"", found.to_string(), hint));
        }
        Ok(())
    }

    /// Only a missing value has a default; one of another type is wrong.
    fn field<T>(
        &self,
        key: &str,
        default: Option<T>,
        expected: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<T> {
        match (&self.json[key], default) {
            (Value::Null, Some(default)) => Ok(default),
            (value, _) => {
                let hint = "fetch the file again";
                read(value).ok_or_else(|| self.error(key, expected, value.to_string(), hint))
            }
        }
    }

    fn number(&self, key: &str, default: Option<usize>) -> Result<usize> {
        let positive = |v: &Value| usize::try_from(v.as_u64()?).ok().filter(|n| *n > 0);
        self.field(key, default, "a positive whole number", positive)
    }

    fn check_sizes(&self, config: &LlamaConfig) -> Result<()> {
        let (hidden, heads) = (config.hidden_size, config.num_attention_heads);
        let (kv_heads, context) = (config.num_key_value_heads, config.max_position_embeddings);
        let head_dim = self.number("head_dim", Some(config.head_dim()))?;
        // mistral.rs computes the angles of all positions when it loads a model
        if context > LONGEST {
            let (key, expected) = ("max_position_embeddings", format!("at most {LONGEST}"));
            let hint =
                "give the length that you need; the angles of all positions are kept in memory";
            return Err(self.error(key, &expected, context.to_string(), hint));
        }
        if head_dim.checked_mul(heads) != Some(hidden)
            || !head_dim.is_multiple_of(2)
            || !heads.is_multiple_of(kv_heads)
        {
            let expected = "heads of even width that divide hidden_size, in equal groups";
            let found = format!(
                "hidden_size {hidden}, {heads} heads of {head_dim}, {kv_heads} key/value heads"
            );
            let hint = "mistral.rs 0.8.1 runs no other Llama";
            return Err(self.error("num_attention_heads", expected, found, hint));
        }
        Ok(())
    }
}

/// The configuration as every engine reads it: values that older files leave out, the rotary
/// embedding in the spelling of transformers 4 and in that of transformers 5, and both names of
/// the type of the weights. The weights are full, so no `quantization_config` stays.
fn complete(mut json: Value, config: &LlamaConfig, rope: Rope) -> Value {
    let context = config.max_position_embeddings;
    let kind = [&json["torch_dtype"], &json["dtype"]].map(Clone::clone);
    let kind = kind.into_iter().find(|kind| !kind.is_null());
    let kind = kind.unwrap_or_else(|| json!("float32"));
    let defaults = [
        ("architectures", json!(["LlamaForCausalLM"])),
        ("model_type", json!("llama")),
        ("num_key_value_heads", json!(config.num_key_value_heads)),
        ("max_position_embeddings", json!(context)),
        ("rms_norm_eps", json!(config.rms_norm_eps)),
        ("hidden_act", json!("silu")),
        ("torch_dtype", kind.clone()),
        ("dtype", kind),
    ];
    for (key, value) in defaults {
        if json[key].is_null() {
            json[key] = value;
        }
    }
    let mut parameters = rope
        .scaling
        .clone()
        .unwrap_or_else(|| json!({"rope_type": "default"}));
    parameters["rope_theta"] = json!(rope.theta);
    json["rope_theta"] = json!(rope.theta);
    json["rope_scaling"] = json!(rope.scaling);
    json["rope_parameters"] = parameters;
    if let Some(json) = json.as_object_mut() {
        json.remove("quantization_config");
    }
    json
}

/// The rotary embedding of a `config.json`.
struct Rope {
    theta: f64,
    /// Kind and numbers of the scaling, as transformers 4 spells them; none without scaling.
    scaling: Option<Value>,
}

impl ConfigFile<'_> {
    /// Reads `rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling`.
    fn rope(&self) -> Result<Rope> {
        let json = self.json;
        let (key, table) = match &json["rope_parameters"] {
            Value::Null => ("rope_scaling", &json["rope_scaling"]),
            table => ("rope_parameters", table),
        };
        if !table.is_null() && !table.is_object() || table["full_attention"].is_object() {
            let hint = "different rotary embeddings by kind of layer are not supported";
            return Err(self.error(key, "one table of numbers", table.to_string(), hint));
        }
        let positive = |v: &Value| v.as_f64().filter(|x| *x > 0. && x.is_finite());
        let number = |name: &str| positive(&table[name]);
        let outer = self.field("rope_theta", Some(10_000.), "a positive number", positive)?;
        let theta = match (number("rope_theta"), &json["rope_theta"]) {
            (Some(theta), Value::Null) => theta,
            (Some(theta), _) if theta != outer => {
                let expected = format!("{theta}, as `rope_parameters` says");
                let hint = "the two spellings must agree; remove the wrong one";
                return Err(self.error("rope_theta", &expected, outer.to_string(), hint));
            }
            _ => outer,
        };
        let part = "partial_rotary_factor";
        let factor = [&table[part], &json[part]]
            .into_iter()
            .find(|f| !f.is_null());
        if let Some(factor) = factor.filter(|f| f.as_f64() != Some(1.)) {
            let hint = "Llamas rotate whole heads";
            return Err(self.error(part, "1", factor.to_string(), hint));
        }
        let scaling = None;
        let mut rope = Rope { theta, scaling };
        let kinds = [&table["rope_type"], &table["type"]];
        let kind = kinds.into_iter().find(|k| !k.is_null());
        let names: &[&str] = match kind.map(|kind| kind.as_str().unwrap_or_default()) {
            None if table["factor"].is_null() => return Ok(rope),
            Some("default") => return Ok(rope),
            Some("linear") => &["factor"],
            Some("llama3") => &[
                "factor",
                "low_freq_factor",
                "high_freq_factor",
                "original_max_position_embeddings",
            ],
            _ => {
                let found = kind.map_or("a factor without a type".into(), Value::to_string);
                let hint = "mistral.rs 0.8.1 computes no other; dynamic and yarn are refused";
                let expected = "a rope_type of default, linear or llama3";
                return Err(self.error(key, expected, found, hint));
            }
        };
        let mut scaling = json!({"rope_type": kind});
        for name in names {
            let Some(_) = number(name) else {
                let (at, found) = (format!("{key}.{name}"), table[*name].to_string());
                return Err(self.error(&at, "a positive number", found, "fetch the file again"));
            };
            scaling[*name] = table[*name].clone();
        }
        rope.scaling = Some(scaling);
        Ok(rope)
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

pub(crate) fn spec(c: &LlamaConfig, name: &str, tokenizer: &[u8]) -> ModelSpec {
    let mut spec = ModelSpec {
        name: name.to_owned(),
        fingerprint: String::new(),
        layers: c.num_hidden_layers,
        hidden: c.hidden_size,
        intermediate: c.intermediate_size,
        heads: c.num_attention_heads,
        kv_heads: c.num_key_value_heads,
        head_dim: c.head_dim(),
        vocab: c.vocab_size,
        context: c.max_position_embeddings,
    };
    let s = &spec;
    let sizes = [
        s.hidden,
        s.intermediate,
        s.vocab,
        s.layers,
        s.heads,
        s.kv_heads,
    ];
    let sizes = sizes.map(|n| n.to_string()).join(" ");
    let sizes = format!("llama {sizes} {}", c.rms_norm_eps);
    spec.fingerprint = files::sha256([sizes.as_bytes(), tokenizer]);
    spec
}
