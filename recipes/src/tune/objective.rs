//! What tuning minimizes: a weighted sum of loss terms. The seven modes of Representation
//! Tuning (C. Ackerman, arXiv 2409.06927) are names for combinations of two terms.
//!
//! To add a term: add a variant to [`Term`] with its arms in `impl Term`, and name it in
//! [`Objective::of`]. Metrics, validation, gradients and parameter groups follow.

use super::share::Share;
use crate::error::Result;
use crate::recipe::Mode;
use candle_core::Tensor;
use reptune_adapters::lora::loss::{
    Label, LabelRow, Representation, representation_loss, token_loss,
};

/// One term of the loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Term {
    /// Cosine of the residual rows to the direction, averaged over layers and positions.
    Representation(Representation),
    /// Cross-entropy of the answer token.
    Token(Label),
}

/// What a forward over a batch gives to the terms.
pub(super) struct Outputs<'a> {
    /// Logits (N, V) of the tokens that an answer follows.
    pub logits: Tensor,
    /// The answer tokens of every prompt.
    pub labels: Vec<LabelRow>,
    /// For every layer and position its direction (H,), and the rows (prompts, H).
    pub rows: Vec<(&'a Tensor, Tensor)>,
    /// Factor of the `in` modes.
    pub m: f64,
}

impl Term {
    /// Its name in metrics: `{name}_loss`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Representation(_) => "representation",
            Self::Token(_) => "token",
        }
    }

    /// Whether it reads residual rows.
    pub(super) fn reads_rows(self) -> bool {
        matches!(self, Self::Representation(_))
    }

    /// Its weight for a trained module.
    fn weight(self, share: &Share) -> f64 {
        match self {
            Self::Representation(_) => share.representation_weight,
            Self::Token(_) => share.token_weight,
        }
    }

    /// The loss of a batch, not weighted.
    pub(super) fn loss(self, of: &Outputs) -> Result<Tensor> {
        match self {
            Self::Token(label) => Ok(token_loss(&of.logits, &of.labels, label)?),
            Self::Representation(kind) => {
                let mut sum: Option<Tensor> = None;
                for (direction, h) in &of.rows {
                    let loss = representation_loss(h, direction, kind, of.m)?;
                    sum = Some(match sum {
                        Some(sum) => (sum + loss)?,
                        None => loss,
                    });
                }
                let sum = sum.map_or_else(|| Tensor::new(0f32, of.logits.device()), Ok)?;
                Ok((sum / of.rows.len() as f64)?)
            }
        }
    }

    /// A loss without the factor m, so that runs with other factors compare.
    pub(super) fn without_factor(self, loss: f64, m: f64) -> f64 {
        match self {
            Self::Representation(Representation::In | Representation::InNegative) => loss / m,
            Self::Representation(Representation::Out) | Self::Token(_) => loss,
        }
    }
}

/// The terms of a mode; the validation loss of the first one decides about an early stop.
#[derive(Debug, Clone, PartialEq)]
pub struct Objective(Vec<Term>);

impl Objective {
    /// The terms of `mode`.
    pub fn of(mode: Mode) -> Self {
        use Representation::{In, InNegative, Out};
        let (representation, label) = match mode {
            Mode::Truth => (None, Label::Right),
            Mode::Lie => (None, Label::Wrong),
            Mode::InPlus => (Some(In), Label::Soft),
            Mode::InMinus => (Some(InNegative), Label::Soft),
            Mode::InPlusTruth => (Some(In), Label::Right),
            Mode::InMinusLie => (Some(InNegative), Label::Wrong),
            Mode::Out => (Some(Out), Label::Right),
        };
        let representation = representation.map(Term::Representation);
        Self(
            representation
                .into_iter()
                .chain([Term::Token(label)])
                .collect(),
        )
    }

    /// The terms, in the order in which they are summed.
    pub fn terms(&self) -> &[Term] {
        &self.0
    }

    /// Whether a term reads residual rows.
    pub fn reads_rows(&self) -> bool {
        self.0.iter().any(|term| term.reads_rows())
    }

    /// Weights of the terms for a trained module; a term that is alone has weight 1.
    pub(super) fn weights(&self, share: &Share) -> Vec<f64> {
        match self.0.as_slice() {
            [_] => vec![1.],
            terms => terms.iter().map(|term| term.weight(share)).collect(),
        }
    }
}

impl Mode {
    /// The representation loss, if the mode has one.
    pub fn representation(self) -> Option<Representation> {
        Objective::of(self)
            .0
            .into_iter()
            .find_map(|term| match term {
                Term::Representation(kind) => Some(kind),
                Term::Token(_) => None,
            })
    }

    /// The label of the token loss.
    pub fn label(self) -> Label {
        let label = Objective::of(self)
            .0
            .into_iter()
            .find_map(|term| match term {
                Term::Token(label) => Some(label),
                Term::Representation(_) => None,
            });
        label.unwrap_or(Label::Soft)
    }
}
