//! `reptune bench`.

use super::Place;
use clap::{Args, Subcommand, ValueEnum};
use reptune_adapters::lora::loss::Mode;
use std::path::PathBuf;

pub const EXAMPLES: &str = "Examples:
  reptune bench make-model --out bench-model
  reptune bench tune --model bench-model --work work/tune --prompts 16 --mode in+
  reptune bench sweep --model bench-model --work work/sweep --questions 50 --coeffs 6

Each prints one JSON object. Models, prompts and directions are random; --work keeps the
workload (every token id and rate), and what lies there is run again as it is.
tests/peers/compare runs the same workloads with torch, transformers and peft.";

#[derive(Subcommand)]
pub enum Bench {
    /// Write a random Llama
    MakeModel(MakeModel),
    /// Tune, and time the steps
    Tune(Tune),
    /// Take residual rows of pairs of prompts
    Capture(Capture),
    /// Steer every layer with every dose
    Sweep(Sweep),
    /// Continue prompts
    Generate(Generate),
    /// Ask the server of `reptune serve`
    Serve(Serve),
    /// Merge a random adapter
    Merge(Merge),
    /// Multiply square matrices, for the best rate of this machine
    Product(Product),
}

#[derive(Args)]
pub struct MakeModel {
    /// Directory to write
    #[arg(long)]
    pub out: PathBuf,
    /// Width of the residual stream
    #[arg(long, default_value_t = 768)]
    pub hidden: usize,
    /// Blocks
    #[arg(long, default_value_t = 12)]
    pub layers: usize,
    /// Attention heads
    #[arg(long, default_value_t = 12)]
    pub heads: usize,
    /// Key and value heads (as many as heads if not given)
    #[arg(long)]
    pub kv_heads: Option<usize>,
    /// Width inside the MLP
    #[arg(long, default_value_t = 2048)]
    pub intermediate: usize,
    /// Tokens of the vocabulary
    #[arg(long, default_value_t = 8192)]
    pub vocab: usize,
    /// Longest sequence
    #[arg(long, default_value_t = 2048)]
    pub context: usize,
    /// Seed of the weights
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// What all workloads have.
#[derive(Args)]
pub struct Work {
    /// Model directory, or .uqff file
    #[arg(long)]
    pub model: PathBuf,
    /// Directory of the workload; made if it is not there
    #[arg(long)]
    pub work: PathBuf,
    /// Tokens of a prompt: a number, or the least and the most such as 64-128
    #[arg(long, default_value = "72", value_parser = range)]
    pub tokens: (usize, usize),
    /// Leading tokens that all prompts share
    #[arg(long, default_value_t = 30)]
    pub shared: usize,
    /// Seed of prompts, directions and factors
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

#[derive(Args)]
pub struct Tune {
    #[command(flatten)]
    pub work: Work,
    #[command(flatten)]
    pub place: Place,
    /// What is trained, such as in+ or "in- & lie"
    #[arg(long, default_value = "in+", value_parser = mode)]
    pub mode: Mode,
    /// Prompts of a step; where both letters count, a claim is two of them
    #[arg(long, default_value_t = 4)]
    pub prompts: usize,
    /// Steps, in epochs of four; --claims and --epochs instead for a whole run
    #[arg(long, default_value_t = 12)]
    pub steps: usize,
    /// Claims that are trained on
    #[arg(long, requires = "epochs")]
    pub claims: Option<usize>,
    /// Claims for validation
    #[arg(long, default_value_t = 0)]
    pub validation: usize,
    /// Passes over the claims
    #[arg(long, requires = "claims")]
    pub epochs: Option<usize>,
    /// Layers that are trained and read
    #[arg(long, default_value = "3-5")]
    pub layers: String,
    /// Rank of the updates
    #[arg(long, default_value_t = 16)]
    pub rank: usize,
    /// Most memory beside the weights, in MiB
    #[arg(long)]
    pub memory: Option<usize>,
}

#[derive(Args)]
pub struct Capture {
    #[command(flatten)]
    pub work: Work,
    #[command(flatten)]
    pub place: Place,
    /// Pairs of prompts
    #[arg(long, default_value_t = 400)]
    pub pairs: usize,
    /// Rows that are taken of each prompt, at all layers
    #[arg(long, default_value_t = 22)]
    pub last: usize,
}

#[derive(Args)]
pub struct Sweep {
    #[command(flatten)]
    pub work: Work,
    #[command(flatten)]
    pub place: Place,
    /// Two-choice questions
    #[arg(long, default_value_t = 50)]
    pub questions: usize,
    /// Number of doses, each added and subtracted; ablation comes on top
    #[arg(long, default_value_t = 6)]
    pub coeffs: usize,
    /// Layers such as 3-5 (all if not given)
    #[arg(long)]
    pub layers: Option<String>,
    /// Generate so many tokens instead of scoring letters
    #[arg(long, value_name = "TOKENS")]
    pub generate: Option<usize>,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Arm {
    /// Our forward
    Own,
    /// Our forward, steered at the middle layer
    Steered,
    /// Unmodified mistral.rs
    Stock,
}

#[derive(Args)]
pub struct Generate {
    #[command(flatten)]
    pub work: Work,
    /// Who generates
    #[arg(long, value_enum, default_value = "own")]
    pub arm: Arm,
    /// Prompts that are continued at once
    #[arg(long, default_value_t = 1)]
    pub prompts: usize,
    /// Tokens after each
    #[arg(long, default_value_t = 32)]
    pub new: usize,
    /// How often; the median counts
    #[arg(long, default_value_t = 3)]
    pub repeats: usize,
}

#[derive(Args)]
pub struct Serve {
    #[command(flatten)]
    pub work: Work,
    /// Requests, four at a time
    #[arg(long, default_value_t = 16)]
    pub requests: usize,
    /// Tokens of an answer
    #[arg(long, default_value_t = 32)]
    pub new: usize,
}

#[derive(Args)]
pub struct Product {
    /// Rows and columns of each
    #[arg(long, default_value_t = 2048)]
    pub side: usize,
}

#[derive(Args)]
pub struct Merge {
    /// Model directory
    #[arg(long)]
    pub model: PathBuf,
    /// Directory of the merged model
    #[arg(long)]
    pub work: PathBuf,
    /// Rank of the update of every v and o
    #[arg(long, default_value_t = 16)]
    pub rank: usize,
    /// Seed of the update
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

fn range(text: &str) -> Result<(usize, usize), String> {
    let (least, most) = text.split_once('-').unwrap_or((text, text));
    match (least.parse(), most.parse()) {
        (Ok(least), Ok(most)) if 1 < least && least <= most => Ok((least, most)),
        _ => Err("expected a number above 1, or two such as 64-128".into()),
    }
}

pub fn mode(text: &str) -> Result<Mode, String> {
    let known = Mode::ALL.into_iter().find(|m| m.name() == text);
    known.ok_or_else(|| {
        let names: Vec<_> = Mode::ALL.iter().map(|m| m.name()).collect();
        format!("expected one of {}", names.join(", "))
    })
}
