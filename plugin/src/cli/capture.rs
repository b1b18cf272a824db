//! `reptune capture`: the residual stream of prompts as a file.

use super::args::{LoadingArgs, layers};
use super::output::print;
use crate::decoder::Llama;
use crate::model::ModelDir;
use crate::progress::Progress;
use crate::prompts;
use anyhow::{Context, Result};
use candle_core::Tensor;
use clap::Args;
use reptune_adapters::steering::direction::LAYER_CONVENTION;
use reptune_adapters::{HookedModel, files, formats::safetensors::sort_metadata};
use reptune_recipes::Chat;
use reptune_recipes::capture::{CaptureLogits, CaptureRequest, capture as captured};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

#[derive(Args)]
#[command(after_help = "\
Example:
  reptune capture -m DIR --prompts prompts.jsonl --layers 1-3 --logits -o capture.safetensors

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
    let metadata = [
        ("format", "reptune.capture.1"),
        ("layer_convention", LAYER_CONVENTION),
        ("model", &spec.name),
        ("model_fingerprint", &spec.fingerprint),
    ];
    let metadata: HashMap<String, String> = metadata
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
    let mut file = safetensors::serialize(&tensors, Some(metadata)).context("capture")?;
    sort_metadata(&mut file);
    files::write_atomically(&a.out, |w| w.write_all(&file))?;
    let (n, l) = (prompts.len(), layers.len());
    print(format_args!("{}: {n} prompts, {l} layers", a.out.display()))
}
