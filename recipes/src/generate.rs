//! Generation in a prefix tree: all prompts grow together, and keys and values are kept.

mod sampling;
#[cfg(test)]
mod tests;
mod variant_group;

pub use sampling::Sampling;

use crate::activation_cache::{ActivationCache, last_unchanged};
use crate::batch::{TOKENS_PER_FORWARD, batches_by_length};
use crate::error::Result;
use reptune_adapters::model::prefix_tree::TokenMask;
use reptune_adapters::{Adapter, HookedModel, Intervention};
use std::ops::Range;
use variant_group::VariantGroup;

/// What is generated, and under which changes to the model.
#[derive(Clone, Copy, Default)]
pub struct Generation<'a> {
    /// Interventions on the residual stream.
    pub interventions: &'a [Intervention],
    /// LoRA updates.
    pub adapter: Option<&'a Adapter>,
    /// Most tokens that a prompt gets.
    pub max_new_tokens: usize,
    /// Tokens that end a sequence; they are not part of what is returned.
    pub stop: &'a [u32],
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Activations of the prompts, see [`ActivationCache::for_generation`]: where the
    /// interventions allow it, generation begins there.
    pub cache: Option<&'a ActivationCache>,
}

/// Generates a continuation of every prompt. `progress` is called after each group of
/// prompts with the number done. Gates that decide once per prompt are read first, see
/// [`open_gates`](crate::open_gates::open_gates).
///
/// # Errors
/// When a prompt is empty or does not fit the context, or the cache is of other weights.
pub fn generate(
    model: &dyn HookedModel,
    prompts: &[Vec<u32>],
    how: &Generation,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Vec<u32>>> {
    let mut generated = generate_variants(model, prompts, &[Vec::new()], how, progress)?;
    Ok(generated.remove(0))
}

/// Generates a continuation of every prompt under each of `variants`: interventions that
/// act besides those of `how`. Returns them by variant and prompt.
///
/// Neighbouring variants that resume at the same layer grow in one prefix tree, as many as
/// fit, so that a weight is read once for all of them. `progress` is called after each of
/// these groups with the number of continuations done.
///
/// # Errors
/// As [`generate`].
pub fn generate_variants(
    model: &dyn HookedModel,
    prompts: &[Vec<u32>],
    variants: &[Vec<Intervention>],
    how: &Generation,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Vec<Vec<u32>>>> {
    let batches = batches_by_length(prompts, TOKENS_PER_FORWARD, |_, _| 0);
    let grown = batches
        .iter()
        .map(|b| b.tree.len() + b.prompts.len() * how.max_new_tokens);
    let most = TOKENS_PER_FORWARD / grown.max().unwrap_or(1).max(1);
    let batches: Vec<Range<usize>> = batches.into_iter().map(|b| b.prompts).collect();
    let mut generated = vec![vec![Vec::new(); prompts.len()]; variants.len()];
    let mut done = 0;
    for some in groups(model, variants, how.interventions.len(), most) {
        let group = VariantGroup::new(model, prompts, &variants[some.clone()], how)?;
        for batch in &batches {
            group.grow(prompts, batch.clone(), &mut generated[some.clone()])?;
            done += some.len() * batch.len();
            progress(done);
        }
    }
    Ok(generated)
}

/// Cuts `variants` into groups that grow in one tree: at most `most`, which resume at the
/// same layer, and whose interventions, with those `in_all`, have a bit of the mask each.
fn groups(
    model: &dyn HookedModel,
    variants: &[Vec<Intervention>],
    in_all: usize,
    most: usize,
) -> Vec<Range<usize>> {
    let resume = |variant: &[Intervention]| last_unchanged(model.spec(), variant, None);
    let mut groups: Vec<Range<usize>> = Vec::new();
    let mut bits = 0;
    for (i, variant) in variants.iter().enumerate() {
        bits += variant.len();
        match groups.last_mut() {
            Some(group)
                if group.len() < most
                    && bits <= TokenMask::BITS as usize
                    && resume(variant) == resume(&variants[group.start]) =>
            {
                group.end = i + 1;
            }
            _ => {
                groups.push(i..i + 1);
                bits = in_all + variant.len();
            }
        }
    }
    groups
}
