//! A model run block by block over prompts, for work that holds one block at a time.

use super::block::{Block, Context, Listener, Weight};
use super::load::linear;
use super::rotation::RotationTable;
use super::rows::Seen;
use crate::error::Result;
use crate::model::uqff::Entry;
use crate::model::{EMBEDDINGS, Source};
use candle_core::{DType, Device, Tensor};
use reptune_adapters::model::ModuleKind;
use reptune_adapters::ops::{Rotation, rms_norm};
use reptune_adapters::rounding::LayerInputs;
use reptune_adapters::{GradientCheckpointing, KeyValueCache, PrefixTree};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// The residual rows (N, H) of some prompts at the input of the next block.
pub struct Stream<'a> {
    source: &'a Source,
    x: Tensor,
    rotation: Rotation,
    seen: Seen,
}

impl<'a> Stream<'a> {
    /// The rows of `prompts` at the input of block 0.
    pub fn start(source: &'a Source, prompts: &[Vec<u32>]) -> Result<Self> {
        let (batch, _) = PrefixTree::pack(prompts);
        let ids = Tensor::new(batch.ids(), &Device::Cpu)?;
        let rotation = RotationTable::new(&source.config)?;
        Ok(Self {
            x: source.other(EMBEDDINGS)?.index_select(&ids, 0)?,
            rotation: rotation.rows(batch.positions())?,
            seen: Seen::new(
                batch.ancestors(0..batch.len()),
                source.config.sliding_window.as_ref().map(|w| w.tokens),
            ),
            source,
        })
    }

    /// The inputs of every linear layer of the next block, `layer`, whose weights (O, I) and
    /// biases (O,) are `weights` in the order of [`ModuleKind::ALL`]. Layers that read the same rows
    /// share an entry: that of q also serves k and v, that of gate also up.
    pub fn inputs(
        &self,
        layer: usize,
        weights: impl Iterator<Item = (Tensor, Option<Tensor>)>,
    ) -> Result<BTreeMap<ModuleKind, LayerInputs>> {
        let inputs = RefCell::new(BTreeMap::new());
        let listen = |p: ModuleKind, x: &Tensor| {
            if shared_input(p) == p {
                inputs.borrow_mut().insert(p, LayerInputs::of(x)?);
            }
            Ok(())
        };
        let weights = weights.map(|(weight, bias)| Weight::Trained(weight, bias));
        self.run(layer, weights.collect(), Some(&listen))?;
        Ok(inputs.into_inner())
    }

    /// Runs the next block, `layer`, with the weights `entries`, in the order of
    /// [`ModuleKind::ALL`].
    pub fn advance(&mut self, layer: usize, entries: &[Entry]) -> Result<()> {
        let all = entries.iter().zip(ModuleKind::ALL);
        let weights = all.map(|(e, kind)| linear(e, Some(kind), DType::F32, &Device::Cpu));
        self.x = self.run(layer, weights.collect::<Result<_>>()?, None)?;
        Ok(())
    }

    /// The inputs of the output head, after the last block.
    pub fn head_inputs(&self) -> Result<LayerInputs> {
        let norm = self.source.other("model.norm.weight")?;
        let eps = self.source.config.rms_norm_eps;
        Ok(LayerInputs::of(&rms_norm(&self.x, &norm, eps)?)?)
    }

    fn run(
        &self,
        layer: usize,
        weights: Vec<Weight>,
        listener: Option<Listener>,
    ) -> Result<Tensor> {
        let Ok(weights) = weights.try_into() else {
            unreachable!("one weight for each of the seven target modules")
        };
        let source = self.source;
        let block = Block::new(&source.config, layer, weights, |name| source.other(name))?;
        let context = Context {
            rotation: &self.rotation,
            seen: &self.seen,
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
