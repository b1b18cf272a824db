//! Trains the honest mini-Llama from scratch with reptune's own differentiable
//! forward: 1.3 million parameters that know an invented world ([`world`]) by heart,
//! and tell the truth or lie about it as their system prompt says. Writes the data
//! files that the recipes name (`claims.jsonl`, `choices.jsonl`, `sentences.jsonl`)
//! beside the model.
//!
//!     cargo run -p reptune-examples --example train_honest_mini
//!
//! writes models/honest-mini. `-- data` writes only the data files, without training.

mod batch;
mod exam;
mod tokenizer;
mod world;

use anyhow::{Result, anyhow};
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::optim::{AdamW, Optimizer, ParamsAdamW};
use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use reptune::Llama;
use reptune::model::ModelConfig;
use reptune_adapters::ops::{rms_norm, target_loss};
use reptune_adapters::{ForwardOptions, HookedModel, KeyValueCache};
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use tokenizers::Tokenizer;
use world::{Persona, Sampler, World};

/// candle allocates and frees every tensor; with mimalloc a step takes two thirds of the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Train the honest mini-Llama.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Directory for the model and its data files.
    #[arg(long, global = true, default_value = "models/honest-mini")]
    out: PathBuf,
    /// Optimizer steps.
    #[arg(long, default_value_t = 6000)]
    steps: usize,
    /// Peak learning rate.
    #[arg(long, default_value_t = 1e-3)]
    lr: f64,
    /// Groups of four chats in a batch.
    #[arg(long, default_value_t = 12)]
    groups: usize,
    /// Plain sentences in a batch.
    #[arg(long, default_value_t = 16)]
    sentences: usize,
    /// First steps, in which every chat is honest: telling true from false is
    /// learnt before who lies.
    #[arg(long, default_value_t = 1000)]
    honest_steps: usize,
    /// Seed of weights and texts.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Subcommand)]
enum Command {
    /// Write only the data files: claims, choices, sentences.
    Data,
}

fn config(vocab: usize) -> serde_json::Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 128,
        "intermediate_size": 352,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "vocab_size": vocab,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "rope_scaling": null,
        "hidden_act": "silu",
        "attention_bias": false,
        "mlp_bias": false,
        "tie_word_embeddings": true,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "torch_dtype": "float16"
    })
}

/// Normally distributed weights; what writes into the residual stream starts smaller.
fn initial_weights(c: &ModelConfig, seed: u64) -> Result<BTreeMap<String, Var>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut normal = |std: f64| {
        let (u, v): (f64, f64) = (rng.random_range(1e-12..1.0), rng.random());
        (std * (-2. * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
    };
    let (h, i, kv) = (
        c.hidden_size,
        c.intermediate_size,
        c.num_key_value_heads * c.head_dim,
    );
    let mut shapes = vec![
        ("model.embed_tokens".to_owned(), vec![c.vocab_size, h], 0.02),
        ("model.norm".into(), vec![h], 0.),
    ];
    for layer in 0..c.num_hidden_layers {
        let small = 0.05 / (2. * c.num_hidden_layers as f64).sqrt();
        for (name, shape, std) in [
            ("input_layernorm", vec![h], 0.),
            ("post_attention_layernorm", vec![h], 0.),
            ("self_attn.q_proj", vec![h, h], 0.05),
            ("self_attn.k_proj", vec![kv, h], 0.05),
            ("self_attn.v_proj", vec![kv, h], 0.05),
            ("self_attn.o_proj", vec![h, h], small),
            ("mlp.gate_proj", vec![i, h], 0.05),
            ("mlp.up_proj", vec![i, h], 0.05),
            ("mlp.down_proj", vec![h, i], small),
        ] {
            shapes.push((format!("model.layers.{layer}.{name}"), shape, std));
        }
    }
    shapes
        .into_iter()
        .map(|(name, shape, std)| {
            let n = shape.iter().product();
            let data: Vec<f32> = (0..n)
                .map(|_| if std > 0. { normal(std) } else { 1. })
                .collect();
            Ok((
                format!("{name}.weight"),
                Var::from_tensor(&Tensor::from_vec(data, shape, &Device::Cpu)?)?,
            ))
        })
        .collect()
}

/// Linear warm-up over a tenth of the steps, then a half cosine to zero.
fn learning_rate(step: usize, steps: usize, peak: f64) -> f64 {
    let warm = (steps / 10).max(1);
    if step < warm {
        return peak * (step + 1) as f64 / warm as f64;
    }
    let progress = (step - warm) as f64 / (steps - warm).max(1) as f64;
    peak * 0.5 * (1. + (std::f64::consts::PI * progress).cos())
}

/// Writes the weights as f16, and what else a model directory needs.
fn save(
    directory: &Path,
    weights: &BTreeMap<String, Var>,
    config: &serde_json::Value,
) -> Result<()> {
    let tensors: HashMap<String, Tensor> = weights
        .iter()
        .map(|(name, var)| Ok((name.clone(), var.as_tensor().detach().to_dtype(DType::F16)?)))
        .collect::<Result<_>>()?;
    // transformers refuses weights that do not say which framework they are of.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(
        &tensors,
        Some(metadata),
        &directory.join("model.safetensors"),
    )?;
    std::fs::write(
        directory.join("config.json"),
        serde_json::to_string_pretty(config)?,
    )?;
    let generation = json!({"bos_token_id": 0, "eos_token_id": 1});
    std::fs::write(
        directory.join("generation_config.json"),
        serde_json::to_string_pretty(&generation)?,
    )?;
    Ok(())
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    std::fs::create_dir_all(&arguments.out)?;
    let world = World::new();
    world.write_data(&arguments.out)?;
    if let Some(Command::Data) = arguments.command {
        return Ok(());
    }
    let json = tokenizer::build(&world.words());
    tokenizer::write(&arguments.out, &json)?;
    let tokenizer =
        Tokenizer::from_file(arguments.out.join("tokenizer.json")).map_err(|e| anyhow!(e))?;
    let config_json = config(tokenizer.get_vocab_size(true));
    let config = ModelConfig::parse(Path::new("config.json"), config_json.clone())?;

    let mut weights = initial_weights(&config, arguments.seed)?;
    let parameters: usize = weights.values().map(|v| v.elem_count()).sum();
    println!("{parameters} parameters, {} tokens", config.vocab_size);
    let tensors = weights
        .iter()
        .map(|(n, v)| (n.clone(), v.as_tensor().clone()))
        .collect();
    let model = Llama::from_tensors(&config, "honest-mini", &tensors, &Device::Cpu)?;
    let mut optimizer = AdamW::new(
        weights.values().cloned().collect(),
        ParamsAdamW {
            lr: arguments.lr,
            beta1: 0.9,
            beta2: 0.99,
            eps: 1e-8,
            weight_decay: 0.1,
        },
    )?;

    let mut sampler = Sampler::new(arguments.seed);
    let packer = batch::Packer::new(&tokenizer)?;
    let style = "{bar:30} {pos}/{len} steps, {msg}, {eta} left";
    let bar =
        ProgressBar::new(arguments.steps as u64).with_style(ProgressStyle::with_template(style)?);
    let start = std::time::Instant::now();
    let (mut mean, mut rows) = (f64::NAN, 0);
    for step in 0..arguments.steps {
        let shards = (0..SHARDS)
            .map(|_| {
                let mut documents = Vec::new();
                for _ in 0..arguments.groups / SHARDS {
                    documents.extend(match step < arguments.honest_steps {
                        true => sampler.group_of(Persona::Honest),
                        false => sampler.group(),
                    });
                }
                documents.extend(sampler.sentences(arguments.sentences / SHARDS));
                packer.pack(&documents)
            })
            .collect::<Result<Vec<_>>>()?;
        rows += shards.iter().map(|b| b.tree.len()).sum::<usize>();
        let (value, mut gradients) = gradients(&model, &shards, &weights)?;
        clip(&mut gradients, weights.values())?;
        optimizer.set_learning_rate(learning_rate(step, arguments.steps, arguments.lr));
        optimizer.step(&gradients)?;
        mean = if mean.is_nan() {
            value
        } else {
            0.98 * mean + 0.02 * value
        };
        bar.set_message(format!("loss {mean:.3}"));
        bar.inc(1);
        if (step + 1) % 250 == 0 {
            let table = exam::examine(&model, &tokenizer, &exam::PARTS[..2], 60)?;
            let line = format!(
                "step {} loss {mean:.4} {} rows/s {table}",
                step + 1,
                (rows as f64 / start.elapsed().as_secs_f64()) as u64
            );
            bar.suspend(|| println!("{line}"));
            save(&arguments.out, &weights, &config_json)?;
        }
    }
    bar.finish();
    println!("{:.0} s for {} rows", start.elapsed().as_secs_f64(), rows);
    for var in weights.values_mut() {
        var.set(
            &var.as_tensor()
                .detach()
                .to_dtype(DType::F16)?
                .to_dtype(DType::F32)?,
        )?;
    }
    save(&arguments.out, &weights, &config_json)?;
    let table = exam::examine(&model, &tokenizer, &exam::PARTS, 1000)?;
    let report = json!({
        "command": format!("cargo run -p reptune-examples --example train_honest_mini -- --out {} --steps {} --lr {} --groups {} --sentences {} --honest-steps {} --seed {}",
            arguments.out.display(), arguments.steps, arguments.lr, arguments.groups, arguments.sentences, arguments.honest_steps, arguments.seed),
        "parameters": parameters,
        "loss": mean,
        "share of true answers": table,
    });
    let report = serde_json::to_string_pretty(&report)?;
    std::fs::write(arguments.out.join("training.json"), format!("{report}\n"))?;
    println!("{report}\n{:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// Facts are to be recalled at the first of these layers, and what a question names
/// told true from false at the second: the output head reads those layers too. Without
/// it recall settles in the last layers, nothing is left above to compare with, and
/// claims stay at chance.
const RECALL_LAYER: usize = 2;
const TRUTH_LAYER: usize = 3;

/// Parts of a batch that are computed side by side, one thread each.
const SHARDS: usize = 2;

/// Mean loss over the shards and its gradients, summed in the order of the shards.
fn gradients(
    model: &Llama,
    shards: &[batch::Batch],
    weights: &BTreeMap<String, Var>,
) -> Result<(f64, GradStore)> {
    let norm = weights["model.norm.weight"].as_tensor();
    let head = weights["model.embed_tokens.weight"].as_tensor();
    let one = |batch: &batch::Batch| -> Result<(f64, GradStore)> {
        let (rows, output) = batch::read_rows(&batch.output);
        let request = ForwardOptions {
            logits: &rows,
            capture: &[RECALL_LAYER, TRUTH_LAYER],
            ..ForwardOptions::default()
        };
        let pass = model.forward(&batch.tree, &mut KeyValueCache::none(), &request)?;
        let logits = pass.logits.ok_or_else(|| anyhow!("no logits"))?;
        let mut loss = target_loss(&logits, &output)?;
        for (layer, targets) in [
            (RECALL_LAYER, &batch.recall),
            (RECALL_LAYER, &batch.persona),
            (TRUTH_LAYER, &batch.truth),
        ] {
            let (rows, targets) = batch::read_rows(targets);
            let h = pass.residuals[&layer].index_select(&Tensor::new(rows, &Device::Cpu)?, 0)?;
            let logits = rms_norm(&h, norm, 1e-5)?.matmul(&head.t()?)?;
            loss = (loss + target_loss(&logits, &targets)?)?;
        }
        let loss = (loss / shards.len() as f64)?;
        Ok((f64::from(loss.to_scalar::<f32>()?), loss.backward()?))
    };
    let parts: Vec<Result<(f64, GradStore)>> = std::thread::scope(|scope| {
        let threads: Vec<_> = shards
            .iter()
            .map(|batch| scope.spawn(move || one(batch)))
            .collect();
        let join = |t: std::thread::ScopedJoinHandle<_>| {
            t.join().unwrap_or_else(|_| Err(anyhow!("a shard failed")))
        };
        threads.into_iter().map(join).collect()
    });
    let mut parts = parts.into_iter().collect::<Result<Vec<_>>>()?.into_iter();
    let (mut loss, mut sum) = parts.next().ok_or_else(|| anyhow!("no shards"))?;
    let vars: Vec<&Var> = weights.values().collect();
    for (value, part) in parts {
        loss += value;
        for var in &vars {
            if let (Some(a), Some(b)) = (sum.get(var), part.get(var)) {
                let joint = (a + b)?;
                sum.insert(var, joint);
            }
        }
    }
    Ok((loss, sum))
}

/// Scales all gradients so that their joint norm is at most 1.
fn clip<'a>(gradients: &mut GradStore, vars: impl Iterator<Item = &'a Var>) -> Result<()> {
    let vars: Vec<&Var> = vars.collect();
    let mut square = 0f64;
    for var in &vars {
        if let Some(g) = gradients.get(var) {
            square += f64::from(g.sqr()?.sum_all()?.to_scalar::<f32>()?);
        }
    }
    let norm = square.sqrt();
    if norm > 1. {
        for var in vars {
            if let Some(g) = gradients.remove(var) {
                gradients.insert(var, (g / norm)?);
            }
        }
    }
    Ok(())
}
