//! One decoder block over a table of rows.

use super::weight::Weight;
use candle_core::Tensor;
use reptune_adapters::forest::Ancestry;
use reptune_adapters::low_rank::Projection;
use reptune_adapters::ops::{Rotation, attention, rms_norm, rotary, swiglu};
use reptune_adapters::{Cache, LowRankUpdate, Result};
use std::sync::Arc;

/// Hears the input of every linear layer.
pub(super) type Listener<'a> = &'a dyn Fn(Projection, &Tensor) -> Result<()>;

/// Changes the rows between attention and MLP.
pub(super) type Middle<'a> = &'a dyn Fn(&Tensor) -> Result<Tensor>;

/// What a block needs beside the rows themselves.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub rotation: &'a Rotation,
    pub ancestry: &'a Arc<Ancestry>,
    pub low_rank: Option<&'a LowRankUpdate>,
    pub listener: Option<Listener<'a>>,
    pub middle: Option<Middle<'a>>,
}

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
    pub(super) fn forward(&self, x: &Tensor, cache: &mut Cache, c: Context) -> Result<Tensor> {
        let (rotation, ancestry, low_rank) = (c.rotation, c.ancestry, c.low_rank);
        let linear = |p: Projection, x: &Tensor| -> Result<Tensor> {
            if let Some(hear) = c.listener {
                hear(p, x)?;
            }
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
        let mut x = (x + linear(Projection::OProj, &y)?)?;
        if let Some(change) = c.middle {
            x = change(&x)?;
        }
        let h = rms_norm(&x, &self.post_attention_norm, self.eps)?;
        let y = swiglu(
            &linear(Projection::GateProj, &h)?,
            &linear(Projection::UpProj, &h)?,
        )?;
        Ok((&x + linear(Projection::DownProj, &y)?)?)
    }
}
