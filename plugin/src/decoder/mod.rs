//! The hooked Llama: a forward over a forest whose residual stream can be read,
//! changed and differentiated, on mistral.rs's own weights and layers.
//!
//! mistral.rs loads the weights (its var builder and parallel layers), multiplies
//! with them (its [`QuantMethod`](mistralrs_quant::QuantMethod)s, so every
//! quantization it knows) and gives the rotary angles. Norm, rotation, attention
//! and activation are this project's ops, which have a backward.

mod block;

mod load;
mod options;
mod reading;
mod rotation;
mod rows;
mod stream;
mod weight;

pub use options::{LoadOptions, parse_device, parse_dtype, parse_isq};
pub use stream::{Layer, Stream, shared_input};

use block::{Block, Context};
use candle_core::{DType, Device, Tensor};
use reptune_adapters::model::prefix_tree::TokenMask;
use reptune_adapters::ops::{in_pool, rms_norm};
use reptune_adapters::{
    Error, ForwardOptions, ForwardOutput, HookPoint, HookedModel, Intervention, KeyValueCache,
    ModelSpec, PrefixTree, Result, Resume,
};
use rotation::RotationTable;
use rows::Rows;
use std::collections::BTreeMap;
use std::sync::Arc;
use weight::Weight;

/// A Llama with an open residual stream.
pub struct Llama {
    spec: ModelSpec,
    device: Device,
    embeddings: Tensor,
    blocks: Vec<Block>,
    norm: Tensor,
    norm_eps: f64,
    head: Weight,
    rotation: RotationTable,
}

impl Llama {
    fn check(
        &self,
        forest: &PrefixTree,
        cache: &KeyValueCache,
        request: &ForwardOptions,
    ) -> Result<()> {
        let computed = cache.rows();
        self.spec.check_layers(request.capture)?;
        if let Some(start) = request.start {
            self.check_start(start, forest.len() - computed, cache, request)?;
        }
        for intervention in request.interventions {
            self.spec
                .check_layers(&intervention.layers().collect::<Vec<_>>())?;
        }
        if request.interventions.len() > TokenMask::BITS as usize {
            return Err(Error::value(
                "interventions",
                format!("at most {}", TokenMask::BITS),
                request.interventions.len().to_string(),
                "add up directions that act on the same rows",
            ));
        }
        let longest = forest
            .positions()
            .iter()
            .max()
            .map_or(0, |p| *p as usize + 1);
        if longest > self.spec.context {
            return Err(Error::value(
                "prompt",
                format!(
                    "at most {} tokens, the context of {}",
                    self.spec.context, self.spec.name
                ),
                format!("{longest} tokens"),
                "shorten the prompt or generate fewer tokens",
            ));
        }
        let new = &forest.ids()[computed..];
        if let Some(id) = new.iter().find(|id| **id as usize >= self.spec.vocab) {
            return Err(Error::value(
                "token id",
                format!(
                    "below {}, the vocabulary of {}",
                    self.spec.vocab, self.spec.name
                ),
                id.to_string(),
                "tokenizer and model belong to different models",
            ));
        }
        let rows = computed..forest.len();
        for (what, asked) in [
            ("rows of the logits", request.logits),
            (
                "captured rows",
                request.captured.listed().unwrap_or_default(),
            ),
        ] {
            if let Some(row) = asked.iter().find(|r| !rows.contains(&(**r as usize))) {
                return Err(Error::value(
                    what,
                    format!("new rows, {} to {}", rows.start, rows.end.saturating_sub(1)),
                    row.to_string(),
                    "rows that a cache holds are not computed again",
                ));
            }
        }
        Ok(())
    }
}

impl Llama {
    /// A forward that begins above a block can neither change nor hand out what lies
    /// below, nor fill a cache there.
    fn check_start(
        &self,
        start: Resume,
        new: usize,
        cache: &KeyValueCache,
        request: &ForwardOptions,
    ) -> Result<()> {
        self.spec.check_layers(&[start.layer])?;
        let wrong = |expected: String, found: String| {
            let hint = "begin lower, or at the embeddings";
            Err(Error::value("start of the forward", expected, found, hint))
        };
        let shape = [new, self.spec.hidden];
        if start.rows.dims() != shape {
            let found = format!("{:?}", start.rows.dims());
            return wrong(format!("the new rows, {shape:?}"), found);
        }
        let below = start.layer + 1;
        if cache.keeps() && cache.filled(below) != Some(new) {
            let expected = format!(
                "a cache that holds {new} rows of blocks 0 to {}",
                start.layer
            );
            return wrong(expected, format!("{:?}", cache.filled(below)));
        }
        let captured = request.capture.iter().copied().map(Some);
        let changed = request.interventions.iter().map(Intervention::lowest);
        match captured
            .chain(changed)
            .find(|l| l.is_none_or(|l| l < start.layer))
        {
            None => Ok(()),
            Some(lowest) => {
                let expected = lowest.map_or("the embeddings".into(), |l| format!("layer {l}"));
                wrong(
                    format!("{expected} or below"),
                    format!("layer {}", start.layer),
                )
            }
        }
    }
}

impl HookedModel for Llama {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn device(&self) -> &Device {
        &self.device
    }

    fn forward(
        &self,
        forest: &PrefixTree,
        cache: &mut KeyValueCache,
        request: &ForwardOptions,
    ) -> Result<ForwardOutput> {
        self.check(forest, cache, request)?;
        in_pool(|| self.run(forest, cache, request))
    }

    fn unembed(&self, rows: &Tensor) -> Result<Tensor> {
        let rows = rows.to_dtype(self.norm.dtype())?;
        let x = rms_norm(&rows, &self.norm, self.norm_eps)?;
        Ok(self.head.forward(&x)?.to_dtype(DType::F32)?)
    }
}

impl Llama {
    fn run(
        &self,
        forest: &PrefixTree,
        cache: &mut KeyValueCache,
        request: &ForwardOptions,
    ) -> Result<ForwardOutput> {
        let new = cache.rows()..forest.len();
        let mut rows = Rows::all(forest, new.clone(), request.interventions.len());
        let rotation = self.rotation.rows(&forest.positions()[new.clone()])?;
        let context = Context {
            rotation: &rotation,
            ancestry: &Arc::new(forest.ancestry(new.clone())),
            adapter: request.adapter,
            listener: None,
            middle: None,
            read: None,
            activations: request.activations,
        };
        let mut residuals = BTreeMap::new();
        let mut leave = |x: Tensor, layer: usize, rows: &Rows| -> Result<Tensor> {
            let x = rows.change(request.interventions, &x, HookPoint::ResidPost, layer)?;
            if request.capture.contains(&layer) {
                let picked = match request.captured.listed() {
                    None => x.clone(),
                    Some(tokens) => rows.pick(&x, tokens)?,
                };
                residuals.insert(layer, picked.to_dtype(DType::F32)?);
            }
            Ok(x)
        };
        let ids = &forest.ids()[new.clone()];
        let mut x = match request.start {
            Some(start) => {
                let known = start.rows.to_device(&self.device)?;
                leave(known.to_dtype(self.embeddings.dtype())?, start.layer, &rows)?
            }
            None => self
                .embeddings
                .index_select(&Tensor::new(ids, &self.device)?, 0)?,
        }; // (N, H)
        let first = request.start.map_or(0, |s| s.layer + 1);
        let end = match request.logits {
            [] => {
                let captured = request.capture.iter().max().map_or(0, |l| l + 1);
                captured.max(cache.layers())
            }
            _ => self.blocks.len(),
        };
        for layer in first..end {
            x = rows.change(request.interventions, &x, HookPoint::ResidPre, layer)?;
            // Nothing above the last block looks at a row that is not asked for.
            let read = (layer + 1 == end)
                .then(|| read_last(request, layer))
                .flatten()
                .filter(|read| read.len() < new.len())
                .map(|read| rows.only(forest, &read, &rotation, &self.device))
                .transpose()?;
            let after = read.as_ref().map_or(&rows, |(after, _)| after);
            let middle =
                |x: &Tensor| after.change(request.interventions, x, HookPoint::ResidMid, layer);
            let context = Context {
                middle: Some(&middle),
                read: read.as_ref().map(|(_, read)| read),
                ..context
            };
            x = self.blocks[layer].forward(&x, cache, context)?;
            if let Some((after, _)) = read {
                rows = after;
            }
            x = leave(x, layer, &rows)?;
        }
        cache.advance(new.end);
        let logits = match request.logits {
            [] => None,
            wanted => Some(self.unembed(&rows.pick(&x, wanted)?)?),
        };
        Ok(ForwardOutput { residuals, logits })
    }
}

/// The rows of the last block's output that are read: those whose logits are asked for,
/// and those that are captured there; none where that is all of them.
fn read_last(request: &ForwardOptions, layer: usize) -> Option<Vec<u32>> {
    let captured = match request.capture.contains(&layer) {
        true => request.captured.listed()?,
        false => &[],
    };
    let mut read = [request.logits, captured].concat();
    read.sort_unstable();
    read.dedup();
    (!read.is_empty()).then_some(read)
}
