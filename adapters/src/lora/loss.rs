//! The dual loss of Representation Tuning (C. Ackerman, arXiv 2409.06927).

use crate::error::Result;
use crate::ops::{Target, target_loss};
use candle_core::{D, Tensor};

/// What the representation loss asks of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Representation {
    /// `m (1 - cos(h, d)) / 2`.
    In,
    /// `m (1 + cos(h, d)) / 2`: [`Representation::In`] with -d.
    InNegative,
    /// `|cos(h, d)|`.
    Out,
}

/// Which answer token the token loss asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Label {
    /// The right one.
    Right,
    /// The wrong one.
    Wrong,
    /// Half on each.
    Soft,
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
    Ok(match kind {
        Representation::In => ((1. - cos)?.mean_all()? * (m / 2.))?,
        Representation::InNegative => ((1. + cos)?.mean_all()? * (m / 2.))?,
        Representation::Out => cos.abs()?.mean_all()?,
    })
}

/// One labelled prompt: its row of the logits and its two answer tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LabelRow {
    /// Row of the logits.
    pub row: u32,
    /// The right answer token.
    pub right: u32,
    /// The wrong answer token.
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
