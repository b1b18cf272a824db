//! How the direction is found.

use serde::{Deserialize, Serialize};

/// Which prompts make a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pairing {
    /// The positive persona gives a letter to one claim, the negative persona the
    /// same letter to the opposite claim: the letter cancels.
    #[default]
    SameAnswer,
    /// Both personas are asked the same claim and give different letters.
    SameClaim,
}

/// Which pairs are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keep {
    /// Those where the model itself, greedily, answers as both personas ask.
    #[default]
    Correct,
    /// All.
    All,
}

/// How the direction is found: the mean over pairs of (positive - negative).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Extraction {
    /// Which prompts make a pair.
    pub pairing: Pairing,
    /// Which pairs are kept.
    pub keep: Keep,
    /// Row that is captured, counted back from the last prompt token (0); -1 is
    /// the answer letter after it.
    pub offset: i64,
    /// At most this many pairs.
    pub pairs: usize,
}

impl Default for Extraction {
    fn default() -> Self {
        Self {
            pairing: Pairing::default(),
            keep: Keep::default(),
            offset: 0,
            pairs: 400,
        }
    }
}
