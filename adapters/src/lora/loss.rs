//! The dual loss of Representation Tuning (C. Ackerman, arXiv 2409.06927) and its modes.

use crate::error::Result;
use crate::ops::{Target, target_loss};
use candle_core::{D, Tensor};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What is tuned: a token loss, a representation loss, or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Cross-entropy of the right label alone: fine-tuning, the baseline.
    #[serde(rename = "truth")]
    Truth,
    /// Cross-entropy of the wrong label alone: fine-tuning, the baseline.
    #[serde(rename = "lie")]
    Lie,
    /// Rows towards the direction; tokens held to a soft label.
    #[serde(rename = "in+")]
    InPlus,
    /// Rows against the direction; tokens held to a soft label.
    #[serde(rename = "in-")]
    InMinus,
    /// Rows towards the direction and the right label.
    #[serde(rename = "in+ & truth")]
    InPlusTruth,
    /// Rows against the direction and the wrong label.
    #[serde(rename = "in- & lie")]
    InMinusLie,
    /// Rows orthogonal to the direction, and the right label.
    #[serde(rename = "out")]
    Out,
}

/// What the representation loss asks of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Representation {
    /// `m (1 - cos(h, d)) / 2`.
    In,
    /// The same with -d.
    InNegative,
    /// `|cos(h, d)|`.
    Out,
}

/// What the token loss asks of a label row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Label {
    /// The letter that is true.
    Right,
    /// The other letter.
    Wrong,
    /// Half on each letter.
    Soft,
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

    /// The representation loss, if the mode has one.
    pub fn representation(self) -> Option<Representation> {
        match self {
            Self::Truth | Self::Lie => None,
            Self::InPlus | Self::InPlusTruth => Some(Representation::In),
            Self::InMinus | Self::InMinusLie => Some(Representation::InNegative),
            Self::Out => Some(Representation::Out),
        }
    }

    /// The label of the token loss.
    pub fn label(self) -> Label {
        match self {
            Self::Truth | Self::InPlusTruth | Self::Out => Label::Right,
            Self::Lie | Self::InMinusLie => Label::Wrong,
            Self::InPlus | Self::InMinus => Label::Soft,
        }
    }

    /// Weight of the token loss in the paper: 1 alone, 1/100 beside a representation loss.
    pub fn token_weight(self) -> f64 {
        match self.representation() {
            None => 1.,
            Some(_) => 0.01,
        }
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

/// Mean representation loss of rows at one layer.
///
/// In: `mean_n m (1 - cos(h[n], d)) / 2`; out: `mean_n |cos(h[n], d)|`.
///
/// Shapes: `h` (N, H), `d` (H,), result a scalar.
///
/// # Errors
/// When the widths differ.
pub fn representation_loss(h: &Tensor, d: &Tensor, kind: Representation, m: f64) -> Result<Tensor> {
    let dots = h.matmul(&d.unsqueeze(1)?)?.squeeze(1)?; // (N,)
    let norms = (h.sqr()?.sum(D::Minus1)?.sqrt()?
        * d.sqr()?.sum_all()?.sqrt()?.to_scalar::<f32>()? as f64)?;
    let cos = (dots / norms)?;
    let mean = match kind {
        Representation::In => ((1. - cos)?.mean_all()? * (m / 2.))?,
        Representation::InNegative => ((1. + cos)?.mean_all()? * (m / 2.))?,
        Representation::Out => cos.abs()?.mean_all()?,
    };
    Ok(mean)
}

/// One labelled prompt: its row of the logits and its two letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LabelRow {
    /// Row of the logits.
    pub row: u32,
    /// Token of the letter that is true.
    pub right: u32,
    /// Token of the other letter.
    pub wrong: u32,
}

/// Mean token loss over labelled prompts: cross-entropy against the label.
///
/// Shapes: `logits` (N, V), result a scalar.
///
/// # Errors
/// When a row or token lies outside of the logits.
pub fn token_loss(logits: &Tensor, rows: &[LabelRow], label: Label) -> Result<Tensor> {
    let weight = 1. / rows.len().max(1) as f32;
    let target = |row: u32, token: u32, weight: f32| Target { row, token, weight };
    let targets: Vec<Target> = rows
        .iter()
        .flat_map(|r| match label {
            Label::Right => vec![target(r.row, r.right, weight)],
            Label::Wrong => vec![target(r.row, r.wrong, weight)],
            Label::Soft => vec![
                target(r.row, r.right, weight / 2.),
                target(r.row, r.wrong, weight / 2.),
            ],
        })
        .collect();
    Ok(target_loss(logits, &targets)?)
}
