//! Data of the pictures by which a direction is judged (arXiv 2409.06927): plain
//! numbers, drawn elsewhere.

use crate::chat::Chat;
use crate::error::Result;
use crate::extract::{CapturedPairs, Contrast, Extracted, pca};
use candle_core::Tensor;
use reptune_adapters::{Direction, Error, HookedModel};
use serde::{Deserialize, Serialize};

/// Mean cosines of rows with the direction of their own position and layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cosines {
    /// The position.
    pub rows: String,
    /// The layer (output of block i, 0-based).
    pub layer: usize,
    /// Of positive rows.
    pub positive: f64,
    /// Of negative rows.
    pub negative: f64,
    /// `positive - negative`: the heat of the map over layers and positions.
    pub difference: f64,
}

impl Cosines {
    /// The map over all positions, and of each all layers.
    ///
    /// # Errors
    /// When `found` lacks a layer of `captured`, or has more positions.
    pub fn map(captured: &CapturedPairs, found: &[Extracted]) -> Result<Vec<Self>> {
        let mut map = Vec::new();
        for (place, extracted) in found.iter().enumerate() {
            for layer in 0..captured.layers() {
                let direction = extracted.directions.layer(layer)?;
                let contrast = captured.contrast(place, layer)?;
                let (positive, negative) = contrast.cosines(direction);
                map.push(Self {
                    rows: captured.positions()[place].to_string(),
                    layer,
                    positive,
                    negative,
                    difference: positive - negative,
                });
            }
        }
        Ok(map)
    }
}

/// Rows on their first two principal components, about their common mean.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ComponentScatter {
    /// Share of the variance along each component.
    pub explained: [f64; 2],
    /// Positive rows.
    pub positive: Vec<[f64; 2]>,
    /// Negative rows.
    pub negative: Vec<[f64; 2]>,
}

impl ComponentScatter {
    /// The scatter of raw rows. The largest entry of a component is positive, so that
    /// a picture is never mirrored by chance; a component that does not exist is zero.
    ///
    /// # Errors
    /// When the decomposition does not settle.
    pub fn of(contrast: &Contrast) -> Result<Self> {
        let (rows, _) = pca::centred(contrast);
        let square = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>();
        let total = rows.iter().map(|r| square(r)).sum::<f64>() / rows.len() as f64;
        let mut components = pca::components(&rows, 2)?;
        components.resize(2, vec![0.; contrast.hidden()]);
        let mut explained = [0.; 2];
        for (component, explained) in components.iter_mut().zip(&mut explained) {
            let variance = square(component);
            if variance == 0. {
                continue;
            }
            *explained = variance / total;
            let largest = component
                .iter()
                .copied()
                .fold(0f64, |a, x| match x.abs() > a.abs() {
                    true => x,
                    false => a,
                });
            let scale = largest.signum() / variance.sqrt();
            component.iter_mut().for_each(|x| *x *= scale);
        }
        let along = |row: &Vec<f64>| {
            [0, 1].map(|k| row.iter().zip(&components[k]).map(|(x, y)| x * y).sum())
        };
        let (positive, negative) = rows.split_at(contrast.pairs());
        Ok(Self {
            explained,
            positive: positive.iter().map(along).collect(),
            negative: negative.iter().map(along).collect(),
        })
    }
}

/// A token with its logit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// The token.
    pub token: u32,
    /// Its text.
    pub text: String,
    /// Its logit.
    pub logit: f32,
}

/// The logit lens of a direction: what it says when it is read as the last residual row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogitLens {
    /// Tokens of the highest logits of the direction.
    pub positive: Vec<Scored>,
    /// Tokens of the highest logits of its opposite.
    pub negative: Vec<Scored>,
}

impl LogitLens {
    /// The `top` tokens of a direction and of its opposite, after the final norm and
    /// the unembedding. Of equal logits the lower token comes first.
    ///
    /// # Errors
    /// When the runtime does not offer its unembedding, or the width differs.
    pub fn of(
        host: &dyn HookedModel,
        chat: &Chat,
        direction: &Direction,
        top: usize,
    ) -> Result<Self> {
        let hidden = direction.unit.len();
        if hidden != host.spec().hidden {
            return Err(Error::value(
                "direction",
                format!("width {} of {}", host.spec().hidden, host.spec().name),
                hidden.to_string(),
                "use directions of this model",
            )
            .into());
        }
        let opposite = direction.unit.iter().map(|x| -x);
        let rows: Vec<f32> = direction.unit.iter().copied().chain(opposite).collect();
        let rows = Tensor::from_vec(rows, (2, hidden), host.device())?;
        let logits: Vec<Vec<f32>> = host.unembed(&rows)?.to_vec2()?;
        let best = |logits: &[f32]| -> Result<Vec<Scored>> {
            let mut order: Vec<usize> = (0..logits.len()).collect();
            order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
            let scored = order.into_iter().take(top).map(|token| {
                Ok(Scored {
                    token: token as u32,
                    text: chat.decode(&[token as u32])?,
                    logit: logits[token],
                })
            });
            scored.collect()
        };
        Ok(Self {
            positive: best(&logits[0])?,
            negative: best(&logits[1])?,
        })
    }
}

#[cfg(test)]
mod tests;
