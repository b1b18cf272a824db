//! Operators: what an intervention does to one residual row.

use crate::error::{Error, Result};
use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Keeps the norms of [`Operator::AddNormPreserving`] and their gradients finite at a row of zeros.
const TINY: f64 = 1e-12;

/// What is done to a row h with the unit direction d.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operator {
    /// `h + coeff * d`
    #[default]
    Add,
    /// `h - (h . d) d`; takes no coefficient.
    Ablate,
    /// `y * |h| / |y|` with `y = h + coeff * d`: an addition that keeps
    /// the norm of the row, so that only where it points changes.
    #[serde(rename = "add-norm-preserving", alias = "turn")]
    AddNormPreserving,
    /// `h + (coeff - h . d) d`: the projection on d becomes coeff.
    Clamp,
}

impl Operator {
    /// All.
    pub const ALL: [Self; 4] = [
        Self::Add,
        Self::Ablate,
        Self::AddNormPreserving,
        Self::Clamp,
    ];

    /// As it is written in recipes and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Ablate => "ablate",
            Self::AddNormPreserving => "add-norm-preserving",
            Self::Clamp => "clamp",
        }
    }

    /// Whether it has a coefficient.
    pub fn takes_dose(self) -> bool {
        self != Self::Ablate
    }

    /// Whether what it does at several layers adds up, so that a total is divided over them. The
    /// projection that a clamp sets belongs to one layer.
    pub fn adds_up(self) -> bool {
        self != Self::Clamp
    }

    /// Whether it adds the same to every row: a multiple of the direction, at any length.
    pub fn is_constant(self) -> bool {
        self == Self::Add
    }

    /// Whether `coeff` leaves every row what it is.
    pub(crate) fn is_identity(self, coeff: f64) -> bool {
        matches!(self, Self::Add | Self::AddNormPreserving) && coeff == 0.
    }

    /// What is to be added to rows: `operator(h) - h`; differentiable in `h`.
    ///
    /// The operators that take norms or set projections compute in f32, because
    /// the square of a large activation is beyond f16.
    ///
    /// Shapes: `h` (M, H), `d` (H,), result (M, H).
    ///
    /// # Errors
    /// When the shapes differ.
    pub fn change(self, h: &Tensor, d: &Tensor, coeff: f64) -> Result<Tensor> {
        match self {
            Self::Add => Ok((d.to_dtype(h.dtype())? * coeff)?.broadcast_as(h.shape())?),
            Self::Ablate => {
                let d = d.to_dtype(h.dtype())?;
                let along = h.matmul(&d.unsqueeze(1)?)?; // (M, 1)
                Ok(along.matmul(&d.unsqueeze(0)?)?.neg()?)
            }
            Self::AddNormPreserving => {
                let (x, d) = (h.to_dtype(DType::F32)?, d.to_dtype(DType::F32)?);
                let y = x.broadcast_add(&(d * coeff)?)?;
                let squares = |x: &Tensor| x.sqr()?.sum_keepdim(1)? + TINY; // (M, 1)
                let ratio = (squares(&x)? / squares(&y)?)?.sqrt()?;
                Ok((y.broadcast_mul(&ratio)? - x)?.to_dtype(h.dtype())?)
            }
            Self::Clamp => {
                let (x, d) = (h.to_dtype(DType::F32)?, d.to_dtype(DType::F32)?);
                let along = x.matmul(&d.unsqueeze(1)?)?; // (M, 1)
                let missing = (along.neg()? + coeff)?;
                Ok(missing.matmul(&d.unsqueeze(0)?)?.to_dtype(h.dtype())?)
            }
        }
    }
}

impl FromStr for Operator {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        named("operator", &Self::ALL, text)
    }
}

/// The one of `all` that is written `text`.
pub(super) fn named<T: Copy + fmt::Display>(what: &str, all: &[T], text: &str) -> Result<T> {
    let found = all.iter().find(|one| one.to_string() == text);
    found.copied().ok_or_else(|| {
        let names: Vec<String> = all.iter().map(T::to_string).collect();
        let found = format!("`{text}`");
        Error::value(what, names.join(", "), found, "choose one of these")
    })
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
