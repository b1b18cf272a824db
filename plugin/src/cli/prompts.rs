//! Commands that take prompts: `reptune generate` and `reptune capture`.

use super::args::{LoadingArgs, SteeringArgs, layers, number};
use super::output::{print, print_json};
use crate::progress::{self, Progress};
use crate::prompts::{self, PromptLine};
use crate::{decoder::Llama, model::ModelDir};
use anyhow::{Context, Result};
use candle_core::Tensor;
use clap::Args;
use reptune_adapters::steering::direction::LAYER_CONVENTION;
use reptune_adapters::{HookedModel, files, formats::safetensors::sort_metadata};
use reptune_recipes::Chat;
use reptune_recipes::capture::{CaptureLogits, CaptureRequest, capture as captured};
use reptune_recipes::generate::{Generation, Sampling, generate as continue_prompts};
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

#[derive(Args)]
#[command(after_help = "\
Examples:
  reptune generate -m DIR --prompt \"The colour of Quinvath is\"
  reptune generate -m DIR --prompts prompts.jsonl --directions honesty.safetensors \\
      --layers 14-16 --total 19
  reptune generate -m DIR --prompts prompts.jsonl --adapter ADAPTER \\
      --temperature 0.8 --seed 1 --json

A line {\"prompt\": \"..\"} of a prompt file is raw text; {\"messages\": [..]} is formatted
by the chat template. With --json every prompt gives one line with prompt, text and
tokens.")]
pub struct GenerateArgs {
    /// Raw text to continue
    #[arg(
        long,
        value_name = "TEXT",
        conflicts_with = "prompts",
        required_unless_present = "prompts"
    )]
    pub prompt: Option<String>,
    /// File of prompts, one JSON object on each line
    #[arg(long, value_name = "FILE.jsonl")]
    pub prompts: Option<PathBuf>,
    /// Most tokens to generate for a prompt
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub max_new_tokens: usize,
    /// Sampling temperature; 0 is greedy decoding
    #[arg(long, value_name = "T", default_value_t = 0., value_parser = temperature)]
    pub temperature: f64,
    /// Seed of the sampling
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    /// Model directory, .uqff or .gguf file, or Hugging Face id
    #[arg(short, long, help_heading = "Model")]
    pub model: String,
    /// PEFT adapter to apply
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    pub adapter: Option<PathBuf>,
    #[command(flatten)]
    pub loading: LoadingArgs,
    #[command(flatten)]
    pub steering: SteeringArgs,
}

fn temperature(text: &str) -> Result<f64, String> {
    let expected = "0 or a positive number";
    number(text, |t| *t >= 0. && t.is_finite(), expected)
}

pub fn generate(a: &GenerateArgs) -> Result<()> {
    let directory = ModelDir::resolve(&a.model)?.path().to_owned();
    let loading = a.loading.options()?;
    let prompts = match (&a.prompt, &a.prompts) {
        (Some(text), _) => vec![PromptLine::Text(text.clone())],
        (None, Some(file)) => prompts::read(file)?,
        (None, None) => Vec::new(),
    };
    let llama = Llama::load(&directory, loading)?;
    let chat = Chat::load(&directory)?;
    let ids = prompts::ids(&prompts, &chat)?;
    let adapter = a.adapter.as_deref();
    let (steering, adapter) = a.steering.with_adapter(adapter, &llama, &ids)?;
    let how = Generation {
        interventions: &steering,
        adapter: adapter.as_ref(),
        max_new_tokens: a.max_new_tokens,
        stop: &chat.stop,
        sampling: Sampling::Temperature {
            temperature: a.temperature,
            seed: a.seed,
        },
        cache: None,
    };
    let tokens = {
        let mut shown = progress::steps("generate", ids.len());
        continue_prompts(&llama, &ids, &how, &mut shown)?
    };
    for (prompt, tokens) in prompts.iter().zip(&tokens) {
        let text = chat.decode(tokens)?;
        match a.json {
            true => print_json(&json!({"prompt": prompt.json(), "text": text, "tokens": tokens}))?,
            false => print(text)?,
        }
    }
    Ok(())
}

#[derive(Args)]
#[command(after_help = "\
Example:
  reptune capture -m DIR --prompts prompts.jsonl --layers 1-3 --logits \\
      -o capture.safetensors

A line {\"prompt\": \"..\"} is raw text; {\"messages\": [{\"role\": \"user\", \"content\": \"..\"}]} is
formatted by the chat template. Tensors for prompt i with T tokens, hidden size H and
vocabulary V:
  prompt.{i}.ids        U32 (T,)    token ids
  prompt.{i}.layer.{l}  F32 (T, H)  output of block l
  prompt.{i}.logits     F32 (T, V)  with --logits")]
pub struct CaptureArgs {
    /// File of prompts, one JSON object on each line
    #[arg(long, value_name = "FILE.jsonl")]
    pub prompts: PathBuf,
    /// File to write
    #[arg(short, long, value_name = "FILE.safetensors")]
    pub out: PathBuf,
    /// Layers to capture, such as 1-3,5
    #[arg(long, default_value = "all")]
    pub layers: String,
    /// Capture only the last K tokens of each prompt
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    pub last: Option<u32>,
    /// Write the logits too
    #[arg(long)]
    pub logits: bool,
    /// Model directory, .uqff or .gguf file, or Hugging Face id
    #[arg(short, long, help_heading = "Model")]
    pub model: String,
    #[command(flatten)]
    pub loading: LoadingArgs,
}

pub fn capture(a: &CaptureArgs) -> Result<()> {
    let directory = ModelDir::resolve(&a.model)?.path().to_owned();
    let llama = Llama::load(&directory, a.loading.options()?)?;
    let chat = Chat::load(&directory)?;
    let layers = layers(&a.layers, llama.spec().layers)?;
    let prompts = prompts::ids(&prompts::read(&a.prompts)?, &chat)?;
    let wanted = CaptureRequest {
        layers: &layers,
        last: a.last.map(|k| k as usize),
        logits: match a.logits {
            true => CaptureLogits::All,
            false => CaptureLogits::None,
        },
    };
    let shown = Progress::new("capture", prompts.len());
    let mut tensors: BTreeMap<String, Tensor> = BTreeMap::new();
    captured(&llama, &prompts, &wanted, &mut |i, found| {
        let ids = Tensor::new(prompts[i].as_slice(), llama.device())?;
        tensors.insert(format!("prompt.{i}.ids"), ids);
        let residuals = found.residuals.into_iter();
        tensors.extend(residuals.map(|(l, rows)| (format!("prompt.{i}.layer.{l}"), rows)));
        let logits = found.logits.into_iter();
        tensors.extend(logits.map(|rows| (format!("prompt.{i}.logits"), rows)));
        shown.step();
        Ok(())
    })?;
    drop(shown);
    let spec = llama.spec();
    let metadata = HashMap::from([
        ("format".to_owned(), "reptune.capture.1".to_owned()),
        ("layer_convention".to_owned(), LAYER_CONVENTION.to_owned()),
        ("model".to_owned(), spec.name.clone()),
        ("model_fingerprint".to_owned(), spec.fingerprint.clone()),
    ]);
    let mut file = safetensors::serialize(&tensors, Some(metadata)).context("capture")?;
    sort_metadata(&mut file);
    files::write_atomically(&a.out, |w| w.write_all(&file))?;
    let (n, l) = (prompts.len(), layers.len());
    print(format_args!("{}: {n} prompts, {l} layers", a.out.display()))
}
