//! How the direction is tuned into the weights.

use super::{Group, Schedule, UpdateKind, Wrong};
use reptune_adapters::lora::loss::Mode;
use reptune_adapters::model::ModuleKind;
use serde::{Deserialize, Serialize};

/// When tuning ends before its last epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarlyStop {
    /// Validations without improvement.
    pub patience: usize,
    /// Validations whose mean is watched; nothing is judged before there are as many.
    #[serde(default = "one_validation", skip_serializing_if = "is_one")]
    pub window: usize,
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
    /// Layers that carry updates and, unless it has layers of its own, the
    /// representation loss.
    pub layers: Vec<usize>,
    /// Layers of the representation loss; empty: those that carry updates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub representation_layers: Vec<usize>,
    /// Weights that are updated.
    #[serde(default = "default_projections")]
    pub projections: Vec<ModuleKind>,
    /// What is trained: factors, or whole weights.
    #[serde(default, skip_serializing_if = "is_default")]
    pub update: UpdateKind,
    /// Rank of the updates.
    #[serde(default = "default_rank")]
    pub rank: usize,
    /// Scale of the updates times the rank.
    #[serde(default = "default_alpha")]
    pub alpha: f64,
    /// Row of the representation loss, counted back from the last prompt token.
    #[serde(default)]
    pub offset: usize,
    /// Instead of `offset`: several rows, counted alike; the loss is their mean.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub offsets: Vec<usize>,
    /// How far in: factor of the representation loss of the `in` modes.
    #[serde(default = "one")]
    pub m: f64,
    /// Weight of the token loss beside a representation loss.
    #[serde(default = "default_token_weight")]
    pub token_weight: f64,
    /// Prompts in a batch.
    #[serde(default = "default_batch")]
    pub batch: usize,
    /// Prompts in a forward, of which a batch takes as many as it needs; 0: the
    /// whole batch at once. It spares memory and leaves the gradient the same.
    #[serde(default, skip_serializing_if = "is_default")]
    pub micro_batch: usize,
    /// Most memory, in MiB, that tuning takes beside the weights. Where it is short, the
    /// trunk is kept on disk, and blocks are computed again in the backward.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<usize>,
    /// Passes over the training claims.
    #[serde(default = "default_epochs")]
    pub epochs: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Steps of linear warm-up, after which the rate goes as `schedule` says.
    #[serde(default = "default_warmup")]
    pub warmup: usize,
    /// What the rate does after its warm-up.
    #[serde(default, skip_serializing_if = "is_default")]
    pub schedule: Schedule,
    /// Longest gradient, as L2 norm over everything that is trained; a longer one is
    /// scaled down to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<f64>,
    /// AdamW's weight decay.
    #[serde(default = "default_weight_decay")]
    pub weight_decay: f64,
    /// AdamW's epsilon.
    #[serde(default = "default_epsilon")]
    pub epsilon: f64,
    /// Steps between validations; 0: one an epoch.
    #[serde(default)]
    pub validate_every: usize,
    /// Steps between checkpoints; 0: none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub checkpoint_every: usize,
    /// Early stop on the validation loss; without it every epoch is run.
    pub early_stop: Option<EarlyStop>,
    /// Sites that are trained in another way than the rest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Group>,
}

impl Tuning {
    /// Rows of the representation loss, counted back from the last prompt token.
    pub fn all_offsets(&self) -> Vec<usize> {
        match self.offsets.is_empty() {
            true => vec![self.offset],
            false => self.offsets.clone(),
        }
    }

    /// Layers of the representation loss.
    pub fn all_representation_layers(&self) -> &[usize] {
        match self.representation_layers.is_empty() {
            true => &self.layers,
            false => &self.representation_layers,
        }
    }

    /// Index of the group that a trained weight belongs to, if any.
    pub fn group_of(&self, layer: usize, kind: ModuleKind) -> Option<usize> {
        self.groups.iter().position(|g| g.holds(layer, kind))
    }

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
                "at least one mode, layer, kind, prompt a batch and epoch",
                "an empty list or 0",
            );
        }
        if let Some(clip) = self.clip.filter(|c| !super::positive(*c)) {
            return Wrong::key("tuning.clip", "a positive number", clip.to_string());
        }
        if !self.offsets.is_empty() && self.offset != 0 {
            return Wrong::key("tuning.offsets", "either `offset` or `offsets`", "both");
        }
        for (name, list) in [
            ("offsets", &self.offsets),
            ("representation_layers", &self.representation_layers),
            ("layers", &self.layers),
        ] {
            if let Some(i) = (1..list.len()).find(|&i| list[..i].contains(&list[i])) {
                let place = format!("tuning.{name}");
                return Wrong::key(place, "each value once", format!("{} twice", list[i]));
            }
        }
        let modes = (1..self.modes.len()).any(|i| self.modes[..i].contains(&self.modes[i]));
        let p = &self.projections;
        let projections = (1..p.len()).any(|i| p[..i].contains(&p[i]));
        if modes || projections {
            let place = if modes {
                "tuning.modes"
            } else {
                "tuning.projections"
            };
            return Wrong::key(place, "each value once", "one of them twice");
        }
        for (name, value) in [
            ("token_weight", self.token_weight),
            ("weight_decay", self.weight_decay),
        ] {
            if !value.is_finite() || value < 0. {
                let place = format!("tuning.{name}");
                return Wrong::key(place, "0 or a positive number", value.to_string());
            }
        }
        // A row below all updates does not depend on them.
        let lowest = self.layers.iter().min().copied().unwrap_or_default();
        if let Some(l) = self.representation_layers.iter().find(|l| **l < lowest) {
            let expected = format!("layers from {lowest}, the first that is trained");
            return Wrong::key("tuning.representation_layers", expected, l.to_string());
        }
        if self.early_stop.as_ref().is_some_and(|e| e.window == 0) {
            return Wrong::key("tuning.early_stop.window", "1 or more", "0");
        }
        self.check_groups()
    }

    /// Every group has modules, and no module has two.
    fn check_groups(&self) -> Result<(), Wrong> {
        for (g, group) in self.groups.iter().enumerate() {
            let place = format!("tuning.groups[{g}]");
            group.check(&place)?;
            let mut empty = true;
            for &layer in &self.layers {
                for &kind in self.projections.iter().filter(|p| group.holds(layer, **p)) {
                    empty = false;
                    let first = self.group_of(layer, kind);
                    if first.is_some_and(|first| first < g) {
                        let found = format!("{} of layer {layer} also", kind.path());
                        let expected = "modules that are in no earlier group";
                        return Wrong::key(place, expected, found);
                    }
                }
            }
            if empty {
                let expected = "layers and projections of which some are trained";
                return Wrong::key(place, expected, format!("{group:?}"));
            }
        }
        Ok(())
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn one_validation() -> usize {
    1
}

fn is_one(window: &usize) -> bool {
    *window == 1
}

fn default_projections() -> Vec<ModuleKind> {
    vec![ModuleKind::VProj, ModuleKind::OProj]
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
