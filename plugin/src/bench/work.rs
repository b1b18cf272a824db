//! Workloads: what is computed, down to every token id.

use crate::error::Result;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use reptune_adapters::steering::direction::Provenance;
use reptune_adapters::{Direction, DirectionSet, Error, ModelSpec, files};
use reptune_recipes::tune::Prompt;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// File of the workload in its directory.
const FILE: &str = "work.json";
/// File of the directions beside it.
const DIRECTIONS: &str = "directions.safetensors";
/// Tokens that no prompt has: a model's special ones, and the labels.
const RESERVED: u32 = 8;
/// The label tokens.
pub(super) const LABELS: [u32; 2] = [5, 6];

/// How long made-up prompts are.
#[derive(Debug, Clone, Copy)]
pub struct Lengths {
    /// Fewest tokens.
    pub least: usize,
    /// Most tokens.
    pub most: usize,
    /// Leading tokens that all share.
    pub shared: usize,
}

/// Prompts of random tokens, the same for the same seed.
pub(super) fn prompts(spec: &ModelSpec, many: usize, lengths: Lengths, seed: u64) -> Vec<Vec<u32>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let vocab = spec.vocab as u32;
    let shared: Vec<u32> = (0..lengths.shared)
        .map(|_| rng.random_range(RESERVED..vocab))
        .collect();
    let prompt = |_| {
        let length = rng.random_range(lengths.least..=lengths.most);
        let own = length.saturating_sub(shared.len());
        let own = (0..own).map(|_| rng.random_range(RESERVED..vocab));
        shared.iter().copied().chain(own).collect()
    };
    (0..many).map(prompt).collect()
}

/// A random unit direction at every layer.
pub(super) fn directions(spec: &ModelSpec, seed: u64) -> Result<DirectionSet> {
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

/// Reads the workload in `directory`, or has it made: `make` gives it with its directions
/// and may put more into the directory.
pub(super) fn read_or_make<W: Serialize + DeserializeOwned>(
    directory: &Path,
    make: impl FnOnce(&Path) -> Result<(W, Option<DirectionSet>)>,
) -> Result<(W, Option<DirectionSet>)> {
    let (path, beside) = (directory.join(FILE), directory.join(DIRECTIONS));
    if path.is_file() {
        let work = serde_json::from_slice(&files::read(&path)?).map_err(|e| {
            let place = format!("line {}", e.line());
            let hint = "name another directory, and a workload is made there";
            Error::content(&path, place, "a workload of this kind", e.to_string(), hint)
        })?;
        let directions = beside.is_file().then(|| DirectionSet::load(&beside));
        return Ok((work, directions.transpose()?));
    }
    std::fs::create_dir_all(directory).map_err(|e| Error::write(directory, e))?;
    let (work, directions) = make(directory)?;
    if let Some(set) = &directions {
        set.save(&beside)?;
    }
    let text = serde_json::to_vec(&work).unwrap_or_default();
    files::write_atomically(&path, |w| w.write_all(&text))?;
    Ok((work, directions))
}

/// A labelled prompt.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Item {
    pub ids: Vec<u32>,
    pub right: u32,
    pub wrong: u32,
}

impl Item {
    pub(super) fn prompt(&self) -> Prompt {
        Prompt {
            claim: String::new(),
            ids: self.ids.clone(),
            right: self.right,
            wrong: self.wrong,
        }
    }
}

/// A tuning: every step with its prompts and its rate.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct TuneWork {
    pub kind: String,
    pub mode: reptune_adapters::lora::loss::Mode,
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
    pub items: Vec<Item>,
    /// Items of every step.
    pub steps: Vec<Vec<usize>>,
    /// Learning rate of every step.
    pub rates: Vec<f64>,
    pub weight_decay: f64,
    pub epsilon: f64,
    /// Leading steps whose time does not count.
    pub warm_up: usize,
    pub validation: Vec<Item>,
    /// Steps after which the validation losses are computed.
    pub validate_after: Vec<usize>,
}

/// Rows of prompts.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct CaptureWork {
    pub kind: String,
    pub prompts: Vec<Vec<u32>>,
    pub layers: Vec<usize>,
    pub last: usize,
}

/// A question with its two label tokens.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Questions {
    pub ids: Vec<u32>,
    pub labels: [u32; 2],
    pub right: usize,
}

/// What is done in one cell of a sweep.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Cell {
    pub layer: usize,
    pub way: reptune_recipes::sweep::Way,
    /// Signed; 0 of an ablation.
    pub coeff: f64,
}

/// A sweep.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct SweepWork {
    pub kind: String,
    pub questions: Vec<Questions>,
    pub cells: Vec<Cell>,
    /// Above 0.
    pub coeffs: Vec<f64>,
    pub max_new_tokens: usize,
}

/// Generation.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct GenerateWork {
    pub kind: String,
    pub prompts: Vec<Vec<u32>>,
    pub max_new_tokens: usize,
}
