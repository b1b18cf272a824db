//! One decoder block over a table of rows.

use super::rows::Read;
use super::weight::Weight;
use candle_core::Tensor;
use reptune_adapters::model::Ancestors;
use reptune_adapters::model::ModuleKind;
use reptune_adapters::ops::{
    Factors, FrozenAttention, FrozenMlp, Rotation, attention, attention_half, lora_linear,
    mlp_half, rms_norm, rotary, swiglu,
};
use reptune_adapters::{Adapter, GradientCheckpointing, KeyValueCache, Result};
use std::sync::Arc;

/// Hears the input of every linear layer.
pub(super) type Listener<'a> = &'a dyn Fn(ModuleKind, &Tensor) -> Result<()>;

/// Changes the rows between attention and MLP.
pub(super) type Middle<'a> = &'a dyn Fn(&Tensor) -> Result<Tensor>;

/// What a block needs beside the rows themselves.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub rotation: &'a Rotation,
    pub ancestry: &'a Arc<Ancestors>,
    pub adapter: Option<&'a Adapter>,
    pub listener: Option<Listener<'a>>,
    pub middle: Option<Middle<'a>>,
    /// Rows that the result holds; none: all.
    pub read: Option<&'a Read>,
    pub activations: GradientCheckpointing,
}

/// `x + o(attention(q, k, v of norm(x)))`, then `x + down(swiglu(gate, up of norm(x)))`.
pub(super) struct Block {
    layer: usize,
    head_dim: usize,
    eps: f64,
    /// Weights of the norms before attention and before the MLP.
    norms: [Tensor; 2],
    /// In the order of [`ModuleKind::ALL`].
    weights: [Weight; 7],
    /// The same as halves that are one op; none where a weight itself is trained.
    halves: Option<(Arc<FrozenAttention>, Arc<FrozenMlp>)>,
}

const ATTENTION: [ModuleKind; 4] = [
    ModuleKind::QProj,
    ModuleKind::KProj,
    ModuleKind::VProj,
    ModuleKind::OProj,
];

const MLP: [ModuleKind; 3] = [
    ModuleKind::GateProj,
    ModuleKind::UpProj,
    ModuleKind::DownProj,
];

impl Block {
    pub(super) fn new(
        layer: usize,
        head_dim: usize,
        eps: f64,
        norms: [Tensor; 2],
        weights: [Weight; 7],
    ) -> Self {
        let halves = || {
            let of = |p: ModuleKind| weights[p as usize].as_frozen().cloned();
            let attention = FrozenAttention {
                norm: norms[0].clone(),
                eps,
                head_dim,
                q: of(ModuleKind::QProj)?,
                k: of(ModuleKind::KProj)?,
                v: of(ModuleKind::VProj)?,
                o: of(ModuleKind::OProj)?,
            };
            let mlp = FrozenMlp {
                norm: norms[1].clone(),
                eps,
                gate: of(ModuleKind::GateProj)?,
                up: of(ModuleKind::UpProj)?,
                down: of(ModuleKind::DownProj)?,
            };
            Some((Arc::new(attention), Arc::new(mlp)))
        };
        Self {
            halves: halves(),
            layer,
            head_dim,
            eps,
            norms,
            weights,
        }
    }

    /// Keys and values are computed of all rows, the rest of those that are read.
    ///
    /// Shapes: `x` (N, H), result (R, H) with R the rows that are read.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        cache: &mut KeyValueCache,
        c: Context,
    ) -> Result<Tensor> {
        let mut x = self.attention(x, cache, &c)?;
        if let Some(change) = c.middle {
            x = change(&x)?;
        }
        self.mlp(&x, &c)
    }

    fn attention(&self, x: &Tensor, cache: &mut KeyValueCache, c: &Context) -> Result<Tensor> {
        if let (Some((attention, _)), None) = (&self.halves, c.read)
            && !cache.keeps()
            && let Some(updates) = self.updates(c, ATTENTION)
        {
            let rows = (c.rotation, c.ancestry);
            return Ok(attention_half(x, attention, updates, rows, c.activations)?);
        }
        let h = rms_norm(x, &self.norms[0], self.eps)?;
        let k = rotary(&self.linear(ModuleKind::KProj, &h, c)?, c.rotation)?;
        let v = self.linear(ModuleKind::VProj, &h, c)?;
        let (k, v) = cache.append(self.layer, k, v)?;
        let (x, h, rotation, ancestry) = match c.read {
            None => (x.clone(), h, c.rotation, c.ancestry),
            Some(read) => {
                let pick = |t: &Tensor| t.index_select(&read.index, 0);
                (pick(x)?, pick(&h)?, &read.rotation, &read.ancestry)
            }
        };
        let q = rotary(&self.linear(ModuleKind::QProj, &h, c)?, rotation)?;
        let y = attention(&q, &k, &v, ancestry, self.head_dim)?;
        Ok((x + self.linear(ModuleKind::OProj, &y, c)?)?)
    }

    fn mlp(&self, x: &Tensor, c: &Context) -> Result<Tensor> {
        if let Some((_, mlp)) = &self.halves
            && let Some(updates) = self.updates(c, MLP)
        {
            return Ok(mlp_half(x, mlp, updates, c.activations)?);
        }
        let h = rms_norm(x, &self.norms[1], self.eps)?;
        let y = swiglu(
            &self.linear(ModuleKind::GateProj, &h, c)?,
            &self.linear(ModuleKind::UpProj, &h, c)?,
        )?;
        Ok((x + self.linear(ModuleKind::DownProj, &y, c)?)?)
    }

    /// The low-rank updates of these layers; none where a full delta is among them, or where
    /// somebody listens to what they read.
    fn updates<'a, const N: usize>(
        &self,
        c: &Context<'a>,
        layers: [ModuleKind; N],
    ) -> Option<[Option<Factors<'a>>; N]> {
        let updates = layers.map(|p| c.adapter.and_then(|l| l.at(self.layer, p)));
        let low = updates.iter().flatten().all(|u| u.full.is_none());
        (low && c.listener.is_none()).then(|| updates.map(|u| u.map(|u| (&u.a, &u.b, u.scale))))
    }

    fn linear(&self, p: ModuleKind, x: &Tensor, c: &Context) -> Result<Tensor> {
        if let Some(hear) = c.listener {
            hear(p, x)?;
        }
        let weight = &self.weights[p as usize];
        let update = c.adapter.and_then(|l| l.at(self.layer, p));
        match (update, weight.as_frozen()) {
            (None, _) => Ok(weight.forward(x)?),
            (Some(u), Some(matrix)) if u.full.is_none() => {
                Ok(lora_linear(x, matrix, (&u.a, &u.b), u.scale)?)
            }
            (Some(u), _) => Ok((weight.forward(x)? + u.forward(x)?)?),
        }
    }
}
