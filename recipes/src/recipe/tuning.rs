//! How the direction is tuned into the weights.

use super::Wrong;
use reptune_adapters::loss::Mode;
use reptune_adapters::low_rank::Projection;
use serde::{Deserialize, Serialize};

/// When tuning ends before its last epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarlyStop {
    /// Validations without improvement.
    pub patience: usize,
    /// Steps before which it does not stop.
    #[serde(default)]
    pub min_steps: usize,
}

/// How the direction is tuned into the weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuning {
    /// What to train: any of `truth`, `lie`, `in+`, `in-`, `in+ & truth`, `in- & lie`, `out`.
    pub modes: Vec<Mode>,
    /// Layers that carry low-rank updates and the representation loss.
    pub layers: Vec<usize>,
    /// Weights that are updated.
    #[serde(default = "default_projections")]
    pub projections: Vec<Projection>,
    /// Rank of the updates.
    #[serde(default = "default_rank")]
    pub rank: usize,
    /// Scale of the updates times the rank.
    #[serde(default = "default_alpha")]
    pub alpha: f64,
    /// Row of the representation loss, counted back from the last prompt token.
    #[serde(default)]
    pub offset: usize,
    /// How far in: factor of the representation loss of the `in` modes.
    #[serde(default = "one")]
    pub m: f64,
    /// Weight of the token loss beside a representation loss.
    #[serde(default = "default_token_weight")]
    pub token_weight: f64,
    /// Prompts in a batch.
    #[serde(default = "default_batch")]
    pub batch: usize,
    /// Passes over the training claims.
    #[serde(default = "default_epochs")]
    pub epochs: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Steps of linear warm-up, after which the rate falls linearly to zero.
    #[serde(default = "default_warmup")]
    pub warmup: usize,
    /// AdamW's weight decay.
    #[serde(default = "default_weight_decay")]
    pub weight_decay: f64,
    /// AdamW's epsilon.
    #[serde(default = "default_epsilon")]
    pub epsilon: f64,
    /// Steps between validations; 0: one an epoch.
    #[serde(default)]
    pub validate_every: usize,
    /// Early stop on the validation loss; without it every epoch is run.
    pub early_stop: Option<EarlyStop>,
}

impl Tuning {
    pub(super) fn check(&self) -> Result<(), Wrong> {
        if self.rank == 0 {
            return Wrong::key("tuning.rank", "1 or more", "0");
        }
        for (name, value) in [
            ("alpha", self.alpha),
            ("learning_rate", self.learning_rate),
            ("m", self.m),
            ("epsilon", self.epsilon),
        ] {
            if !super::positive(value) {
                let place = format!("tuning.{name}");
                return Wrong::key(place, "a positive number", value.to_string());
            }
        }
        if self.modes.is_empty()
            || self.layers.is_empty()
            || self.projections.is_empty()
            || self.batch == 0
            || self.epochs == 0
        {
            return Wrong::key(
                "tuning",
                "at least one mode, layer, projection, prompt a batch and epoch",
                "an empty list or 0",
            );
        }
        Ok(())
    }
}

fn default_projections() -> Vec<Projection> {
    vec![Projection::VProj, Projection::OProj]
}

fn default_rank() -> usize {
    8
}

fn default_alpha() -> f64 {
    16.
}

fn one() -> f64 {
    1.
}

fn default_token_weight() -> f64 {
    0.01
}

fn default_batch() -> usize {
    4
}

fn default_epochs() -> usize {
    3
}

fn default_warmup() -> usize {
    10
}

fn default_weight_decay() -> f64 {
    0.1
}

fn default_epsilon() -> f64 {
    1e-8
}
