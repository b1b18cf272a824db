//! Gates: conditions under which an intervention acts (conditional steering, as in
//! Lee et al., arXiv 2409.05907).
//!
//! A gate compares a token's projection on a direction with a threshold. It decides, without
//! state in the runtime,
//!
//! - *every token*: each token is compared right before it is changed. A token at which the
//!   gate is closed keeps its bits.
//! - *once per prompt*: the last prompt token of the UNSTEERED model is compared at one
//!   layer before anything is steered. The decision goes into the token masks
//!   (`token_mask_gated`), so generation with a key/value cache needs no memory of it,
//!   gates do not depend on each other's order, and the layer read may lie above the
//!   steered ones. It costs one forward of the prompts up to that layer.
//!
//! The paper differs: it compares a cosine with a projected state in the steered forward.

use crate::error::{Error, Result};
use crate::steering::direction::DirectionSet;
use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// When a gate decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Decide {
    /// At the last prompt token of the unsteered model, at the output of `layer`. The
    /// decision holds from that token on; earlier tokens are not changed.
    OncePerPrompt {
        /// Layer whose output is read.
        layer: usize,
    },
    /// At every token for itself, wherever the intervention acts, after the interventions
    /// earlier in the list.
    EveryToken,
}

/// On which side of the threshold a gate is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// `h . g > threshold`
    #[default]
    Above,
    /// `h . g < threshold`
    Below,
}

/// A condition on a token's row h: its projection on the unit direction g of a layer is on
/// one side of a threshold.
#[derive(Debug, Clone)]
pub struct Gate {
    directions: BTreeMap<usize, Tensor>,
    decide: Decide,
    side: Side,
    threshold: f64,
}

impl Gate {
    /// A gate on the directions of `set`.
    ///
    /// # Errors
    /// When the threshold is NaN, or the set lacks the layer that is read.
    pub fn new(set: &DirectionSet, decide: Decide, side: Side, threshold: f64) -> Result<Self> {
        if threshold.is_nan() {
            let hint = "give the projection at which the gate opens";
            return Err(Error::value("gate threshold", "a number", "NaN", hint));
        }
        if let Decide::OncePerPrompt { layer } = decide {
            set.layer(layer)?;
        }
        let tensor = |unit: &[f32]| Tensor::new(unit, &Device::Cpu);
        let directions = set.layers.iter().map(|(l, d)| Ok((*l, tensor(&d.unit)?)));
        Ok(Self {
            directions: directions.collect::<Result<_>>()?,
            decide,
            side,
            threshold,
        })
    }

    /// When it decides.
    pub fn decide(&self) -> Decide {
        self.decide
    }

    /// The unit direction (H,) it reads at `layer`.
    ///
    /// # Errors
    /// When it has none.
    pub fn direction(&self, layer: usize) -> Result<&Tensor> {
        self.directions.get(&layer).ok_or_else(|| {
            let expected = format!("a gate direction for layer {layer}, which is steered");
            let found = format!("layers {:?}", self.directions.keys().collect::<Vec<_>>());
            let hint = "use a direction set with that layer, or decide once per prompt";
            Error::value("gate", expected, found, hint)
        })
    }

    /// Whether the gate is open for this projection.
    pub fn opens(&self, projection: f64) -> bool {
        match self.side {
            Side::Above => projection > self.threshold,
            Side::Below => projection < self.threshold,
        }
    }

    /// Those of `rows` for which the gate is open at `layer`, in order; without gradient.
    ///
    /// Shapes: `h` (N, H).
    ///
    /// # Errors
    /// When the gate has no direction for the layer, or its width differs.
    pub fn rows(&self, h: &Tensor, layer: usize, rows: &[u32]) -> Result<Vec<u32>> {
        let g = self.direction(layer)?;
        check_width(format!("gate direction at layer {layer}"), g, h)?;
        let g = g.to_device(h.device())?.unsqueeze(1)?;
        let index = Tensor::new(rows, h.device())?;
        let picked = h.detach().index_select(&index, 0)?.to_dtype(DType::F32)?;
        let along: Vec<f32> = picked.matmul(&g)?.squeeze(1)?.to_vec1()?; // (rows,)
        let open = rows.iter().zip(along);
        let open = open.filter(|(_, along)| self.opens(f64::from(*along)));
        Ok(open.map(|(row, _)| *row).collect())
    }
}

/// Refuses a direction that is not as wide as the rows of `h`.
pub(super) fn check_width(what: String, direction: &Tensor, h: &Tensor) -> Result<()> {
    let (width, found) = (h.dims2()?.1, direction.elem_count());
    if found == width {
        return Ok(());
    }
    let expected = format!("width {width} of the residual stream");
    let hint = "use directions of this model";
    Err(Error::value(what, expected, found.to_string(), hint))
}
