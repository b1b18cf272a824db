//! `[study]` and `[retention]`: a run with repeats, controls and claims, and the quantized
//! merges whose retained effect it measures.

use super::{Mode, default::ratio};
use reptune_report::StudyClaim;
use serde::{Deserialize, Serialize};
use std::{fmt, path::PathBuf};

/// Repeats, controls and claims. With this table a run tunes every mode once for each seed,
/// steers with a random and with a shuffled direction too, and says which claims hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Study {
    /// Seeds of the order of training claims and of the initial LoRA factors; the split of
    /// the data stays that of the recipe's own seed.
    pub seeds: Vec<u64>,
    /// A Markdown file for the result (relative to the recipe file).
    pub results: Option<PathBuf>,
    /// What the study claims about its models; the run says whether it holds.
    #[serde(default)]
    pub claims: Vec<StudyClaim>,
}

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
    #[serde(default = "ratio::<1, 20>")]
    pub growth: f64,
}

fn default_rounding() -> Vec<MergeRounding> {
    MergeRounding::ALL[..4].to_vec()
}

#[cfg(test)]
mod tests;
