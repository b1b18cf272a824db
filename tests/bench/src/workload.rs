//! Workloads: everything a command computes with, down to each token id.

use anyhow::{Context, Result};
use clap::Args;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use reptune::Llama;
use reptune::decoder::{LoadOptions, parse_device, parse_dtype};
use reptune::model::ModelDir;
use reptune_adapters::steering::direction::Provenance;
use reptune_adapters::{Direction, DirectionSet, ModelSpec};
use reptune_recipes::tune::TuningPrompt;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// File of the workload in its directory.
const FILE: &str = "work.json";
/// File of the directions beside it.
const DIRECTIONS: &str = "directions.safetensors";
/// Tokens below this stand in no prompt: the special ones, and the labels.
const RESERVED: u32 = 8;
/// The two answer tokens.
pub const LABELS: [u32; 2] = [5, 6];

/// The model and the workload of a command.
#[derive(Args, Clone)]
pub struct WorkArgs {
    /// Model directory, or .uqff file
    #[arg(long)]
    pub model: PathBuf,
    /// Directory of the workload; written if it holds none
    #[arg(long)]
    pub work: PathBuf,
    /// Tokens of a prompt: a number, or the fewest and the most such as 64-128
    #[arg(long, default_value = "72", value_parser = range)]
    pub tokens: (usize, usize),
    /// Leading tokens that all prompts share
    #[arg(long, default_value_t = 30)]
    pub shared: usize,
    /// Seed of prompts, directions and LoRA factors
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

impl WorkArgs {
    /// `count` prompts of random tokens; the same for the same seed.
    pub fn prompts(&self, spec: &ModelSpec, count: usize) -> Vec<Vec<u32>> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let vocab = spec.vocab as u32;
        let shared: Vec<u32> = (0..self.shared)
            .map(|_| rng.random_range(RESERVED..vocab))
            .collect();
        let (fewest, most) = self.tokens;
        let prompt = |_| {
            let length = rng.random_range(fewest..=most);
            let own = length.saturating_sub(shared.len());
            let own = (0..own).map(|_| rng.random_range(RESERVED..vocab));
            shared.iter().copied().chain(own).collect()
        };
        (0..count).map(prompt).collect()
    }
}

/// A number, or two such as `64-128`.
pub fn range(text: &str) -> Result<(usize, usize), String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) if first <= last => Ok((first, last)),
        _ => Err("expected a number, or two such as 64-128".into()),
    }
}

/// Where a model computes.
#[derive(Args)]
pub struct DeviceArgs {
    /// cpu, or cuda, cuda:1, metal if built with that feature
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Type of weights and residual stream: f32, or bf16 and f16 on a device
    #[arg(long, default_value = "f32")]
    dtype: String,
}

impl Default for DeviceArgs {
    fn default() -> Self {
        Self {
            device: "cpu".into(),
            dtype: "f32".into(),
        }
    }
}

impl DeviceArgs {
    /// The model, and the seconds that loading it took.
    pub fn load(&self, model: &Path) -> Result<(Llama, f64)> {
        let options = LoadOptions {
            isq: None,
            device: parse_device(&self.device)?,
            dtype: parse_dtype(&self.dtype)?,
        };
        let started = Instant::now();
        let llama = Llama::load(model, options)?;
        Ok((llama, started.elapsed().as_secs_f64()))
    }
}

/// Sizes of the model, without its weights.
pub fn spec(model: &Path) -> Result<ModelSpec> {
    Ok(ModelDir::at(model)?.config()?.1)
}

/// A random unit direction at every layer.
pub fn directions(spec: &ModelSpec, seed: u64) -> Result<DirectionSet> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0xd1);
    let mut layers = BTreeMap::new();
    for layer in 0..spec.layers {
        let v: Vec<f64> = (0..spec.hidden)
            .map(|_| rng.random_range(-1.0..1.0))
            .collect();
        layers.insert(layer, Direction::new(&v)?);
    }
    Ok(DirectionSet {
        layers,
        provenance: Provenance {
            model: spec.name.clone(),
            model_fingerprint: spec.fingerprint.clone(),
            model_layers: spec.layers,
            method: "random".into(),
            rows: "none".into(),
            ..Provenance::default()
        },
    })
}

/// Reads the workload in `directory`, or writes the one that `make` returns with its
/// directions; `make` may write more files into the directory.
pub fn read_or_make<W: Serialize + DeserializeOwned>(
    directory: &Path,
    make: impl FnOnce(&Path) -> Result<(W, Option<DirectionSet>)>,
) -> Result<(W, Option<DirectionSet>)> {
    let (path, beside) = (directory.join(FILE), directory.join(DIRECTIONS));
    if path.is_file() {
        let work = serde_json::from_slice(&std::fs::read(&path)?).with_context(|| {
            let path = path.display();
            format!("{path}: not a workload of this command; use another --work directory")
        })?;
        let directions = beside.is_file().then(|| DirectionSet::load(&beside));
        return Ok((work, directions.transpose()?));
    }
    std::fs::create_dir_all(directory)?;
    let (work, directions) = make(directory)?;
    if let Some(set) = &directions {
        set.save(&beside)?;
    }
    std::fs::write(&path, serde_json::to_vec(&work)?)?;
    Ok((work, directions))
}

/// A labelled prompt.
#[derive(Serialize, Deserialize)]
pub struct WorkItem {
    pub ids: Vec<u32>,
    pub right: u32,
    pub wrong: u32,
}

impl WorkItem {
    pub fn prompt(&self) -> TuningPrompt {
        TuningPrompt {
            claim: String::new(),
            ids: self.ids.clone(),
            right: self.right,
            wrong: self.wrong,
        }
    }
}

/// A tuning: every step with its items and its learning rate.
#[derive(Serialize, Deserialize)]
pub struct TuneWork {
    pub kind: String,
    pub mode: reptune_recipes::recipe::Mode,
    pub tuning: reptune_recipes::recipe::Tuning,
    pub seed: u64,
    /// `soft`, `right` or `wrong`.
    pub label: String,
    /// `in`, `in_negative`, `out`, or none.
    pub representation: Option<String>,
    pub m: f64,
    pub token_weight: f64,
    pub representation_layers: Vec<usize>,
    pub offsets: Vec<usize>,
    pub items: Vec<WorkItem>,
    /// Items of every step.
    pub steps: Vec<Vec<usize>>,
    /// Learning rate of every step.
    pub rates: Vec<f64>,
    pub weight_decay: f64,
    pub epsilon: f64,
    /// Leading steps whose time does not count.
    pub warm_up: usize,
    pub validation: Vec<WorkItem>,
    /// Steps after which the validation losses are computed.
    pub validate_after: Vec<usize>,
}

/// Prompts whose residual stream is captured.
#[derive(Serialize, Deserialize)]
pub struct CaptureWork {
    pub kind: String,
    pub prompts: Vec<Vec<u32>>,
    pub layers: Vec<usize>,
    pub last: usize,
}

/// A question with its two label tokens.
#[derive(Serialize, Deserialize)]
pub struct WorkQuestion {
    pub ids: Vec<u32>,
    pub labels: [u32; 2],
    pub right: usize,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkOperator {
    Add,
    Ablate,
}

/// One cell of a sweep.
#[derive(Serialize, Deserialize)]
pub struct WorkCell {
    pub layer: usize,
    pub operator: WorkOperator,
    /// Signed; 0 for ablation.
    pub coeff: f64,
}

/// A sweep.
#[derive(Serialize, Deserialize)]
pub struct SweepWork {
    pub kind: String,
    pub questions: Vec<WorkQuestion>,
    pub cells: Vec<WorkCell>,
    /// Without their signs.
    pub coeffs: Vec<f64>,
    pub max_new_tokens: usize,
}

/// Prompts that are continued.
#[derive(Serialize, Deserialize)]
pub struct GenerateWork {
    pub kind: String,
    pub prompts: Vec<Vec<u32>>,
    pub max_new_tokens: usize,
}
