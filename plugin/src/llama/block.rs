//! One decoder block over a table of rows.

use super::weight::Weight;
use candle_core::Tensor;
use reptune_adapters::forest::Ancestry;
use reptune_adapters::low_rank::Projection;
use reptune_adapters::ops::{Rotation, attention, rms_norm, rotary, swiglu};
use reptune_adapters::{Cache, LowRankUpdate, Result};
use std::sync::Arc;

/// `x + o(attention(q, k, v of norm(x)))`, then `x + down(swiglu(gate, up of norm(x)))`.
pub(super) struct Block {
    pub layer: usize,
    pub head_dim: usize,
    pub eps: f64,
    pub input_norm: Tensor,
    pub post_attention_norm: Tensor,
    /// In the order of [`Projection::ALL`].
    pub weights: [Weight; 7],
}

impl Block {
    /// Shapes: `x` (N, H), result (N, H).
    pub(super) fn forward(
        &self,
        x: &Tensor,
        rotation: &Rotation,
        ancestry: &Arc<Ancestry>,
        cache: &mut Cache,
        low_rank: Option<&LowRankUpdate>,
    ) -> Result<Tensor> {
        let linear = |p: Projection, x: &Tensor| -> Result<Tensor> {
            let y = self.weights[p as usize].forward(x)?;
            match low_rank.and_then(|l| l.at(self.layer, p)) {
                Some(update) => Ok((y + update.forward(x)?)?),
                None => Ok(y),
            }
        };
        let h = rms_norm(x, &self.input_norm, self.eps)?;
        let q = rotary(&linear(Projection::QProj, &h)?, rotation)?;
        let k = rotary(&linear(Projection::KProj, &h)?, rotation)?;
        let v = linear(Projection::VProj, &h)?;
        let (k, v) = cache.append(self.layer, k, v)?;
        let y = attention(&q, &k, &v, ancestry, self.head_dim)?;
        let x = (x + linear(Projection::OProj, &y)?)?;
        let h = rms_norm(&x, &self.post_attention_norm, self.eps)?;
        let y = swiglu(
            &linear(Projection::GateProj, &h)?,
            &linear(Projection::UpProj, &h)?,
        )?;
        Ok((&x + linear(Projection::DownProj, &y)?)?)
    }
}
