//! How the next token is chosen, whoever computes the logits.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::cmp::Ordering;
use std::collections::HashMap;

/// RequestSampling as a request asks for it.
///
/// In this order: biases and penalties on the logits, temperature, `top_k`, `top_p`, `min_p`,
/// each on what the one before has left, as in transformers.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestSampling {
    /// 0 chooses the likeliest token; of equals the first.
    pub temperature: f64,
    /// Only this many of the likeliest tokens; 0 is off.
    pub top_k: usize,
    /// Only the likeliest tokens that together have this probability; 1 is off.
    pub top_p: f64,
    /// Only tokens with this share of the probability of the likeliest; 0 is off.
    pub min_p: f64,
    /// Subtracted for each time that a token stands in the text so far.
    pub frequency_penalty: f32,
    /// Subtracted from the tokens of the text so far.
    pub presence_penalty: f32,
    /// Divides the positive logits of the tokens of the text so far, and multiplies the others.
    pub repetition_penalty: f32,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// The same seed gives the same answer.
    pub seed: Option<u64>,
}

impl Default for RequestSampling {
    fn default() -> Self {
        Self {
            temperature: 1.,
            top_k: 0,
            top_p: 1.,
            min_p: 0.,
            frequency_penalty: 0.,
            presence_penalty: 0.,
            repetition_penalty: 1.,
            logit_bias: Vec::new(),
            seed: None,
        }
    }
}

/// Below this a temperature counts as 0, as in mistral.rs.
const GREEDY: f64 = 1e-7;

impl RequestSampling {
    /// The token after `context`, which has these logits; none if they are not numbers.
    ///
    /// Shapes: `logits` (V,).
    pub fn pick(&self, logits: &[f32], context: &[u32], rng: &mut ChaCha8Rng) -> Option<u32> {
        let logits = self.penalised(logits, context);
        let best = |a: usize, b: usize| if logits[b] > logits[a] { b } else { a };
        let first = (0..logits.len()).reduce(best)?;
        let max = logits[first];
        if logits.iter().any(|l| l.is_nan()) || max == f32::NEG_INFINITY {
            return None;
        }
        if self.temperature < GREEDY || self.top_k == 1 {
            return Some(first as u32);
        }
        // An infinite logit has no finite distance to itself.
        let weight = |logit: f32| match logit == max {
            true => 1.,
            false => (f64::from(logit - max) / self.temperature).exp(),
        };
        let weights = logits.iter().zip(0..).map(|(l, id)| (id, weight(*l)));
        let mut weights: Vec<(u32, f64)> = weights.collect();
        if self.top_k > 0 || self.top_p < 1. {
            weights.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap_or(Ordering::Equal));
        }
        if self.top_k > 0 {
            weights.truncate(self.top_k);
        }
        if self.top_p < 1. {
            let enough = self.top_p * sum(&weights);
            let mut before = 0.;
            let kept = weights.iter().take_while(|(_, weight)| {
                let kept = before < enough;
                before += weight;
                kept
            });
            let kept = kept.count().max(1);
            weights.truncate(kept);
        }
        weights.retain(|(_, weight)| *weight >= self.min_p);
        let mut left = rng.random::<f64>() * sum(&weights);
        let drawn = weights.iter().find(|(_, weight)| {
            left -= weight;
            left < 0.
        });
        drawn.or(weights.last()).map(|(id, _)| *id)
    }

    fn penalised(&self, logits: &[f32], context: &[u32]) -> Vec<f32> {
        let mut logits = logits.to_vec();
        for (id, bias) in &self.logit_bias {
            if let Some(logit) = logits.get_mut(*id as usize) {
                *logit += bias;
            }
        }
        let mut counts: HashMap<u32, f32> = HashMap::new();
        for id in context {
            *counts.entry(*id).or_default() += 1.;
        }
        for (id, count) in counts {
            let Some(logit) = logits.get_mut(id as usize) else {
                continue;
            };
            *logit -= count * self.frequency_penalty + self.presence_penalty;
            match *logit > 0. {
                _ if self.repetition_penalty == 1. => {}
                true => *logit /= self.repetition_penalty,
                false => *logit *= self.repetition_penalty,
            }
        }
        logits
    }
}

fn sum(weights: &[(u32, f64)]) -> f64 {
    weights.iter().map(|(_, weight)| weight).sum()
}

/// A token that was chosen, with natural logarithms of the model's own probabilities: before
/// biases, penalties, temperature and grammars.
#[derive(Debug, Clone, PartialEq)]
pub struct Picked {
    /// How many tokens of the answer stand before it.
    pub step: usize,
    /// The token.
    pub token: u32,
    /// Its log-probability; 0 if nobody asked for it.
    pub logprob: f32,
    /// The likeliest tokens with theirs.
    pub top: Vec<(u32, f32)>,
}

impl Picked {
    /// The token `token` at `step` with its log-probability under `logits`, and those of the
    /// `top` likeliest tokens.
    ///
    /// Shapes: `logits` (V,).
    pub fn of(logits: &[f32], step: usize, token: u32, top: usize) -> Self {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let exp = logits.iter().map(|l| f64::from(l - max).exp());
        let log_sum = f64::from(max) + exp.sum::<f64>().ln();
        let logprob = |logit: f32| (f64::from(logit) - log_sum) as f32;
        let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
        let likelier = |a: &u32, b: &u32| {
            let (a, b) = (logits[*a as usize], logits[*b as usize]);
            b.partial_cmp(&a).unwrap_or(Ordering::Equal)
        };
        if top < ids.len() {
            ids.select_nth_unstable_by(top, likelier);
            ids.truncate(top);
        }
        ids.sort_by(likelier);
        let of = |id: u32| logits.get(id as usize).map_or(0., |logit| logprob(*logit));
        Self {
            step,
            token,
            logprob: of(token),
            top: ids.into_iter().map(|id| (id, of(id))).collect(),
        }
    }
}

#[cfg(test)]
mod tests;
