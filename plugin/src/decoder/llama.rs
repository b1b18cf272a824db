//! The hooked model and its forward: which residual rows are computed, changed and returned.

use super::block::{Block, Context, Weight};
use super::rotation::RotationTable;
use super::rows::{Rows, Seen};
use candle_core::{DType, Device, Tensor};
use reptune_adapters::model::prefix_tree::TokenMask;
use reptune_adapters::ops::{in_pool, rms_norm};
use reptune_adapters::{
    Error, ForwardOptions, ForwardOutput, HookPoint, HookedModel, Intervention, KeyValueCache,
    ModelSpec, PrefixTree, Result, Resume,
};
use std::collections::BTreeMap;

/// A Llama, or a model of another [`Architecture`](reptune_adapters::Architecture), whose
/// residual stream can be read, changed and differentiated.
pub struct Llama {
    pub(super) spec: ModelSpec,
    pub(super) device: Device,
    /// (V, H)
    pub(super) embeddings: Tensor,
    pub(super) blocks: Vec<Block>,
    /// Weight (H,) of the final norm.
    pub(super) norm: Tensor,
    pub(super) norm_eps: f64,
    pub(super) head: Weight,
    pub(super) rotation: RotationTable,
    /// Tokens that blocks with a sliding window see; none where no block has one.
    pub(super) window: Option<usize>,
}

impl Llama {
    fn check(
        &self,
        batch: &PrefixTree,
        cache: &KeyValueCache,
        options: &ForwardOptions,
    ) -> Result<()> {
        let new = cache.rows()..batch.len();
        self.spec.check_layers(options.capture)?;
        if let Some(start) = options.start {
            self.check_start(start, new.len(), cache, options)?;
        }
        for intervention in options.interventions {
            let layers: Vec<usize> = intervention.layers().collect();
            self.spec.check_layers(&layers)?;
        }
        let (n, most) = (options.interventions.len(), TokenMask::BITS as usize);
        if n > most {
            let (expected, found) = (format!("at most {most}"), n.to_string());
            let hint = "add up directions that act on the same rows";
            return Err(Error::value("interventions", expected, found, hint));
        }
        self.check_tokens(batch, new.start)?;
        let captured = options.captured.listed().unwrap_or_default();
        for (what, asked) in [
            ("rows of the logits", options.logits),
            ("captured rows", captured),
        ] {
            if let Some(row) = asked.iter().find(|r| !new.contains(&(**r as usize))) {
                let (first, last) = (new.start, new.end.saturating_sub(1));
                let expected = format!("new rows, {first} to {last}");
                let hint = "rows that a cache holds are not computed again";
                return Err(Error::value(what, expected, row.to_string(), hint));
            }
        }
        Ok(())
    }

    /// Checks the length of the longest prompt, and the ids of all tokens but the first
    /// `computed`.
    fn check_tokens(&self, batch: &PrefixTree, computed: usize) -> Result<()> {
        let (context, vocab, name) = (self.spec.context, self.spec.vocab, &self.spec.name);
        let last = batch.positions().iter().max();
        let longest = last.map_or(0, |p| *p as usize + 1);
        if longest > context {
            let expected = format!("at most {context} tokens, the context of {name}");
            let hint = "shorten the prompt or generate fewer tokens";
            let found = format!("{longest} tokens");
            return Err(Error::value("prompt", expected, found, hint));
        }
        let mut new = batch.ids()[computed..].iter();
        if let Some(id) = new.find(|id| **id as usize >= vocab) {
            let expected = format!("below {vocab}, the vocabulary of {name}");
            let hint = "tokenizer and model belong to different models";
            return Err(Error::value("token id", expected, id.to_string(), hint));
        }
        Ok(())
    }

    /// A forward that resumes above a block can neither change nor return what lies below,
    /// nor fill a cache there.
    fn check_start(
        &self,
        start: Resume,
        new: usize,
        cache: &KeyValueCache,
        options: &ForwardOptions,
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
        let (layer, filled) = (start.layer, cache.filled(start.layer + 1));
        if cache.keeps() && filled != Some(new) {
            let expected = format!("a cache that holds {new} rows of blocks 0 to {layer}");
            return wrong(expected, format!("{filled:?}"));
        }
        let captured = options.capture.iter().copied().map(Some);
        let changed = options.interventions.iter().map(Intervention::lowest);
        let mut lowest = captured.chain(changed);
        if let Some(lowest) = lowest.find(|l| l.is_none_or(|l| l < layer)) {
            let expected = lowest.map_or("the embeddings".into(), |l| format!("layer {l}"));
            return wrong(format!("{expected} or below"), format!("layer {layer}"));
        }
        Ok(())
    }

    fn run(
        &self,
        batch: &PrefixTree,
        cache: &mut KeyValueCache,
        options: &ForwardOptions,
    ) -> Result<ForwardOutput> {
        let new = cache.rows()..batch.len();
        let mut rows = Rows::all(batch, new.clone(), options.interventions.len());
        let rotation = self.rotation.rows(&batch.positions()[new.clone()])?;
        let context = Context {
            rotation: &rotation,
            seen: &Seen::new(batch.ancestors(new.clone()), self.window),
            adapter: options.adapter,
            listener: None,
            middle: None,
            read: None,
            activations: options.activations,
        };
        let mut residuals = BTreeMap::new();
        let mut leave = |x: Tensor, layer: usize, rows: &Rows| -> Result<Tensor> {
            let x = rows.change(options.interventions, &x, HookPoint::ResidPost, layer)?;
            if options.capture.contains(&layer) {
                let picked = match options.captured.listed() {
                    None => x.clone(),
                    Some(tokens) => rows.pick(&x, tokens)?,
                };
                residuals.insert(layer, picked.to_dtype(DType::F32)?);
            }
            Ok(x)
        };
        let mut x = match options.start {
            Some(start) => {
                let known = start.rows.to_device(&self.device)?;
                leave(known.to_dtype(self.embeddings.dtype())?, start.layer, &rows)?
            }
            None => {
                let ids = Tensor::new(&batch.ids()[new.clone()], &self.device)?;
                self.embeddings.index_select(&ids, 0)?
            }
        }; // (N, H)
        let first = options.start.map_or(0, |s| s.layer + 1);
        let captured = options.capture.iter().max().map_or(0, |l| l + 1);
        let end = match options.logits {
            [] => captured.max(cache.layers()),
            _ => self.blocks.len(),
        };
        for layer in first..end {
            x = rows.change(options.interventions, &x, HookPoint::ResidPre, layer)?;
            // Nothing after the last block reads a row that is not asked for.
            let read = (layer + 1 == end)
                .then(|| read_last(options, layer))
                .flatten()
                .filter(|read| read.len() < new.len())
                .map(|read| rows.only(batch, &read, (&rotation, self.window), &self.device))
                .transpose()?;
            let after = read.as_ref().map_or(&rows, |(after, _)| after);
            let middle =
                |x: &Tensor| after.change(options.interventions, x, HookPoint::ResidMid, layer);
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
        let logits = match options.logits {
            [] => None,
            wanted => Some(self.unembed(&rows.pick(&x, wanted)?)?),
        };
        Ok(ForwardOutput { residuals, logits })
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
        batch: &PrefixTree,
        cache: &mut KeyValueCache,
        options: &ForwardOptions,
    ) -> Result<ForwardOutput> {
        self.check(batch, cache, options)?;
        in_pool(|| self.run(batch, cache, options))
    }

    fn unembed(&self, rows: &Tensor) -> Result<Tensor> {
        let rows = rows.to_dtype(self.norm.dtype())?;
        let x = rms_norm(&rows, &self.norm, self.norm_eps)?;
        Ok(self.head.forward(&x)?.to_dtype(DType::F32)?)
    }
}

/// The rows of the last block's output that are read: those whose logits are asked for,
/// and those that are captured there; none where that is all of them.
fn read_last(options: &ForwardOptions, layer: usize) -> Option<Vec<u32>> {
    let captured = match options.capture.contains(&layer) {
        true => options.captured.listed()?,
        false => &[],
    };
    let mut read = [options.logits, captured].concat();
    read.sort_unstable();
    read.dedup();
    (!read.is_empty()).then_some(read)
}
