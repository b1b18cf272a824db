//! A model as it is scored: the model, and what changes it.

use crate::activation_cache::{ActivationCache, last_unchanged, resume};
use crate::batch::{Batch, Most, batches};
use crate::error::{Error, Result};
use candle_core::{DType, Tensor};
use reptune_adapters::model::prefix_tree::TokenMask;
use reptune_adapters::steering::intervention::token_mask;
use reptune_adapters::{Adapter, ForwardOptions, HookedModel, Intervention};

/// A model under interventions and an adapter.
#[derive(Clone, Copy)]
pub struct ModelVariant<'a> {
    /// The model.
    pub model: &'a dyn HookedModel,
    /// Interventions on the residual stream.
    pub interventions: &'a [Intervention],
    /// LoRA updates.
    pub adapter: Option<&'a Adapter>,
}

impl<'a> ModelVariant<'a> {
    /// The model as it is.
    pub fn base(model: &'a dyn HookedModel) -> Self {
        Self {
            model,
            interventions: &[],
            adapter: None,
        }
    }

    /// Packs texts; `mask` gives the token mask at a position of one of them. Refuses texts
    /// that are empty or longer than the context.
    pub(crate) fn pack<P: AsRef<[u32]>>(
        &self,
        texts: &[P],
        mask: impl Fn(usize, usize) -> TokenMask,
    ) -> Result<Batch> {
        let context = self.model.spec().context;
        let length = |i: usize| texts[i].as_ref().len();
        if let Some(i) = (0..texts.len()).find(|i| !(1..=context).contains(&length(*i))) {
            let (what, expected) = (format!("text {i}"), format!("1 to {context} tokens"));
            let hint = "shorten it to the model's context, or leave it out";
            return Err(Error::value(what, expected, length(i).to_string(), hint));
        }
        let all = batches(texts, Most::Total(usize::MAX), mask).pop();
        all.ok_or_else(|| Error::value("texts", "at least one", "none", "give a text"))
    }

    /// The token mask at `position` of a sequence with `prompt` prompt tokens.
    pub(crate) fn mask(&self, position: usize, prompt: usize) -> TokenMask {
        token_mask(self.interventions, position, prompt)
    }

    /// Refuses interventions that act on none of the tokens of `sequences`, each given by its
    /// number of tokens and by how many of them are its prompt: what is read there would be
    /// that of the model as it is, whatever the dose.
    pub(crate) fn check_steered(
        &self,
        what: &str,
        mut sequences: impl Iterator<Item = (usize, usize)>,
    ) -> Result<()> {
        let acts =
            |(tokens, prompt): (usize, usize)| (0..tokens).any(|at| self.mask(at, prompt) != 0);
        let mut rules = self.interventions.iter().map(|x| x.rows().to_string());
        match rules.next() {
            Some(rule) if !sequences.any(acts) => Err(Error::unsteered(what, &rule)),
            _ => Ok(()),
        }
    }

    /// `known`, which holds the rows of `prompts`, moved to the last layer that the
    /// interventions leave unchanged.
    pub(crate) fn cache(
        &self,
        known: Option<ActivationCache>,
        prompts: impl FnOnce() -> Vec<Vec<u32>>,
    ) -> Result<Option<ActivationCache>> {
        let (model, adapter) = (self.model, self.adapter);
        match last_unchanged(model.spec(), self.interventions, None) {
            Some(layer) => ActivationCache::moved(known, model, layer, adapter, prompts).map(Some),
            None => Ok(known),
        }
    }

    /// The logits of `tokens` of `batch`, which holds `texts`. The forward resumes at rows
    /// of `cache` where it can; `cache` must be of the same weights.
    pub(crate) fn logits<P: AsRef<[u32]>>(
        &self,
        (batch, texts): (&Batch, &[P]),
        mut tokens: Vec<u32>,
        cache: Option<&ActivationCache>,
    ) -> Result<TokenLogits> {
        tokens.sort_unstable();
        tokens.dedup();
        let start = match cache {
            Some(cache) => self.start((batch, texts), cache)?,
            None => None,
        };
        let options = ForwardOptions {
            interventions: self.interventions,
            logits: &tokens,
            adapter: self.adapter,
            start: start.as_ref().map(resume),
            ..ForwardOptions::default()
        };
        let logits = batch.forward(self.model, &options)?.into_logits()?;
        let (_, vocab) = logits.dims2()?;
        let values = logits.detach().to_dtype(DType::F32)?.flatten_all()?;
        Ok(TokenLogits {
            values: values.to_vec1()?,
            vocab,
            tokens,
        })
    }

    /// The layer of `cache` where a forward resumes, and the rows there.
    fn start<P: AsRef<[u32]>>(
        &self,
        (batch, texts): (&Batch, &[P]),
        cache: &ActivationCache,
    ) -> Result<Option<(usize, Tensor)>> {
        cache.check(self.model, self.adapter)?;
        let last = last_unchanged(self.model.spec(), self.interventions, None);
        let Some(layer) = last.and_then(|last| cache.resume_layer(last)) else {
            return Ok(None);
        };
        let rows = cache.rows(layer, &batch.tree, texts, &batch.paths)?;
        Ok(Some((layer, rows)))
    }
}

/// Logits of some tokens of a prefix tree.
pub(crate) struct TokenLogits {
    values: Vec<f32>,
    vocab: usize,
    /// In ascending order.
    tokens: Vec<u32>,
}

impl TokenLogits {
    /// Those of one of the tokens that were asked for (V,).
    pub fn of(&self, token: u32) -> &[f32] {
        let row = self.tokens.partition_point(|t| *t < token);
        &self.values[row * self.vocab..(row + 1) * self.vocab]
    }
}
