//! How far a variant of a model moves from the model where it should do nothing.

use super::{ModelVariant, log_sum_exp};
use crate::activation_cache::ActivationCache;
use crate::batch::{LOGITS_PER_FORWARD, Most, batches};
use crate::error::Result;
use crate::score::model_variant::TokenLogits;
use std::ops::Range;

/// Which tokens of a text are generated ones for the positions of steering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextKind {
    /// None: the text is a prompt throughout.
    Prompt,
    /// All but the first, as if the model had written the text.
    Generated,
}

impl TextKind {
    /// The prompt tokens of a text of `tokens` tokens.
    pub(crate) fn prompt(self, tokens: usize) -> usize {
        match self {
            Self::Prompt => tokens,
            Self::Generated => 1,
        }
    }
}

/// The mean of the divergences at some tokens.
fn mean(kls: &[f64]) -> f64 {
    kls.iter().fold(0., |sum, kl| sum + kl) / kls.len().max(1) as f64
}

/// The divergence, in nats, of next-token distributions of `variant` from those of `base`, which
/// may be another model of the same vocabulary: the mean over all tokens of `texts`.
///
/// `1/N sum_n sum_v p_n(v) (log p_n(v) - log q_n(v))`, p of `base`, q of `variant`
///
/// # Errors
/// When a text is empty or longer than the context, or steering acts on none of their tokens.
pub fn divergence(
    base: &ModelVariant,
    variant: &ModelVariant,
    texts: &[Vec<u32>],
    kind: TextKind,
) -> Result<f64> {
    [base, variant]
        .map(|v| check(v, texts, kind))
        .into_iter()
        .collect::<Result<()>>()?;
    let mut kls = Vec::new();
    for range in ranges(texts) {
        let texts = &texts[range];
        let base = TextLogits::of(base, (texts, kind), None)?;
        kls.extend(base.kls(&TextLogits::of(variant, (texts, kind), None)?));
    }
    Ok(mean(&kls))
}

/// Refuses steering that acts on no token of `texts`.
fn check(variant: &ModelVariant, texts: &[Vec<u32>], kind: TextKind) -> Result<()> {
    let sizes = texts.iter().map(|t| (t.len(), kind.prompt(t.len())));
    variant.check_steered("KL divergence on texts", sizes)
}

/// The logits of a model at all tokens of some texts, from which the divergence of several
/// variants is measured.
pub struct ReferenceLogits {
    texts: Vec<Vec<u32>>,
    kind: TextKind,
    batches: Vec<(Range<usize>, TextLogits)>,
}

impl ReferenceLogits {
    /// Computes the logits of `base`.
    ///
    /// # Errors
    /// When a text is empty or longer than the context, or the model fails.
    pub fn new(base: &ModelVariant, texts: Vec<Vec<u32>>, kind: TextKind) -> Result<Self> {
        let batch = |range: Range<usize>| {
            let logits = TextLogits::of(base, (&texts[range.clone()], kind), None)?;
            Ok((range, logits))
        };
        let batches = ranges(&texts).into_iter().map(batch);
        let batches = batches.collect::<Result<_>>()?;
        Ok(Self {
            texts,
            kind,
            batches,
        })
    }

    /// The texts.
    pub fn texts(&self) -> &[Vec<u32>] {
        &self.texts
    }

    /// Which of their tokens are generated ones.
    pub fn kind(&self) -> TextKind {
        self.kind
    }

    /// The divergence of `variant`, whose forwards resume at rows of `cache` where they can.
    ///
    /// # Errors
    /// When `variant` steers no token of the texts, `cache` is of other weights or prompts, or
    /// the model fails.
    pub fn divergence(
        &self,
        variant: &ModelVariant,
        cache: Option<&ActivationCache>,
    ) -> Result<f64> {
        check(variant, &self.texts, self.kind)?;
        let mut kls = Vec::new();
        for (range, base) in &self.batches {
            let texts = (&self.texts[range.clone()], self.kind);
            kls.extend(base.kls(&TextLogits::of(variant, texts, cache)?));
        }
        Ok(mean(&kls))
    }
}

/// Texts of one forward, cut alike for all variants.
fn ranges(texts: &[Vec<u32>]) -> Vec<Range<usize>> {
    let batches = batches(texts, Most::Distinct(LOGITS_PER_FORWARD), |_, _| 0);
    batches.into_iter().map(|b| b.prompts).collect()
}

/// Logits at all tokens of some texts.
struct TextLogits {
    logits: TokenLogits,
    paths: Vec<Vec<u32>>,
}

impl TextLogits {
    fn of(
        variant: &ModelVariant,
        (texts, kind): (&[Vec<u32>], TextKind),
        cache: Option<&ActivationCache>,
    ) -> Result<Self> {
        let prompt = |text: usize| kind.prompt(texts[text].len());
        let batch = variant.pack(texts, |text, at| variant.mask(at, prompt(text)))?;
        let all = (0..batch.tree.len() as u32).collect();
        Ok(Self {
            logits: variant.logits((&batch, texts), all, cache)?,
            paths: batch.paths,
        })
    }

    /// The divergence of `variant` at every token of every text.
    fn kls(&self, variant: &Self) -> Vec<f64> {
        let tokens = self
            .paths
            .iter()
            .flatten()
            .zip(variant.paths.iter().flatten());
        let kl = |(p, q): (&u32, &u32)| kl_divergence(self.logits.of(*p), variant.logits.of(*q));
        tokens.map(kl).collect()
    }
}

/// `sum_v p(v) (log p(v) - log q(v))` in nats, for the distributions with logits `p` and
/// `q`. Shapes: both (V,).
pub fn kl_divergence(p: &[f32], q: &[f32]) -> f64 {
    let (whole_p, whole_q) = (log_sum_exp(p), log_sum_exp(q));
    let term = |(p, q): (&f32, &f32)| {
        let (log_p, log_q) = (f64::from(*p) - whole_p, f64::from(*q) - whole_q);
        match log_p.exp() {
            0. => 0.,
            p => p * (log_p - log_q),
        }
    };
    p.iter().zip(q).map(term).sum()
}

#[cfg(test)]
mod tests;
