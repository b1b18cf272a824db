//! The seven modes of Representation Tuning (C. Ackerman, arXiv 2409.06927).

use serde::{Deserialize, Serialize};
use std::fmt;

/// What is tuned: a name for a combination of loss terms, which `crate::tune::objective`
/// spells out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Cross-entropy of the right answer token alone: fine-tuning, the baseline.
    #[serde(rename = "truth")]
    Truth,
    /// Cross-entropy of the wrong answer token alone: fine-tuning, the baseline.
    #[serde(rename = "lie")]
    Lie,
    /// Rows towards the direction; tokens held to a soft label.
    #[serde(rename = "in+", alias = "in_plus")]
    InPlus,
    /// Rows against the direction; tokens held to a soft label.
    #[serde(rename = "in-", alias = "in_minus")]
    InMinus,
    /// Rows towards the direction, and the right answer token.
    #[serde(rename = "in+ & truth", alias = "in_plus_truth")]
    InPlusTruth,
    /// Rows against the direction, and the wrong answer token.
    #[serde(rename = "in- & lie", alias = "in_minus_lie")]
    InMinusLie,
    /// Rows orthogonal to the direction, and the right answer token.
    #[serde(rename = "out")]
    Out,
}

impl Mode {
    /// All seven.
    pub const ALL: [Self; 7] = [
        Self::Truth,
        Self::Lie,
        Self::InPlus,
        Self::InMinus,
        Self::InPlusTruth,
        Self::InMinusLie,
        Self::Out,
    ];

    /// The mode with this name, written as in a recipe or as in a file name.
    pub fn named(name: &str) -> Option<Self> {
        let is = |mode: &Self| mode.name() == name || mode.file_name() == name;
        Self::ALL.into_iter().find(is)
    }

    /// The name used in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Truth => "truth",
            Self::Lie => "lie",
            Self::InPlus => "in+",
            Self::InMinus => "in-",
            Self::InPlusTruth => "in+ & truth",
            Self::InMinusLie => "in- & lie",
            Self::Out => "out",
        }
    }

    /// The name as part of a file name: `in_plus_truth`.
    pub fn file_name(self) -> String {
        self.name()
            .replace(" & ", "_")
            .replace('+', "_plus")
            .replace('-', "_minus")
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
