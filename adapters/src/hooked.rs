//! The trait that a runtime implements: run a prefix tree, return the residual stream, let
//! interventions change it, and apply an adapter to the weights.

use crate::error::{Error, Result};
use crate::lora::Adapter;
use crate::model::{GradientCheckpointing, KeyValueCache, ModelSpec, PrefixTree};
use crate::steering::Intervention;
use candle_core::{Device, Tensor};
use std::collections::BTreeMap;

/// Residual rows that are known, so that a forward can start above them.
#[derive(Clone, Copy)]
pub struct Resume<'a> {
    /// The block whose output they are.
    pub layer: usize,
    /// Output (N, H) of that block for the new tokens, before any intervention there; on
    /// any device.
    pub rows: &'a Tensor,
}

/// The tokens whose residual rows are returned.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum CaptureTokens<'a> {
    /// All tokens that the forward computes.
    #[default]
    All,
    /// These, by their number in the prefix tree, in this order.
    Only(&'a [u32]),
}

impl<'a> CaptureTokens<'a> {
    /// The tokens, if not all of them are wanted.
    pub fn listed(self) -> Option<&'a [u32]> {
        match self {
            Self::All => None,
            Self::Only(tokens) => Some(tokens),
        }
    }
}

/// What a forward does besides running.
#[derive(Default, Clone, Copy)]
pub struct ForwardOptions<'a> {
    /// Applied in this order; intervention i acts on a token whose mask has bit i.
    pub interventions: &'a [Intervention],
    /// Layers whose outputs are returned.
    pub capture: &'a [usize],
    /// The tokens whose rows are returned of these layers.
    pub captured: CaptureTokens<'a>,
    /// Tokens whose logits are computed; without any, the forward stops at the last
    /// captured layer.
    pub logits: &'a [u32],
    /// Added to the frozen weights; gradients reach its factors.
    pub adapter: Option<&'a Adapter>,
    /// Where the forward starts; none: at the embeddings. Blocks below are not computed, so
    /// nothing can be captured or changed there, and a cache must already hold them.
    pub start: Option<Resume<'a>>,
    /// What is kept for a backward.
    pub activations: GradientCheckpointing,
}

/// The result of a forward.
pub struct ForwardOutput {
    /// Output (captured tokens, H) of each captured layer, in the order of
    /// [`ForwardOptions::captured`], after interventions there; f32, on the model's device.
    pub residuals: BTreeMap<usize, Tensor>,
    /// Logits (tokens of [`ForwardOptions::logits`], V), if there are any; f32, on the
    /// model's device.
    pub logits: Option<Tensor>,
}

impl ForwardOutput {
    /// The logits of a forward that was asked for some.
    ///
    /// # Errors
    /// When the runtime returned none.
    pub fn into_logits(self) -> Result<Tensor> {
        self.logits.ok_or_else(|| {
            let hint = "the model must return the logits that it is asked for";
            Error::value("logits", "those of the tokens asked for", "none", hint)
        })
    }
}

/// A runtime with a model loaded.
pub trait HookedModel {
    /// Sizes and identity.
    fn spec(&self) -> &ModelSpec;

    /// Where it computes.
    fn device(&self) -> &Device;

    /// Runs the tokens of `tree` that `cache` does not hold yet.
    ///
    /// # Errors
    /// When the options do not fit the model, or a tensor operation fails.
    fn forward(
        &self,
        tree: &PrefixTree,
        cache: &mut KeyValueCache,
        options: &ForwardOptions,
    ) -> Result<ForwardOutput>;

    /// Logits of residual rows, as if they were the output of the last block: final norm,
    /// then unembedding.
    ///
    /// Shapes: `rows` (N, H), result (N, V).
    ///
    /// # Errors
    /// When the runtime does not offer it, or the width differs.
    fn unembed(&self, rows: &Tensor) -> Result<Tensor> {
        Err(Error::Unsupported {
            what: format!("unembedding {:?}", rows.dims()),
            reason: "this runtime computes logits in whole forwards only".into(),
        })
    }
}
