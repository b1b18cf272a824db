//! The hooked Llama: a forward over a forest whose residual stream can be read,
//! changed and differentiated, on mistral.rs's own weights and layers.
//!
//! mistral.rs loads the weights (its var builder and parallel layers), multiplies
//! with them (its [`QuantMethod`](mistralrs_quant::QuantMethod)s, so every
//! quantization it knows) and gives the rotary angles. Norm, rotation, attention
//! and activation are this project's ops, which have a backward.

mod block;
mod checkpoint;
mod config;
mod load;
mod rotation;
mod stream;
mod weight;

pub use checkpoint::Checkpoint;
pub use config::LlamaConfig;
pub use load::{LoadOptions, model_spec, parse_isq};
pub use stream::{Layer, Stream, shared_input};

use block::{Block, Context};
use candle_core::{DType, Device, Tensor};
use reptune_adapters::ops::rms_norm;
use reptune_adapters::{Cache, Error, Forest, Host, ModelSpec, Pass, Point, Request, Result};
use reptune_adapters::{forest::Marks, intervention::apply_all};
use rotation::RotationTable;
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
    fn check(&self, forest: &Forest, computed: usize, request: &Request) -> Result<()> {
        self.spec.check_layers(request.capture)?;
        for intervention in request.interventions {
            self.spec
                .check_layers(&intervention.layers().collect::<Vec<_>>())?;
        }
        if request.interventions.len() > Marks::BITS as usize {
            return Err(Error::value(
                "interventions",
                format!("at most {}", Marks::BITS),
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
        if let Some(row) = request
            .logits
            .iter()
            .find(|r| !rows.contains(&(**r as usize)))
        {
            return Err(Error::value(
                "rows of the logits",
                format!("new rows, {} to {}", rows.start, rows.end.saturating_sub(1)),
                row.to_string(),
                "rows that a cache holds are not computed again",
            ));
        }
        Ok(())
    }
}

impl Host for Llama {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn device(&self) -> &Device {
        &self.device
    }

    fn forward(&self, forest: &Forest, cache: &mut Cache, request: &Request) -> Result<Pass> {
        self.check(forest, cache.rows(), request)?;
        let range = cache.rows()..forest.len();
        let acted: Vec<Vec<u32>> = (0..request.interventions.len())
            .map(|i| {
                let rows = forest.marked(i, range.clone());
                rows.into_iter().map(|r| r - range.start as u32).collect()
            })
            .collect();
        let change = |x: &Tensor, point, layer| {
            apply_all(request.interventions, x, point, layer, |i| acted[i].clone())
        };
        let ids = Tensor::new(&forest.ids()[range.clone()], &self.device)?;
        let rotation = self.rotation.rows(&forest.positions()[range.clone()])?;
        let ancestry = Arc::new(forest.ancestry(range.clone()));
        let last = match request.logits {
            [] if !cache.keeps() => request.capture.iter().max().map_or(0, |l| l + 1),
            _ => self.blocks.len(),
        };
        let context = Context {
            rotation: &rotation,
            ancestry: &ancestry,
            low_rank: request.low_rank,
            listener: None,
            middle: None,
        };
        let mut residuals = std::collections::BTreeMap::new();
        let mut x = self.embeddings.index_select(&ids, 0)?; // (N, H)
        for (layer, block) in self.blocks.iter().enumerate().take(last) {
            x = change(&x, Point::Input, layer)?;
            let middle = |x: &Tensor| change(x, Point::Middle, layer);
            let context = Context {
                middle: Some(&middle),
                ..context
            };
            x = block.forward(&x, cache, context)?;
            x = change(&x, Point::Output, layer)?;
            if request.capture.contains(&layer) {
                residuals.insert(layer, x.clone());
            }
        }
        cache.advance(range.end);
        let logits = match request.logits {
            [] => None,
            rows => {
                let rows = rows.iter().map(|r| r - range.start as u32);
                let rows = Tensor::from_iter(rows, &self.device)?;
                Some(self.unembed(&x.index_select(&rows, 0)?)?)
            }
        };
        Ok(Pass { residuals, logits })
    }

    fn unembed(&self, rows: &Tensor) -> Result<Tensor> {
        let x = rms_norm(rows, &self.norm, self.norm_eps)?;
        Ok(self.head.forward(&x)?.to_dtype(DType::F32)?)
    }
}
