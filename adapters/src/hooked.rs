//! The trait that a runtime implements: run a prefix tree, hand out the residual stream, let
//! interventions change it, and add low-rank updates to the weights.

use crate::error::{Error, Result};
use crate::lora::Adapter;
use crate::model::{GradientCheckpointing, KeyValueCache, ModelSpec, PrefixTree};
use crate::steering::Intervention;
use candle_core::{Device, Tensor};
use std::collections::BTreeMap;

/// Residual rows that are known, so that a forward can begin above them.
#[derive(Clone, Copy)]
pub struct Resume<'a> {
    /// The block whose output they are.
    pub layer: usize,
    /// The new rows (N, H) at that output, before any intervention there; on any device.
    pub rows: &'a Tensor,
}

/// The tokens whose residual rows are handed back.
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

/// What a forward should do besides running.
#[derive(Default, Clone, Copy)]
pub struct ForwardOptions<'a> {
    /// Applied in order; bit i of a row's marks says where intervention i acts.
    pub interventions: &'a [Intervention],
    /// Layers whose outputs are handed back.
    pub capture: &'a [usize],
    /// The tokens whose rows are handed back of them.
    pub captured: CaptureTokens<'a>,
    /// Rows whose logits are computed; without any the forward stops at the last
    /// captured layer.
    pub logits: &'a [u32],
    /// Added to the frozen weights; gradients reach its factors.
    pub adapter: Option<&'a Adapter>,
    /// Where it begins; none: at the embeddings. What lies below is not computed, so
    /// nothing can be captured or changed there, and a cache must hold it already.
    pub start: Option<Resume<'a>>,
    /// What is kept for a backward.
    pub activations: GradientCheckpointing,
}

/// What a forward gave.
pub struct ForwardOutput {
    /// Residual rows (captured rows, H) at the output of each captured layer, in the order
    /// in which they were asked for, after interventions there; f32, on the host's device.
    pub residuals: BTreeMap<usize, Tensor>,
    /// Logits (requested rows, V), if any were requested; f32, on the host's device.
    pub logits: Option<Tensor>,
}

/// A runtime with a model in it.
pub trait HookedModel {
    /// Sizes and identity.
    fn spec(&self) -> &ModelSpec;

    /// Where it computes.
    fn device(&self) -> &Device;

    /// Runs the rows of `forest` that `cache` does not hold yet.
    ///
    /// # Errors
    /// When a request does not fit the model, or a tensor operation fails.
    fn forward(
        &self,
        forest: &PrefixTree,
        cache: &mut KeyValueCache,
        request: &ForwardOptions,
    ) -> Result<ForwardOutput>;

    /// Logits of residual rows, as if they were the output of the last block: final
    /// norm, then unembedding.
    ///
    /// Shapes: `rows` (R, H), result (R, V).
    ///
    /// # Errors
    /// When the runtime does not offer it, or the width differs.
    fn unembed(&self, rows: &Tensor) -> Result<Tensor> {
        Err(Error::Unsupported {
            what: format!("unembedding {:?}", rows.dims()),
            reason: "this runtime gives logits of whole forwards only".into(),
        })
    }
}
