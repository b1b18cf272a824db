//! A model directory as a GGUF, laid out as llama.cpp's converter does, with candle's writer:
//! nothing of ours has part in it.

use anyhow::{Context, Result};
use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What is to be written.
pub struct Written {
    pub fields: BTreeMap<String, Value>,
    /// In llama.cpp's order of rows, f32.
    pub tensors: BTreeMap<String, Tensor>,
}

impl Written {
    /// Reads the model in `directory`.
    pub fn of(directory: &Path) -> Result<Self> {
        let read = |name: &str| -> Result<serde_json::Value> {
            Ok(serde_json::from_slice(&std::fs::read(
                directory.join(name),
            )?)?)
        };
        let config = read("config.json")?;
        let number = |key: &str| config[key].as_u64().context(key.to_owned());
        // llama.cpp calls a Mistral a llama
        let architecture = match config["model_type"].as_str().context("model_type")? {
            "mistral" => "llama",
            other => other,
        };
        let mut fields = BTreeMap::new();
        let mut set = |key: &str, value: Value| fields.insert(key.to_owned(), value);
        let heads = number("num_attention_heads")?;
        set("general.architecture", Value::String(architecture.into()));
        for (theirs, ours) in [
            ("block_count", "num_hidden_layers"),
            ("context_length", "max_position_embeddings"),
            ("embedding_length", "hidden_size"),
            ("feed_forward_length", "intermediate_size"),
            ("attention.head_count", "num_attention_heads"),
            ("attention.head_count_kv", "num_key_value_heads"),
            ("vocab_size", "vocab_size"),
        ] {
            set(
                &format!("{architecture}.{theirs}"),
                Value::U32(number(ours)? as u32),
            );
        }
        let float =
            |key: &str| Ok::<_, anyhow::Error>(config[key].as_f64().context("float")? as f32);
        set(
            &format!("{architecture}.attention.layer_norm_rms_epsilon"),
            Value::F32(float("rms_norm_eps")?),
        );
        let theta = Value::F32(float("rope_theta")?);
        set(&format!("{architecture}.rope.freq_base"), theta);
        let width = match config["head_dim"].as_u64() {
            Some(width) => width as u32,
            None => (number("hidden_size")? / heads) as u32,
        };
        let keys: &[&str] = match (architecture, config["head_dim"].is_null()) {
            ("llama", true) => &["rope.dimension_count"],
            ("llama", false) => &["rope.dimension_count", "attention.key_length"],
            _ => &["attention.key_length", "attention.value_length"],
        };
        for key in keys {
            set(&format!("{architecture}.{key}"), Value::U32(width));
        }

        let tokenizer = read("tokenizer.json")?;
        let vocab = tokenizer["model"]["vocab"].as_object().context("vocab")?;
        let mut tokens: Vec<(u64, &String)> = vocab
            .iter()
            .filter_map(|(token, id)| Some((id.as_u64()?, token)))
            .collect();
        tokens.sort();
        let special: Vec<u64> = (tokenizer["added_tokens"]
            .as_array()
            .context("added")?
            .iter())
        .filter_map(|t| t["id"].as_u64())
        .collect();
        let kinds = tokens
            .iter()
            .map(|(id, _)| if special.contains(id) { 3 } else { 1 });
        let merges = tokenizer["model"]["merges"].as_array().context("merges")?;
        let merges = merges.iter().map(|m| match m {
            serde_json::Value::String(both) => both.clone(),
            pair => format!(
                "{} {}",
                pair[0].as_str().unwrap_or(""),
                pair[1].as_str().unwrap_or("")
            ),
        });
        let texts = |t: Vec<String>| Value::Array(t.into_iter().map(Value::String).collect());
        set("tokenizer.ggml.model", Value::String("gpt2".into()));
        set("tokenizer.ggml.pre", Value::String("gpt-2".into()));
        set(
            "tokenizer.ggml.token_type",
            Value::Array(kinds.map(Value::I32).collect()),
        );
        set("tokenizer.ggml.merges", texts(merges.collect()));
        set(
            "tokenizer.ggml.tokens",
            texts(tokens.iter().map(|(_, t)| (*t).clone()).collect()),
        );
        for which in ["bos", "eos"] {
            let id = number(&format!("{which}_token_id"))? as u32;
            set(&format!("tokenizer.ggml.{which}_token_id"), Value::U32(id));
        }
        set("tokenizer.ggml.add_bos_token", Value::Bool(true));
        let settings = read("tokenizer_config.json")?;
        let template = settings["chat_template"].as_str().context("template")?;
        set("tokenizer.chat_template", Value::String(template.into()));

        let mut tensors = BTreeMap::new();
        for file in reptune_adapters::formats::safetensors::shards(directory)? {
            for (name, tensor) in candle_core::safetensors::load(file, &Device::Cpu)? {
                // the fixture has them for a variant, and its configuration says that they are not used
                if architecture == "qwen3" && name.ends_with(".bias") {
                    continue;
                }
                let tensor = tensor.to_dtype(DType::F32)?;
                let tensor = match name.as_str() {
                    _ if architecture != "llama" => tensor,
                    n if n.contains("q_proj") => pairs(&tensor, heads as usize)?,
                    n if n.contains("k_proj") => {
                        pairs(&tensor, number("num_key_value_heads")? as usize)?
                    }
                    _ => tensor,
                };
                tensors.insert(theirs(&name), tensor);
            }
        }
        let scaling = &config["rope_scaling"];
        if !scaling.is_null() {
            let theta = config["rope_theta"].as_f64().context("theta")?;
            let given = |key: &str| scaling[key].as_f64().context("a factor");
            let (factor, original) = (given("factor")?, given("original_max_position_embeddings")?);
            let (low, high) = (given("low_freq_factor")?, given("high_freq_factor")?);
            let factors = (0..width / 2).map(|i| {
                let frequency = theta.powf(-f64::from(2 * i) / f64::from(width));
                let length = 2. * std::f64::consts::PI / frequency;
                if length < original / high {
                    1f32
                } else if length > original / low {
                    factor as f32
                } else {
                    let smooth = (original / length - low) / (high - low);
                    (1. / ((1. - smooth) / factor + smooth)) as f32
                }
            });
            let factors: Vec<f32> = factors.collect();
            tensors.insert(
                "rope_freqs.weight".into(),
                Tensor::new(factors, &Device::Cpu)?,
            );
        }
        Ok(Self { fields, tensors })
    }

    /// Writes it to `directory`, each matrix in the type that `dtype` gives for its name.
    pub fn write(&self, directory: &Path, dtype: impl Fn(&str) -> GgmlDType) -> Result<PathBuf> {
        let quantize = |(name, tensor): (&String, &Tensor)| {
            let dtype = match tensor.dims() {
                [_, i] if i.is_multiple_of(dtype(name).block_size()) => dtype(name),
                _ => GgmlDType::F32,
            };
            Ok((name.clone(), QTensor::quantize(tensor, dtype)?))
        };
        let stored = self.tensors.iter().map(quantize);
        let stored: Vec<(String, QTensor)> = stored.collect::<Result<_>>()?;
        let tensors: Vec<(&str, &QTensor)> = stored.iter().map(|(n, t)| (n.as_str(), t)).collect();
        let fields: Vec<(&str, &Value)> =
            self.fields.iter().map(|(k, v)| (k.as_str(), v)).collect();
        let path = directory.join("model.gguf");
        let mut file = std::fs::File::create(&path)?;
        gguf_file::write(&mut file, &fields, &tensors)?;
        Ok(path)
    }
}

/// Rows of every head of a weight or a bias, (2, half) to (half, 2): what one rotation turns
/// stands side by side.
pub fn pairs(weight: &Tensor, heads: usize) -> Result<Tensor> {
    let o = weight.dim(0)?;
    let halves = weight.reshape((heads, 2, o / heads / 2, weight.elem_count() / o))?;
    Ok(halves
        .transpose(1, 2)?
        .contiguous()?
        .reshape(weight.dims())?)
}

fn theirs(name: &str) -> String {
    [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers", "blk"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ]
    .iter()
    .fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}
