//! Which quantized merges a run makes and measures.

use super::Wrong;
use reptune_adapters::lora::loss::Mode;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A way to merge a tuned update into quantized weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// Every number is rounded to the nearest.
    Nearest,
    /// The same, and the mean error of every layer's outputs is taken back by a bias.
    Corrected,
    /// Rounded with feedback on the training claims, and the bias.
    Calibrated,
    /// Calibrated, with finer types for the tuned modules, within the recipe's growth.
    Kept,
    /// The base is quantized first (calibrated), the update is tuned on it and merged
    /// into its weights (calibrated).
    Retuned,
    /// The same, and the tuned modules stay unquantized.
    Grafted,
}

impl Way {
    /// All.
    pub const ALL: [Self; 6] = [
        Self::Nearest,
        Self::Corrected,
        Self::Calibrated,
        Self::Kept,
        Self::Retuned,
        Self::Grafted,
    ];

    /// As it is written in a recipe.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nearest => "nearest",
            Self::Corrected => "corrected",
            Self::Calibrated => "calibrated",
            Self::Kept => "kept",
            Self::Retuned => "retuned",
            Self::Grafted => "grafted",
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Quantized merges to be made and measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Survival {
    /// Types of the runtime, such as `q4_0`.
    pub types: Vec<String>,
    /// Ways of merging.
    #[serde(default = "ways")]
    pub ways: Vec<Way>,
    /// Modes whose updates are merged; must be among those that are tuned.
    pub modes: Vec<Mode>,
    /// How much larger `kept` may make the file, as a share.
    #[serde(default = "growth")]
    pub growth: f64,
}

fn ways() -> Vec<Way> {
    vec![Way::Nearest, Way::Corrected, Way::Calibrated, Way::Kept]
}

fn growth() -> f64 {
    0.05
}

impl Survival {
    pub(super) fn check(&self) -> Result<(), Wrong> {
        if self.types.is_empty() || self.ways.is_empty() || self.modes.is_empty() {
            return Wrong::key("survival", "types, ways and modes", "an empty list");
        }
        if !(0. ..=10.).contains(&self.growth) {
            let found = self.growth.to_string();
            return Wrong::key("survival.growth", "a share from 0 to 10", found);
        }
        Ok(())
    }
}
