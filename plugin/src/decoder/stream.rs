//! A model run block by block over prompts, for work that holds one block at a time.

use super::block::{Block, Context};
use super::load::linear;
use super::rotation::RotationTable;
use super::weight::Weight;
use crate::error::Result;
use crate::model::LlamaConfig;
use crate::model::uqff::Entry;
use candle_core::{Device, Tensor};
use reptune_adapters::model::Ancestors;
use reptune_adapters::model::ModuleKind;
use reptune_adapters::ops::{Rotation, rms_norm};
use reptune_adapters::rounding::LayerInputs;
use reptune_adapters::{GradientCheckpointing, KeyValueCache, PrefixTree};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The residual rows (N, H) of some prompts at the input of the next block.
pub struct Stream {
    x: Tensor,
    rotation: Rotation,
    ancestry: Arc<Ancestors>,
    head_dim: usize,
    eps: f64,
}

/// One block's weights.
pub struct Layer {
    /// 0-based.
    pub layer: usize,
    /// Weights (H,) of the norms before attention and before the MLP.
    pub norms: [Tensor; 2],
}

impl Stream {
    /// The rows of `prompts` at the input of block 0.
    ///
    /// Shapes: `embeddings` (V, H).
    ///
    /// # Errors
    /// When a token id is not in the vocabulary.
    pub fn start(config: &LlamaConfig, embeddings: &Tensor, prompts: &[Vec<u32>]) -> Result<Self> {
        let (batch, _) = PrefixTree::pack(prompts);
        let ids = Tensor::new(batch.ids(), &Device::Cpu)?;
        let rotation = RotationTable::new(config)?;
        Ok(Self {
            x: embeddings.index_select(&ids, 0)?,
            rotation: rotation.rows(batch.positions())?,
            ancestry: Arc::new(batch.ancestors(0..batch.len())),
            head_dim: config.head_dim(),
            eps: config.rms_norm_eps,
        })
    }

    /// The inputs of every linear layer of the next block, whose weights (O, I) are
    /// `weights` in the order of [`ModuleKind::ALL`]. Layers that read the same rows
    /// share an entry: that of q also serves k and v, that of gate also up.
    ///
    /// # Errors
    /// When a shape does not fit.
    pub fn inputs(
        &self,
        layer: &Layer,
        weights: &[Tensor],
    ) -> Result<BTreeMap<ModuleKind, LayerInputs>> {
        let weights = weights.iter().cloned().map(Weight::Trained).collect();
        let heard = RefCell::new(BTreeMap::new());
        let listen = |p: ModuleKind, x: &Tensor| {
            if shared_input(p) == p {
                heard.borrow_mut().insert(p, LayerInputs::of(x)?);
            }
            Ok(())
        };
        self.run(layer, weights, Some(&listen))?;
        Ok(heard.into_inner())
    }

    /// Goes through the next block as its `entries`, in the order of
    /// [`ModuleKind::ALL`], compute it.
    ///
    /// # Errors
    /// When mistral.rs refuses an entry.
    pub fn advance(&mut self, layer: &Layer, entries: &[Entry]) -> Result<()> {
        let all = entries.iter().zip(ModuleKind::ALL);
        let weights = all.map(|(entry, p)| linear(entry, p));
        self.x = self.run(layer, weights.collect::<Result<_>>()?, None)?;
        Ok(())
    }

    /// The inputs of the output head, after the last block; `norm` (H,) is that of the
    /// final norm.
    ///
    /// # Errors
    /// When the width differs.
    pub fn head_inputs(&self, norm: &Tensor) -> Result<LayerInputs> {
        Ok(LayerInputs::of(&rms_norm(&self.x, norm, self.eps)?)?)
    }

    fn run(
        &self,
        layer: &Layer,
        weights: Vec<Weight>,
        listener: Option<super::block::Listener>,
    ) -> Result<Tensor> {
        let Ok(weights) = weights.try_into() else {
            unreachable!("one weight for each of the seven target modules")
        };
        let norms = layer.norms.clone();
        let block = Block::new(layer.layer, self.head_dim, self.eps, norms, weights);
        let context = Context {
            rotation: &self.rotation,
            ancestry: &self.ancestry,
            adapter: None,
            listener,
            middle: None,
            read: None,
            activations: GradientCheckpointing::Off,
        };
        Ok(block.forward(&self.x, &mut KeyValueCache::none(), context)?)
    }
}

/// The first of the target modules with the same input as `p`.
pub fn shared_input(p: ModuleKind) -> ModuleKind {
    match p {
        ModuleKind::QProj | ModuleKind::KProj | ModuleKind::VProj => ModuleKind::QProj,
        ModuleKind::GateProj | ModuleKind::UpProj => ModuleKind::GateProj,
        ModuleKind::OProj | ModuleKind::DownProj => p,
    }
}
