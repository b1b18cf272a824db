//! `[[tuning.groups]]`: parameter groups, target modules that are trained in another way
//! than the rest.

use super::Wrong;
use reptune_adapters::model::ModuleKind;
use serde::{Deserialize, Serialize};

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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParameterGroup {
    /// Layers of the group, of those that are trained; empty: all.
    #[serde(default)]
    pub layers: Vec<usize>,
    /// Target modules of the group, of those that are trained; empty: all.
    #[serde(default)]
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

impl ParameterGroup {
    /// Whether a trained weight belongs to the group.
    pub fn holds(&self, layer: usize, kind: ModuleKind) -> bool {
        (self.layers.is_empty() || self.layers.contains(&layer))
            && (self.target_modules.is_empty() || self.target_modules.contains(&kind))
    }

    pub(super) fn check(&self, place: &str) -> Result<(), Wrong> {
        if let Some(rate) = self.learning_rate.filter(|r| !super::positive(*r)) {
            let place = format!("{place}.learning_rate");
            return Wrong::key(place, "a positive number", rate.to_string());
        }
        for (name, weight) in [
            ("token_weight", self.token_weight),
            ("representation_weight", self.representation_weight),
        ] {
            if let Some(weight) = weight.filter(|w| !w.is_finite() || *w < 0.) {
                let place = format!("{place}.{name}");
                return Wrong::key(place, "0 or a positive number", weight.to_string());
            }
        }
        Ok(())
    }
}
