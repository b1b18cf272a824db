//! `[tuning]`: how the direction is tuned into the weights.

use super::{Mode, ParameterGroup, Schedule, UpdateKind, Wrong};
use reptune_adapters::Positions;
use reptune_adapters::model::ModuleKind;
use reptune_adapters::steering::positions::PositionsUse;
use serde::{Deserialize, Serialize};
use std::fmt::Debug;

/// When tuning ends before its last epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarlyStop {
    /// Validations without improvement.
    pub patience: usize,
    /// Validations whose mean is watched; nothing is judged before there are as many.
    #[serde(default = "one_validation")]
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
    #[serde(default)]
    pub representation_layers: Vec<usize>,
    /// Target modules: the weights that are updated.
    #[serde(default = "default_target_modules")]
    pub target_modules: Vec<ModuleKind>,
    /// What is trained: LoRA factors, or full deltas.
    #[serde(default)]
    pub update: UpdateKind,
    /// Rank of the updates.
    #[serde(default = "default_rank")]
    pub rank: usize,
    /// Scale of the updates times the rank.
    #[serde(default = "default_alpha")]
    pub alpha: f64,
    /// Tokens at which the representation loss reads the residual stream; of several, the
    /// loss is the mean.
    #[serde(default = "default_positions")]
    pub positions: Positions,
    /// Factor of the representation loss of the `in` modes.
    #[serde(default = "one")]
    pub m: f64,
    /// Weight of the token loss beside a representation loss.
    #[serde(default = "default_token_weight")]
    pub token_weight: f64,
    /// Prompts in a batch.
    #[serde(default = "default_batch")]
    pub batch: usize,
    /// Prompts of one forward; a batch takes as many forwards as it needs. 0: the whole
    /// batch at once. Fewer take less memory; the gradient is the same.
    #[serde(default)]
    pub micro_batch: usize,
    /// Most memory, in MiB, that tuning takes beside the weights. Where it is short, the
    /// activation cache is kept on disk, and blocks are recomputed in the backward
    /// (gradient checkpointing).
    pub memory: Option<usize>,
    /// Passes over the training claims.
    #[serde(default = "default_epochs")]
    pub epochs: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Steps of linear warm-up, after which the rate follows `schedule`.
    #[serde(default = "default_warmup")]
    pub warmup: usize,
    /// What the rate does after its warm-up.
    #[serde(default)]
    pub schedule: Schedule,
    /// Largest gradient norm (L2 over everything that is trained); a longer gradient is
    /// scaled down to it.
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
    #[serde(default)]
    pub checkpoint_every: usize,
    /// Early stop on the validation loss; without it every epoch is run.
    pub early_stop: Option<EarlyStop>,
    /// Parameter groups: target modules that are trained in another way than the rest.
    #[serde(default)]
    pub groups: Vec<ParameterGroup>,
}

impl Tuning {
    /// Tokens of the representation loss, counted back from the last prompt token.
    pub fn offsets(&self) -> Vec<usize> {
        let back = |one: Positions| match one {
            Positions::At(list) => list.first().map(|p| (-1 - p) as usize),
            _ => None,
        };
        self.positions.each().into_iter().filter_map(back).collect()
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
            || self.target_modules.is_empty()
            || self.batch == 0
            || self.epochs == 0
        {
            return Wrong::key(
                "tuning",
                "at least one mode, layer, target module, prompt a batch and epoch",
                "an empty list or 0",
            );
        }
        if let Some(clip) = self.clip.filter(|c| !super::positive(*c)) {
            return Wrong::key("tuning.clip", "a positive number", clip.to_string());
        }
        Wrong::from_value(
            "tuning.positions",
            self.positions.check(PositionsUse::Tuning),
        )?;
        once("modes", &self.modes)?;
        once("layers", &self.layers)?;
        once("representation_layers", &self.representation_layers)?;
        once("target_modules", &self.target_modules)?;
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
                for &kind in self
                    .target_modules
                    .iter()
                    .filter(|p| group.holds(layer, **p))
                {
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
                let expected = "layers and target modules of which some are trained";
                return Wrong::key(place, expected, format!("{group:?}"));
            }
        }
        Ok(())
    }
}

fn once<T: PartialEq + Debug>(name: &str, list: &[T]) -> Result<(), Wrong> {
    match (1..list.len()).find(|&i| list[..i].contains(&list[i])) {
        Some(i) => {
            let found = format!("{:?} twice", list[i]);
            Wrong::key(format!("tuning.{name}"), "each value once", found)
        }
        None => Ok(()),
    }
}

fn one_validation() -> usize {
    1
}

fn default_positions() -> Positions {
    Positions::Last(1)
}

fn default_target_modules() -> Vec<ModuleKind> {
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
