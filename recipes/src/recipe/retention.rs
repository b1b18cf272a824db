//! `[retention]`: which quantized merges a run makes, to measure how much of the tuned
//! effect they retain.

use super::{Mode, Wrong};
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

/// Quantized merges that are made and measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// Quantized types of mistral.rs, such as `q4_0`.
    pub types: Vec<String>,
    /// How updates are rounded into them.
    #[serde(default = "default_rounding")]
    pub rounding: Vec<MergeRounding>,
    /// Modes whose updates are merged; they must be among those that are tuned.
    pub modes: Vec<Mode>,
    /// How much larger `mixed` may make the file, as a share.
    #[serde(default = "default_growth")]
    pub growth: f64,
}

fn default_rounding() -> Vec<MergeRounding> {
    MergeRounding::ALL[..4].to_vec()
}

fn default_growth() -> f64 {
    0.05
}

impl Retention {
    pub(super) fn check(&self) -> Result<(), Wrong> {
        if self.types.is_empty() || self.rounding.is_empty() || self.modes.is_empty() {
            return Wrong::key("retention", "types, rounding and modes", "an empty list");
        }
        if !(0. ..=10.).contains(&self.growth) {
            let found = self.growth.to_string();
            return Wrong::key("retention.growth", "a share from 0 to 10", found);
        }
        Ok(())
    }
}
