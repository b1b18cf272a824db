//! A Llama of random weights.

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use clap::Args;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use reptune::model::ModelDir;
use reptune::model::uqff::{Entry, HEAD, UQFF, UqffDirectory, UqffProvenance, WeightType, index};
use reptune_adapters::Error;
use reptune_adapters::files::Staging;
use reptune_adapters::model::ModuleKind;
use safetensors::{Dtype, View};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

#[derive(Args)]
pub struct MakeModelArgs {
    /// Directory to write
    #[arg(long)]
    out: PathBuf,
    /// Width of the residual stream
    #[arg(long, default_value_t = 768)]
    hidden: usize,
    /// Number of blocks
    #[arg(long, default_value_t = 12)]
    layers: usize,
    /// Attention heads
    #[arg(long, default_value_t = 12)]
    heads: usize,
    /// Key and value heads [default: as many as heads]
    #[arg(long)]
    kv_heads: Option<usize>,
    /// Width inside the MLP
    #[arg(long, default_value_t = 2048)]
    intermediate: usize,
    /// Tokens of the vocabulary
    #[arg(long, default_value_t = 8192)]
    vocab: usize,
    /// Longest sequence
    #[arg(long, default_value_t = 2048)]
    context: usize,
    /// Write a UQFF directory in this type, such as q8_0 or q4k, one tensor after the other;
    /// all blocks get the weights of the first
    #[arg(long, value_name = "TYPE")]
    quantize: Option<String>,
    /// Seed of the weights
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

impl MakeModelArgs {
    fn kv_heads(&self) -> usize {
        self.kv_heads.unwrap_or(self.heads)
    }

    /// Name, shape and standard deviation of every tensor; the norms have none and are 1.
    ///
    /// What writes to the residual stream is smaller the more blocks there are, and the
    /// output head larger than usual, so that next tokens differ clearly in likelihood.
    fn tensors(&self) -> Vec<(String, Vec<usize>, Option<f32>)> {
        let (h, v) = (self.hidden, self.vocab);
        let head_dim = h / self.heads;
        let normal = |inputs: usize| (inputs as f32).powf(-0.5);
        let written = (2. * self.layers as f32).powf(-0.5);
        let mut all = vec![
            ("model.embed_tokens.weight".to_owned(), vec![v, h], Some(1.)),
            ("model.norm.weight".to_owned(), vec![h], None),
            (
                "lm_head.weight".to_owned(),
                vec![v, h],
                Some(3. * normal(h)),
            ),
        ];
        for layer in 0..self.layers {
            for norm in ["input_layernorm", "post_attention_layernorm"] {
                all.push((format!("model.layers.{layer}.{norm}.weight"), vec![h], None));
            }
            for p in ModuleKind::ALL {
                let (o, i) = match p {
                    ModuleKind::QProj => (h, h),
                    ModuleKind::KProj | ModuleKind::VProj => (self.kv_heads() * head_dim, h),
                    ModuleKind::OProj => (h, h),
                    ModuleKind::GateProj | ModuleKind::UpProj => (self.intermediate, h),
                    ModuleKind::DownProj => (h, self.intermediate),
                };
                let to_stream = matches!(p, ModuleKind::OProj | ModuleKind::DownProj);
                let spread = normal(i) * if to_stream { written } else { 1. };
                all.push((
                    format!("model.layers.{layer}.{}.weight", p.path()),
                    vec![o, i],
                    Some(spread),
                ));
            }
        }
        all
    }

    /// The tensor with the number `i` of [`MakeModelArgs::tensors`].
    fn random(&self, i: usize, shape: Vec<usize>, spread: Option<f32>) -> RandomTensor {
        RandomTensor {
            shape,
            spread,
            seed: self.seed,
            stream: i as u64,
        }
    }

    fn parameters(&self) -> usize {
        let sizes = self
            .tensors()
            .into_iter()
            .map(|t| t.1.iter().product::<usize>());
        sizes.sum()
    }
}

/// Writes a random Llama (f32) in Hugging Face layout, with a tokenizer whose words are
/// `t0`, `t1`, and so on. The same sizes and seed give the same bytes.
pub fn run(sizes: &MakeModelArgs) -> Result<Value> {
    let staging = Staging::new(&sizes.out)?;
    let write = |name: &str, text: String| {
        let path = staging.path().join(name);
        std::fs::write(&path, text).map_err(|e| Error::write(staging.shown(&path), e))
    };
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": sizes.hidden, "intermediate_size": sizes.intermediate,
        "num_hidden_layers": sizes.layers, "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads(), "vocab_size": sizes.vocab,
        "max_position_embeddings": sizes.context, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "attention_bias": false, "mlp_bias": false, "tie_word_embeddings": false,
        "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "float32", "use_cache": true,
    });
    write("config.json", format!("{config:#}"))?;
    let words: serde_json::Map<_, _> = (0..sizes.vocab)
        .map(|i| (format!("t{i}"), json!(i)))
        .collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": null,
        // one of the decoders that mistral.rs takes
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "t0"},
    });
    write("tokenizer.json", tokenizer.to_string())?;
    let template = "{% for m in messages %}{{ m['content'] }} {% endfor %}";
    let about = json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "t1", "eos_token": "t2",
        "unk_token": "t0", "chat_template": template, "model_max_length": sizes.context,
    });
    write("tokenizer_config.json", format!("{about:#}"))?;
    let ends = json!({"bos_token_id": 1, "eos_token_id": 2});
    write("generation_config.json", format!("{ends:#}"))?;
    if let Some(stored) = &sizes.quantize {
        return write_quantized(sizes, stored, staging.path());
    }
    let tensors = sizes.tensors().into_iter().enumerate();
    let tensors = tensors.map(|(i, (name, shape, spread))| (name, sizes.random(i, shape, spread)));
    let path = staging.path().join("model.safetensors");
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(tensors, Some(metadata), &path)
        .map_err(|e| Error::write(staging.shown(&path), std::io::Error::other(e.to_string())))?;
    staging.commit()?;
    Ok(json!({"work": "make-model", "model": sizes.out, "parameters": sizes.parameters()}))
}

/// Writes a UQFF directory with the configuration and tokenizer of `companions`. Only one tensor
/// is in memory in f32 at a time.
fn write_quantized(sizes: &MakeModelArgs, stored: &str, companions: &Path) -> Result<Value> {
    let stored = WeightType::parse(stored)?;
    let spec = ModelDir::at(companions)?.config()?.1;
    let all = sizes.tensors();
    let tensor = |name: &str| -> Result<Tensor> {
        let at = all
            .iter()
            .position(|(n, ..)| n == name)
            .context(name.to_owned())?;
        let (_, shape, spread) = &all[at];
        let random = sizes.random(at, shape.clone(), *spread);
        Ok(Tensor::from_raw_buffer(
            &random.data(),
            DType::F32,
            shape,
            &Device::Cpu,
        )?)
    };
    let directory = UqffDirectory::create(&sizes.out)?;
    let indices = 0..1 + 7 * sizes.layers;
    let mut file = directory.file(UQFF, indices, UqffProvenance::of(&spec))?;
    for kind in ModuleKind::ALL {
        let weight = tensor(&format!("model.layers.0.{}.weight", kind.path()))?;
        let entry = Entry::quantize(&weight, None, stored)?;
        for layer in 0..sizes.layers {
            file.push(index(layer, kind), &entry)?;
        }
    }
    file.push(
        HEAD,
        &Entry::quantize(&tensor("lm_head.weight")?, None, stored)?,
    )?;
    let bytes = file.finish()?;
    directory.commit(&spec, companions, |name, _| {
        tensor(name).map_err(|e| Error::value("tensor", name, e.to_string(), "").into())
    })?;
    Ok(json!({
        "work": "make-model", "model": sizes.out, "parameters": sizes.parameters(), "bytes": bytes,
    }))
}

/// A tensor whose numbers are drawn when it is written.
struct RandomTensor {
    shape: Vec<usize>,
    spread: Option<f32>,
    seed: u64,
    stream: u64,
}

impl View for RandomTensor {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let n = self.shape.iter().product::<usize>();
        let Some(spread) = self.spread else {
            return 1f32.to_le_bytes().repeat(n).into();
        };
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(self.stream);
        let mut bytes = Vec::with_capacity(4 * n);
        while bytes.len() < 4 * n {
            // two normal numbers of two uniform ones
            let (u, v): (f32, f32) = (rng.random_range(1e-7..1.0), rng.random());
            let (r, angle) = ((-2. * u.ln()).sqrt(), std::f32::consts::TAU * v);
            for x in [r * angle.cos(), r * angle.sin()] {
                bytes.extend((spread * x).to_le_bytes());
            }
        }
        bytes.truncate(4 * n);
        bytes.into()
    }

    fn data_len(&self) -> usize {
        4 * self.shape.iter().product::<usize>()
    }
}
