//! `[tuning]`: how the direction is tuned into the weights.

use super::Mode;
use super::default::{number, ratio};
use reptune_adapters::{Positions, model::ModuleKind};
use serde::{Deserialize, Serialize};

/// When tuning ends before its last epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarlyStop {
    /// Validations without improvement.
    pub patience: usize,
    /// Validations whose mean is watched; nothing is judged before there are as many.
    #[serde(default = "number::<1, _>")]
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
    #[serde(default = "number::<8, _>")]
    pub rank: usize,
    /// Scale of the updates times the rank.
    #[serde(default = "number::<16, _>")]
    pub alpha: f64,
    /// Tokens at which the representation loss reads the residual stream; of several, the
    /// loss is the mean.
    #[serde(default = "default_positions")]
    pub positions: Positions,
    /// Factor of the representation loss of the `in` modes.
    #[serde(default = "number::<1, _>")]
    pub m: f64,
    /// Weight of the token loss in modes with a representation loss.
    #[serde(default = "ratio::<1, 100>")]
    pub token_weight: f64,
    /// Prompts in a batch.
    #[serde(default = "number::<4, _>")]
    pub batch: usize,
    /// Prompts of one forward; a batch takes as many forwards as it needs. 0: the whole
    /// batch at once. Fewer take less memory; the gradient is the same.
    #[serde(default)]
    pub micro_batch: usize,
    /// Most memory, in MiB, that tuning takes in addition to the weights. Where it is short, the
    /// activation cache is kept on disk, and blocks are recomputed in the backward
    /// (gradient checkpointing).
    pub memory: Option<usize>,
    /// Passes over the training claims.
    #[serde(default = "number::<3, _>")]
    pub epochs: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Steps of linear warm-up, after which the rate follows `schedule`.
    #[serde(default = "number::<10, _>")]
    pub warmup: usize,
    /// What the rate does after its warm-up.
    #[serde(default)]
    pub schedule: Schedule,
    /// Largest gradient norm (L2 over everything that is trained); a longer gradient is
    /// scaled down to it.
    pub clip: Option<f64>,
    /// AdamW's weight decay.
    #[serde(default = "ratio::<1, 10>")]
    pub weight_decay: f64,
    /// AdamW's epsilon.
    #[serde(default = "ratio::<1, 100_000_000>")]
    pub epsilon: f64,
    /// Steps between validations; 0: one an epoch.
    #[serde(default)]
    pub validate_every: usize,
    /// Steps between checkpoints; 0: none.
    #[serde(default)]
    pub checkpoint_every: usize,
    /// Early stop on the validation loss; without it every epoch is run.
    pub early_stop: Option<EarlyStop>,
    /// Parameter groups: target modules that are trained with other settings than the rest.
    #[serde(default)]
    pub groups: Vec<ParameterGroup>,
}

/// What is trained at a target module.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpdateKind {
    /// LoRA factors A and B of the recipe's rank.
    #[default]
    Lora,
    /// A full delta: every element of the weight.
    Full,
}

/// Target modules with settings of their own; what is left out is as for the rest.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ParameterGroup {
    /// Layers of the group, of those that are trained; empty: all.
    pub layers: Vec<usize>,
    /// Target modules of the group, of those that are trained; empty: all.
    pub target_modules: Vec<ModuleKind>,
    /// Peak learning rate.
    pub learning_rate: Option<f64>,
    /// Weight of the token loss for these modules, in modes with a representation loss.
    pub token_weight: Option<f64>,
    /// Weight of the representation loss for these modules.
    pub representation_weight: Option<f64>,
    /// What is trained.
    pub update: Option<UpdateKind>,
}

/// Settings of one trained weight: those of its group, and of the rest where that is silent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ModuleSettings {
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Weight of the token loss.
    pub token_weight: f64,
    /// Weight of the representation loss.
    pub representation_weight: f64,
    /// What is trained.
    pub update: UpdateKind,
}

/// What the learning rate does after its warm-up, in which it rises linearly.
///
/// With `s` the step from 0, `T` the steps of the run and `w` those of the warm-up:
///
/// - warm-up: `peak (s + 1) / w` while `s < w`
/// - linear: `peak (T - s) / (T - w)`
/// - cosine: `peak (1 + cos(pi (s - w) / (T - w))) / 2`
/// - constant: `peak`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// Falls in a line.
    #[default]
    Linear,
    /// Falls along half a wave of the cosine.
    Cosine,
    /// Stays.
    Constant,
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

    /// Most prompts of one forward.
    pub fn per_forward(&self) -> usize {
        match self.micro_batch {
            0 => usize::MAX,
            some => some,
        }
    }

    /// Steps between validations, with `epoch` steps in an epoch.
    pub fn steps_to_validation(&self, epoch: usize) -> usize {
        match self.validate_every {
            0 => epoch,
            some => some,
        }
    }

    /// Settings of a trained weight.
    pub fn module(&self, layer: usize, kind: ModuleKind) -> ModuleSettings {
        let group = self.groups.iter().find(|g| g.holds(layer, kind));
        let group = group.cloned().unwrap_or_default();
        ModuleSettings {
            learning_rate: group.learning_rate.unwrap_or(self.learning_rate),
            token_weight: group.token_weight.unwrap_or(self.token_weight),
            representation_weight: group.representation_weight.unwrap_or(1.),
            update: group.update.unwrap_or(self.update),
        }
    }
}

impl ParameterGroup {
    /// Whether a trained weight belongs to the group.
    pub fn holds(&self, layer: usize, kind: ModuleKind) -> bool {
        (self.layers.is_empty() || self.layers.contains(&layer))
            && (self.target_modules.is_empty() || self.target_modules.contains(&kind))
    }
}

impl Schedule {
    /// Learning rate of step `step` (from 0) of `total`, with `warmup` steps of
    /// warm-up and the highest rate `peak`.
    pub fn rate(self, peak: f64, step: usize, total: usize, warmup: usize) -> f64 {
        let warm = warmup.min(total.saturating_sub(1));
        if step < warm {
            return peak * (step + 1) as f64 / warm as f64;
        }
        match self {
            Self::Linear => peak * (total - step) as f64 / (total - warm) as f64,
            Self::Cosine => {
                let share = (step - warm) as f64 / (total - warm) as f64;
                peak * (1. + (std::f64::consts::PI * share).cos()) / 2.
            }
            Self::Constant => peak,
        }
    }
}

fn default_positions() -> Positions {
    Positions::Last(1)
}

fn default_target_modules() -> Vec<ModuleKind> {
    vec![ModuleKind::VProj, ModuleKind::OProj]
}

#[cfg(test)]
mod tests;
