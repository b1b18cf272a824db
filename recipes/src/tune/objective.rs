//! What tuning minimizes: a weighted sum of loss terms. The seven modes of Representation
//! Tuning (C. Ackerman, arXiv 2409.06927) are names for combinations of two terms.
//!
//! To add a term: add a variant to [`Term`] with its arms in `impl Term`, and name it in
//! [`Objective::of`]. Metrics, validation, gradients and parameter groups follow.

use crate::error::{Error, Result};
use crate::recipe::{Mode, ModuleSettings, Tuning};
use candle_core::Tensor;
use reptune_adapters::Adapter;
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

    /// Its weight for a trained module.
    fn weight(self, module: &ModuleSettings) -> f64 {
        match self {
            Self::Representation(_) => module.representation_weight,
            Self::Token(_) => module.token_weight,
        }
    }

    /// The loss of a batch, not weighted.
    pub(super) fn loss(self, of: &Outputs) -> Result<Tensor> {
        match self {
            Self::Token(label) => Ok(token_loss(&of.logits, &of.labels, label)?),
            Self::Representation(kind) => {
                let losses = of.rows.iter();
                let losses = losses.map(|(d, h)| Ok(representation_loss(h, d, kind, of.m)?));
                Ok((sum(losses)? / of.rows.len() as f64)?)
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
        let (representation, label) = mode.losses();
        let representation = representation.map(Term::Representation).into_iter();
        Self(representation.chain([Term::Token(label)]).collect())
    }

    /// The terms, in the order in which they are summed.
    pub fn terms(&self) -> &[Term] {
        &self.0
    }

    /// Whether a term reads residual rows.
    pub fn reads_rows(&self) -> bool {
        let reads = |term: &Term| matches!(term, Term::Representation(_));
        self.0.iter().any(reads)
    }

    /// Weights of the terms for a trained module; a term that is alone has weight 1.
    pub(super) fn weights(&self, module: &ModuleSettings) -> Vec<f64> {
        match self.0.as_slice() {
            [_] => vec![1.],
            terms => terms.iter().map(|term| term.weight(module)).collect(),
        }
    }
}

impl Mode {
    /// The representation loss, if the mode has one, and the label of its token loss.
    pub fn losses(self) -> (Option<Representation>, Label) {
        use Representation::{In, InNegative, Out};
        match self {
            Self::Truth => (None, Label::Right),
            Self::Lie => (None, Label::Wrong),
            Self::InPlus => (Some(In), Label::Soft),
            Self::InMinus => (Some(InNegative), Label::Soft),
            Self::InPlusTruth => (Some(In), Label::Right),
            Self::InMinusLie => (Some(InNegative), Label::Wrong),
            Self::Out => (Some(Out), Label::Right),
        }
    }
}

/// Settings of each variable of `update`, in the order of [`Adapter::trainable`].
pub(super) fn module_settings(tuning: &Tuning, update: &Adapter) -> Vec<ModuleSettings> {
    let modules = update.modules.iter().flat_map(|(module, delta)| {
        let settings = tuning.module(module.layer, module.kind);
        delta.factors().into_iter().map(move |_| settings)
    });
    modules.collect()
}

/// One loss for each term of the objective, in its order; none weighted.
pub(super) struct Losses(pub Vec<Tensor>);

impl Losses {
    /// `sum_t weights[t] * loss[t]`
    pub(super) fn total(&self, weights: &[f64]) -> Result<Tensor> {
        let terms = self.0.iter().zip(weights);
        sum(terms.map(|(loss, weight)| Ok((loss * *weight)?)))
    }

    /// The losses as numbers.
    pub(super) fn numbers(&self) -> Result<Vec<f64>> {
        let number = |loss: &Tensor| Ok(f64::from(loss.to_scalar::<f32>()?));
        self.0.iter().map(number).collect()
    }
}

/// The sum of tensors, of which there is at least one.
fn sum(mut terms: impl Iterator<Item = Result<Tensor>>) -> Result<Tensor> {
    let first = terms.next().unwrap_or_else(|| {
        let hint = "name a mode and layers to tune";
        Err(Error::value("loss", "at least one term", "none", hint))
    });
    terms.try_fold(first?, |sum, term| Ok((sum + term?)?))
}
