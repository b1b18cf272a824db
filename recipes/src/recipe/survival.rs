//! Which quantized merges a run makes and measures.

use super::Wrong;
use reptune_adapters::lora::loss::Mode;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How a tuned update is merged into quantized weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MergeRounding {
    /// Every weight is rounded to the nearest representable value.
    Nearest,
    /// As `nearest`, and a bias adds back the mean error of every layer's outputs.
    BiasCorrected,
    /// As `bias-corrected`, but rounded with GPTQ's error feedback on the training claims.
    Gptq,
    /// As `gptq`, with finer types for the tuned modules, within the recipe's `growth`.
    Mixed,
    /// The base is quantized first (`gptq`); the update is tuned on it and merged into its
    /// weights (`gptq`).
    Retuned,
    /// As `retuned`, but the tuned modules stay unquantized.
    Unquantized,
}

impl MergeRounding {
    /// All.
    pub const ALL: [Self; 6] = [
        Self::Nearest,
        Self::BiasCorrected,
        Self::Gptq,
        Self::Mixed,
        Self::Retuned,
        Self::Unquantized,
    ];

    /// As it is written in a recipe.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nearest => "nearest",
            Self::BiasCorrected => "bias-corrected",
            Self::Gptq => "gptq",
            Self::Mixed => "mixed",
            Self::Retuned => "retuned",
            Self::Unquantized => "unquantized",
        }
    }
}

impl fmt::Display for MergeRounding {
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
    pub ways: Vec<MergeRounding>,
    /// Modes whose updates are merged; must be among those that are tuned.
    pub modes: Vec<Mode>,
    /// How much larger `mixed` may make the file, as a share.
    #[serde(default = "growth")]
    pub growth: f64,
}

fn ways() -> Vec<MergeRounding> {
    MergeRounding::ALL[..4].to_vec()
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
