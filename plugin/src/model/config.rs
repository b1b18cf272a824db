//! `config.json`, checked: the architecture, its sizes, and in what its blocks differ from those
//! of a plain Llama.

use super::config_file::ConfigFile;
use super::rope::Rope;
use crate::error::{Error, Result};
use reptune_adapters::model::{Architecture, ModuleKind};
use reptune_adapters::{ModelSpec, TargetModule, files};
use reptune_recipes::TokenizerFile;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Name of the embedding table.
pub const EMBEDDINGS: &str = "model.embed_tokens.weight";

/// The longest context taken: that of the longest Llama 3 published.
const LONGEST: usize = 1 << 22;

/// The numbers of a `config.json`.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct ModelConfig {
    pub architecture: Architecture,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub vocab_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    /// Width of a head; `hidden_size / num_attention_heads` unless the file says another.
    pub head_dim: usize,
    pub rms_norm_eps: f64,
    pub max_position_embeddings: usize,
    pub tie_word_embeddings: bool,
    /// Whether q, k and v have biases.
    pub qkv_bias: bool,
    pub o_bias: bool,
    /// Whether gate, up and down have biases.
    pub mlp_bias: bool,
    /// Blocks in which a token sees the last tokens only.
    pub sliding_window: Option<SlidingWindow>,
    /// The whole file as every engine reads it.
    pub json: Value,
    /// The file, for messages.
    pub path: PathBuf,
}

/// How many tokens attention sees, and in which blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlidingWindow {
    /// The last tokens that a token sees, itself included.
    pub tokens: usize,
    layers: WindowedLayers,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum WindowedLayers {
    From(usize),
    Listed(Vec<bool>),
}

impl SlidingWindow {
    /// Whether the block `layer` has it.
    pub fn is_at(&self, layer: usize) -> bool {
        match &self.layers {
            WindowedLayers::From(first) => layer >= *first,
            WindowedLayers::Listed(layers) => layers.get(layer).copied().unwrap_or_default(),
        }
    }
}

impl ModelConfig {
    /// Reads `config.json` in `directory`.
    ///
    /// # Errors
    /// When it is missing, lacks a number, or is of an architecture that is not supported.
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
    /// When it lacks a number, or is of an architecture that is not supported.
    pub fn parse(path: &Path, json: Value) -> Result<Self> {
        let file = ConfigFile { path, json: &json };
        let architecture = file.architecture()?;
        let left_out = Defaults::of(architecture);
        let eps = |v: &Value| v.as_f64().filter(|eps| *eps >= 0.);
        let heads = file.number("num_attention_heads", None)?;
        let kv_heads = match json.get("num_key_value_heads") {
            None => left_out.kv_heads.unwrap_or(heads),
            Some(_) => file.number("num_key_value_heads", Some(heads))?,
        };
        let hidden = file.number("hidden_size", None)?;
        let layers = file.number("num_hidden_layers", None)?;
        let (attention_bias, mlp_bias) = (file.truth("attention_bias")?, file.truth("mlp_bias")?);
        let attention_bias =
            attention_bias && matches!(architecture, Architecture::Llama | Architecture::Qwen3);
        let mut config = Self {
            architecture,
            rms_norm_eps: file.field("rms_norm_eps", Some(1e-6), "a number, not below 0", eps)?,
            tie_word_embeddings: file.truth("tie_word_embeddings")?,
            hidden_size: hidden,
            intermediate_size: file.number("intermediate_size", None)?,
            vocab_size: file.number("vocab_size", None)?,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            head_dim: file.number(
                "head_dim",
                left_out.head_dim.or(Some((hidden / heads).max(1))),
            )?,
            max_position_embeddings: file
                .number("max_position_embeddings", Some(left_out.context))?,
            qkv_bias: attention_bias || architecture == Architecture::Qwen2,
            o_bias: attention_bias,
            mlp_bias: mlp_bias && architecture == Architecture::Llama,
            sliding_window: file.sliding_window(architecture, layers)?,
            json: Value::Null,
            path: path.to_owned(),
        };
        file.check_sizes(&config)?;
        let rope = Rope::read(&file)?;
        config.json = complete(json, &config, rope);
        Ok(config)
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

    /// Name of the bias of a module, if it has one.
    pub fn bias_name(&self, module: TargetModule) -> Option<String> {
        let has = match module.kind {
            ModuleKind::QProj | ModuleKind::KProj | ModuleKind::VProj => self.qkv_bias,
            ModuleKind::OProj => self.o_bias,
            ModuleKind::GateProj | ModuleKind::UpProj | ModuleKind::DownProj => self.mlp_bias,
        };
        has.then(|| format!("{module}.bias"))
    }

    /// Whether any module has a bias.
    pub fn is_biased(&self) -> bool {
        self.qkv_bias || self.o_bias || self.mlp_bias
    }

    /// The last tokens that a token sees at `layer`, itself included; none: all.
    pub fn window(&self, layer: usize) -> Option<usize> {
        let window = self.sliding_window.as_ref();
        window.filter(|w| w.is_at(layer)).map(|w| w.tokens)
    }

    /// Whether it says that the weights have 16 bits.
    pub fn is_half(&self) -> bool {
        let kind = self.json["torch_dtype"].as_str();
        let kind = kind.or(self.json["dtype"].as_str());
        kind.is_some_and(|kind| kind.ends_with("16"))
    }
}

/// What transformers takes for keys that a `config.json` leaves out.
struct Defaults {
    /// Number of key and value heads; none: the number of attention heads.
    kv_heads: Option<usize>,
    /// Width of a head; none: the hidden size divided by the number of heads.
    head_dim: Option<usize>,
    context: usize,
}

impl Defaults {
    /// Tokens of a sliding window.
    const WINDOW: usize = 4096;
    /// Blocks below the first one with a sliding window, where there may be such.
    const FULL_LAYERS: usize = 28;

    fn of(architecture: Architecture) -> Self {
        let (kv_heads, head_dim, context) = match architecture {
            Architecture::Llama => (None, None, 2048),
            Architecture::Mistral => (Some(8), None, 131_072),
            Architecture::Qwen2 => (Some(32), None, 32_768),
            Architecture::Qwen3 => (Some(32), Some(128), 32_768),
        };
        Self {
            kv_heads,
            head_dim,
            context,
        }
    }
}

impl ConfigFile<'_> {
    fn architecture(&self) -> Result<Architecture> {
        let class = self.json["architectures"][0].as_str();
        let kind = self.json["model_type"].as_str();
        let (key, name) = match (class, kind) {
            (Some(class), _) => ("architectures", class),
            (None, kind) => ("model_type", kind.unwrap_or("none")),
        };
        let Some(architecture) = Architecture::named(name) else {
            let expected = Architecture::ALL.map(Architecture::class).join(", ");
            let gemma = name.to_lowercase();
            let hint = match gemma.starts_with("gemma2") || gemma.starts_with("gemma3") {
                true => {
                    "Gemma 2 and 3 normalise what o_proj and down_proj give, so a bias there is no \
                     shift of the residual stream"
                }
                false => "other architectures are not supported",
            };
            return Err(self.error(key, &expected, name.to_owned(), hint));
        };
        if let Some(kind) = kind.filter(|kind| Architecture::named(kind) != Some(architecture)) {
            let expected = format!("{architecture}, as `architectures` says");
            let hint = "both name one architecture; remove the wrong one";
            return Err(self.error("model_type", &expected, kind.to_owned(), hint));
        }
        if !self.json["hidden_act"].is_null() && self.json["hidden_act"] != "silu" {
            let found = self.json["hidden_act"].to_string();
            let hint = "other activations are not taken";
            return Err(self.error("hidden_act", "\"silu\"", found, hint));
        }
        Ok(architecture)
    }

    /// The sliding window of some block, if one has it. A Mistral has it in all blocks; Qwen2 and
    /// Qwen3, if they use it, from a block on, or in those of `layer_types`.
    fn sliding_window(
        &self,
        architecture: Architecture,
        layers: usize,
    ) -> Result<Option<SlidingWindow>> {
        let used = match architecture {
            Architecture::Llama => return Ok(None),
            Architecture::Mistral => true,
            Architecture::Qwen2 | Architecture::Qwen3 => self.truth("use_sliding_window")?,
        };
        let tokens = match self.json.get("sliding_window") {
            None => Some(Defaults::WINDOW),
            Some(Value::Null) => None,
            Some(_) => Some(self.number("sliding_window", None)?),
        };
        let tokens = tokens.filter(|_| used);
        let whole = |v: &Value| usize::try_from(v.as_u64()?).ok();
        let first = ("max_window_layers", Some(Defaults::FULL_LAYERS));
        let windowed = match &self.json["layer_types"] {
            _ if architecture == Architecture::Mistral => WindowedLayers::From(0),
            Value::Null => {
                WindowedLayers::From(self.field(first.0, first.1, "a whole number", whole)?)
            }
            listed => {
                let kind = |v: &Value| match v.as_str() {
                    Some("full_attention") => Some(false),
                    Some("sliding_attention") => Some(true),
                    _ => None,
                };
                let kinds = listed.as_array().into_iter().flatten().map(kind);
                let kinds: Option<Vec<bool>> = kinds.collect();
                let Some(kinds) = kinds.filter(|kinds| kinds.len() == layers) else {
                    let expected =
                        format!("full_attention or sliding_attention for each of {layers} blocks");
                    let hint = "other kinds of attention are not supported";
                    return Err(self.error("layer_types", &expected, listed.to_string(), hint));
                };
                if tokens.is_none() && kinds.contains(&true) {
                    let found = "blocks with sliding_attention".to_owned();
                    let expected = "full_attention everywhere, without a sliding window";
                    let hint = "set `use_sliding_window` and `sliding_window`, or change the list";
                    return Err(self.error("layer_types", expected, found, hint));
                }
                WindowedLayers::Listed(kinds)
            }
        };
        let some = match &windowed {
            WindowedLayers::From(first) => *first < layers,
            WindowedLayers::Listed(kinds) => kinds.contains(&true),
        };
        let window = |tokens| SlidingWindow {
            tokens,
            layers: windowed,
        };
        Ok(tokens.filter(|_| some).map(window))
    }

    fn check_sizes(&self, config: &ModelConfig) -> Result<()> {
        let (hidden, heads) = (config.hidden_size, config.num_attention_heads);
        let (kv_heads, context) = (config.num_key_value_heads, config.max_position_embeddings);
        // mistral.rs computes the angles of all positions when it loads a model
        if context > LONGEST {
            let (key, expected) = ("max_position_embeddings", format!("at most {LONGEST}"));
            let hint =
                "give the length that you need; the angles of all positions are kept in memory";
            return Err(self.error(key, &expected, context.to_string(), hint));
        }
        let head_dim = config.head_dim;
        let left_out = Defaults::of(config.architecture).head_dim.is_none();
        let derived = left_out && self.json["head_dim"].is_null();
        let width = heads.checked_mul(head_dim);
        if !width.is_some_and(|width| width == hidden || !derived)
            || !head_dim.is_multiple_of(2)
            || !heads.is_multiple_of(kv_heads)
        {
            let expected = match derived {
                true => "heads of even width that divide hidden_size, in equal groups",
                false => "heads of even width, in equal groups",
            };
            let found = format!(
                "hidden_size {hidden}, {heads} heads of {head_dim}, {kv_heads} key/value heads"
            );
            let hint = "fetch the file again";
            return Err(self.error("num_attention_heads", expected, found, hint));
        }
        Ok(())
    }
}

/// The configuration as every engine reads it: values that older files leave out, the rotary
/// embedding in the spelling of transformers 4 and in that of transformers 5, and both names of
/// the type of the weights. The weights are full, so no `quantization_config` stays.
fn complete(mut json: Value, config: &ModelConfig, rope: Rope) -> Value {
    let context = config.max_position_embeddings;
    let kind = [&json["torch_dtype"], &json["dtype"]].map(Clone::clone);
    let kind = kind.into_iter().find(|kind| !kind.is_null());
    let kind = kind.unwrap_or_else(|| json!("float32"));
    let defaults = [
        ("architectures", json!([config.architecture.class()])),
        ("model_type", json!(config.architecture.model_type())),
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
    let window = config.sliding_window.as_ref();
    if config.architecture != Architecture::Llama {
        json["head_dim"] = json!(config.head_dim);
        // mistral.rs 0.8.1 slides whatever `use_sliding_window` says
        json["sliding_window"] = json!(window.map(|w| w.tokens));
    }
    if let Architecture::Qwen2 | Architecture::Qwen3 = config.architecture {
        json["use_sliding_window"] = json!(window.is_some());
        if json["max_window_layers"].is_null() {
            json["max_window_layers"] = json!(Defaults::FULL_LAYERS);
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

/// Sizes and identity of the model in `directory`, without its weights.
///
/// # Errors
/// When the tokenizer is missing.
pub fn model_spec(config: &ModelConfig, directory: &Path) -> Result<ModelSpec> {
    let tokenizer = TokenizerFile::read(directory)?;
    let name = directory.display().to_string();
    Ok(spec(config, &name, Some(&tokenizer)))
}

pub(crate) fn spec(c: &ModelConfig, name: &str, tokenizer: Option<&TokenizerFile>) -> ModelSpec {
    let mut spec = ModelSpec {
        name: name.to_owned(),
        fingerprint: String::new(),
        former_fingerprint: String::new(),
        architecture: c.architecture,
        layers: c.num_hidden_layers,
        hidden: c.hidden_size,
        intermediate: c.intermediate_size,
        heads: c.num_attention_heads,
        kv_heads: c.num_key_value_heads,
        head_dim: c.head_dim,
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
    let mut sizes = format!("{} {sizes} {}", s.architecture, c.rms_norm_eps);
    if s.heads * s.head_dim != s.hidden {
        sizes += &format!(" {}", s.head_dim);
    }
    let content = tokenizer.map_or(String::new(), TokenizerFile::content_hash);
    let bytes = tokenizer.map_or(&[][..], |file| &file.bytes);
    spec.fingerprint = files::sha256([sizes.as_bytes(), content.as_bytes()]);
    spec.former_fingerprint = files::sha256([sizes.as_bytes(), bytes]);
    spec
}
