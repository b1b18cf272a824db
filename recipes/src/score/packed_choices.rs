//! Log-odds of candidate responses.

use super::{Choice, ModelVariant, log_sum_exp};
use crate::activation_cache::ActivationCache;
use crate::batch::{Batch, TOKENS_PER_FORWARD, batches};
use crate::error::Result;
use reptune_adapters::ModelSpec;
use reptune_adapters::model::prefix_tree::TokenMask;
use reptune_adapters::steering::intervention::token_mask;

/// Choices in prefix trees, ready to be scored under any interventions that act on the same
/// tokens.
pub struct PackedChoices<'a> {
    choices: &'a [Choice],
    sequences: Vec<Sequence>,
    batches: Vec<Batch>,
}

/// Tokens of one forward that predict responses: a prompt, followed by all but the last
/// token of a response. Responses of one token share the prompt alone.
struct Sequence {
    ids: Vec<u32>,
    choice: usize,
    /// The responses that are predicted along it.
    responses: Vec<usize>,
}

impl AsRef<[u32]> for Sequence {
    fn as_ref(&self) -> &[u32] {
        &self.ids
    }
}

impl<'a> PackedChoices<'a> {
    /// Packs `choices` for a model of `spec`. `mask` gives the token mask at a position
    /// after a prompt of some length.
    ///
    /// # Errors
    /// When a prompt is empty or does not fit the context, a choice has no positive
    /// response, or a response holds no token of the model.
    pub fn new(
        spec: &ModelSpec,
        choices: &'a [Choice],
        mask: impl Fn(usize, usize) -> TokenMask,
    ) -> Result<Self> {
        let mut sequences: Vec<Sequence> = Vec::new();
        for (number, choice) in choices.iter().enumerate() {
            choice.check(spec, number)?;
            let first = sequences.len();
            for (i, response) in choice.responses.iter().enumerate() {
                let ids = [&choice.prompt, &response[..response.len() - 1]].concat();
                match sequences[first..].iter_mut().find(|s| s.ids == ids) {
                    Some(known) => known.responses.push(i),
                    None => sequences.push(Sequence {
                        ids,
                        choice: number,
                        responses: vec![i],
                    }),
                }
            }
        }
        let prompt = |i: usize| choices[sequences[i].choice].prompt.len();
        let batches = batches(&sequences, TOKENS_PER_FORWARD, |i, position| {
            mask(position, prompt(i))
        });
        Ok(Self {
            choices,
            sequences,
            batches,
        })
    }

    /// All tokens that a forward computes: what an [`ActivationCache`] is computed for.
    pub fn prompts(&self) -> Vec<Vec<u32>> {
        self.sequences.iter().map(|s| s.ids.clone()).collect()
    }

    /// The log-odds of the positive response of every choice, in order:
    ///
    /// `log p(positive) - log sum_r p(r)` over the other responses r, where
    /// `log p(r) = sum_t log p(r_t | prompt, r_1 .. r_(t-1))`
    ///
    /// For two responses of one token each this is the difference of two logits.
    /// `variant` must act on the tokens that the choices were packed for. Its forwards
    /// resume at rows of `cache` where they can. `progress` is called after each forward
    /// with the number of choices done.
    ///
    /// # Errors
    /// When `cache` is of other weights or prompts, or the model fails.
    pub fn log_odds(
        &self,
        variant: &ModelVariant,
        cache: Option<&ActivationCache>,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<f64>> {
        // For every choice, the score of each response.
        let mut scores: Vec<Vec<f64>> = Vec::with_capacity(self.choices.len());
        scores.extend(self.choices.iter().map(|c| vec![0.; c.responses.len()]));
        for batch in &self.batches {
            let sequences = &self.sequences[batch.prompts.clone()];
            // The last token of the prompt, and those of the response.
            let predicting = |(sequence, path): (&Sequence, &'_ Vec<u32>)| {
                let prompt = self.choices[sequence.choice].prompt.len();
                path[prompt - 1..].to_vec()
            };
            let paths: Vec<_> = sequences.iter().zip(&batch.paths).map(predicting).collect();
            let logits = variant.logits((batch, sequences), paths.concat(), cache)?;
            for (sequence, path) in sequences.iter().zip(&paths) {
                let choice = &self.choices[sequence.choice];
                // What normalizes one-token responses is the same for all and cancels.
                let single = choice.is_single_token();
                for &i in &sequence.responses {
                    let predicted = choice.responses[i].iter().zip(path);
                    let score = predicted.map(|(id, token)| {
                        let logits = logits.of(*token);
                        let logit = f64::from(logits[*id as usize]);
                        match single {
                            true => logit,
                            false => logit - log_sum_exp(logits),
                        }
                    });
                    scores[sequence.choice][i] = score.sum();
                }
            }
            let next = self.sequences.get(batch.prompts.end);
            progress(next.map_or(self.choices.len(), |s| s.choice));
        }
        let scored = self.choices.iter().zip(&scores);
        Ok(scored
            .map(|(choice, scores)| odds(scores, choice.positive))
            .collect())
    }
}

/// `scores[positive] - log sum_r exp(scores[r])` over the others.
fn odds(scores: &[f64], positive: usize) -> f64 {
    let others = scores.iter().enumerate().filter(|(i, _)| *i != positive);
    let others: Vec<f64> = others.map(|(_, score)| *score).collect();
    let other = match others.as_slice() {
        [other] => *other,
        _ => {
            let max = others.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            max + others.iter().map(|s| (s - max).exp()).sum::<f64>().ln()
        }
    };
    scores[positive] - other
}

/// The log-odds of the positive response of every choice under `variant`, see
/// [`PackedChoices::log_odds`].
///
/// # Errors
/// As [`PackedChoices::new`] and [`PackedChoices::log_odds`].
pub fn log_odds(
    variant: &ModelVariant,
    choices: &[Choice],
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<f64>> {
    let mask = |position, prompt| token_mask(variant.interventions, position, prompt);
    let packed = PackedChoices::new(variant.model.spec(), choices, mask)?;
    packed.log_odds(variant, None, progress)
}

#[cfg(test)]
mod tests;
