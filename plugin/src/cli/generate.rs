//! `reptune generate`: continuations of prompts.

use super::args::{LoadingArgs, SteeringArgs, number};
use super::output::{print, print_json};
use crate::decoder::Llama;
use crate::model::ModelDir;
use crate::progress;
use crate::prompts::{self, PromptLine};
use anyhow::Result;
use clap::Args;
use reptune_recipes::Chat;
use reptune_recipes::generate::{Generation, Sampling, generate as continue_prompts};
use serde_json::json;
use std::path::PathBuf;

#[derive(Args)]
#[command(after_help = "\
Examples:
  reptune generate -m DIR --prompt \"The colour of Quinvath is\"
  reptune generate -m DIR --prompts prompts.jsonl --directions honesty.safetensors --layers 14-16 --total 19
  reptune generate -m DIR --prompts prompts.jsonl --adapter ADAPTER --temperature 0.8 --seed 1 --json

A line {\"prompt\": \"..\"} of a prompt file is raw text; {\"messages\": [..]} is formatted by the
chat template. With --json every prompt gives one line with prompt, text and tokens.")]
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
    number(
        text,
        |t| *t >= 0. && t.is_finite(),
        "0 or a positive number",
    )
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
    let (steering, adapter) = a
        .steering
        .with_adapter(a.adapter.as_deref(), &llama, &ids)?;
    let how = Generation {
        interventions: &steering,
        adapter: adapter.as_ref(),
        max_new_tokens: a.max_new_tokens,
        stop: &chat.stop,
        sampling: match (a.temperature, a.seed) {
            (0., _) => Sampling::Greedy,
            (temperature, seed) => Sampling::Temperature { temperature, seed },
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
