//! Sites of a tuning that are trained in another way than the rest.

use super::Wrong;
use reptune_adapters::model::ModuleKind;
use serde::{Deserialize, Serialize};

/// What is trained at a module.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpdateKind {
    /// Factors A and B of the recipe's rank.
    #[default]
    WeightDelta,
    /// Every element of the weight, as a full delta.
    Direct,
}

/// Trained modules with settings of their own; what is left out is as for the rest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Layers of the group, of those that are trained; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<usize>,
    /// Weights of the group, of those that are updated; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub projections: Vec<ModuleKind>,
    /// Peak learning rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Weight of the token loss for these modules, in modes with a representation loss.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_weight: Option<f64>,
    /// Weight of the representation loss for these modules.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub representation_weight: Option<f64>,
    /// What is trained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update: Option<UpdateKind>,
}

impl Group {
    /// Whether a trained weight belongs to the group.
    pub fn holds(&self, layer: usize, kind: ModuleKind) -> bool {
        (self.layers.is_empty() || self.layers.contains(&layer))
            && (self.projections.is_empty() || self.projections.contains(&kind))
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
