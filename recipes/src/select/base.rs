//! What a model answers and predicts by itself, and what a dose changes in it.

use super::{MeasuredDose, Model};
use crate::chat::Message;
use crate::data::{Claim, claim_question};
use crate::error::{Error, Result};
use crate::recipe::Selection;
use crate::trunk::ActivationCache;
use candle_core::{D, Tensor};
use reptune_adapters::steering::intervention::token_mask;
use reptune_adapters::{
    DirectionSet, Dose, ForwardOptions, HookedModel, Intervention, KeyValueCache, Operator,
    PrefixTree, Resume,
};

/// Prompts of one forward.
const PROMPTS: usize = 16;

/// A prompt with its two answers.
pub(super) struct Asked {
    pub ids: Vec<u32>,
    pub right: u32,
    pub wrong: u32,
}

/// What the model does by itself.
pub(super) struct Base {
    asked: Vec<Asked>,
    odds: Vec<f64>,
    texts: Vec<Vec<u32>>,
    /// Of each group of texts, log-probabilities of distinct rows.
    predicted: Vec<Predicted>,
    /// What lies below the layer of the last dose: the same for all doses there.
    below: Option<ActivationCache>,
}

impl Base {
    pub fn of(model: Model, settings: &Selection, claims: &[Claim]) -> Result<Self> {
        let recipe = model.recipe;
        let mut asked = Vec::new();
        for claim in claims.iter().take(settings.claims) {
            let question = claim_question(recipe, claim);
            let messages = Message::conversation(&recipe.prompt.system, &question.text);
            let label = |i: usize| model.chat.label_token(&messages, &recipe.prompt.labels[i]);
            asked.push(Asked {
                ids: model.chat.prompt(&messages)?,
                right: label(question.right)?,
                wrong: label(1 - question.right)?,
            });
        }
        let texts: Vec<Vec<u32>> = match settings.texts.as_slice() {
            // What follows the last token is the answer, which is meant to move.
            [] => {
                let prompts = asked.iter().take(settings.neutral);
                prompts.map(|a| a.ids[..a.ids.len() - 1].to_vec()).collect()
            }
            texts => {
                let texts = texts.iter().take(settings.neutral);
                texts.map(|t| model.chat.encode(t)).collect::<Result<_>>()?
            }
        };
        let positions: usize = texts.iter().map(Vec::len).sum();
        if asked.is_empty() || positions == 0 {
            return Err(Error::input(
                &recipe.name,
                "selection",
                "validation claims and neutral text",
                format!("{} claims and {positions} tokens of text", asked.len()),
                "give more data, or selection.texts",
            ));
        }
        let predicted = texts
            .chunks(PROMPTS)
            .map(|t| Predicted::of(model.host, t, &[], None));
        Ok(Self {
            odds: odds(model.host, &asked, &[], None)?,
            predicted: predicted.collect::<Result<_>>()?,
            below: None,
            asked,
            texts,
        })
    }

    pub fn dose(
        &mut self,
        model: Model,
        set: &DirectionSet,
        layer: usize,
        fraction: f64,
    ) -> Result<MeasuredDose> {
        let coeff = set.natural_coeff(&[layer], fraction)?;
        let steering = Intervention::new(set, &[layer], Dose::Total(coeff), Operator::Add)?;
        let steering = [steering.on(model.recipe.steering.rows.clone())];
        // Where something acts at the embeddings, nothing lies below.
        let lowest = steering.iter().map(Intervention::lowest).min().flatten();
        self.below = match lowest {
            Some(layer) => {
                let asked = self.asked.iter().map(|a| &a.ids);
                let prompts = || asked.chain(&self.texts).cloned().collect();
                let known = self.below.take();
                Some(ActivationCache::moved(
                    known, model.host, layer, None, prompts,
                )?)
            }
            None => None,
        };
        let below = self.below.as_ref();
        let steered = odds(model.host, &self.asked, &steering, below)?;
        let shifts = steered.iter().zip(&self.odds).map(|(s, b)| s - b);
        let shift = fraction.signum() * shifts.sum::<f64>() / self.odds.len() as f64;
        let (mut sum, mut rows) = (0., 0);
        for (texts, base) in self.texts.chunks(PROMPTS).zip(&self.predicted) {
            let steered = Predicted::of(model.host, texts, &steering, below)?;
            // A token of a shared prefix counts for every text.
            for (b, s) in base.at.iter().zip(&steered.at) {
                sum += divergence(&base.logs[*b], &steered.logs[*s]);
                rows += 1;
            }
        }
        Ok(MeasuredDose {
            fraction,
            coeff,
            shift,
            per_fraction: shift / fraction.abs(),
            kl: sum / rows as f64,
        })
    }
}

/// Prompts in a forest under interventions.
struct Packed {
    forest: PrefixTree,
    /// Rows of each.
    paths: Vec<Vec<u32>>,
    /// Where a forward may begin: a layer, and its rows.
    start: Option<(usize, Tensor)>,
}

impl Packed {
    fn of<P: AsRef<[u32]>>(
        prompts: &[P],
        steering: &[Intervention],
        below: Option<&ActivationCache>,
    ) -> Result<Self> {
        let mut forest = PrefixTree::new();
        let insert = |ids: &P| {
            let ids = ids.as_ref();
            forest.insert(None, ids, |i| token_mask(steering, i, ids.len()))
        };
        let paths: Vec<Vec<u32>> = prompts.iter().map(insert).collect();
        let start = match below {
            Some(trunk) => Some((trunk.layer(), trunk.rows(&forest, prompts, &paths)?)),
            None => None,
        };
        Ok(Self {
            forest,
            paths,
            start,
        })
    }

    /// Logits of `rows` (R, V).
    fn logits(
        &self,
        host: &dyn HookedModel,
        rows: &[u32],
        steering: &[Intervention],
    ) -> Result<Tensor> {
        let start = self.start.as_ref();
        let request = ForwardOptions {
            interventions: steering,
            logits: rows,
            start: start.map(|(layer, rows)| Resume {
                layer: *layer,
                rows,
            }),
            ..ForwardOptions::default()
        };
        let pass = host.forward(&self.forest, &mut KeyValueCache::none(), &request)?;
        pass.logits.ok_or_else(|| {
            reptune_adapters::Error::value(
                "logits",
                format!("those of {} rows", rows.len()),
                "none",
                "the runtime must give the logits it is asked for",
            )
            .into()
        })
    }
}

/// `log p(right) - log p(wrong)` after every prompt: the difference of two logits.
pub(super) fn odds(
    host: &dyn HookedModel,
    asked: &[Asked],
    steering: &[Intervention],
    below: Option<&ActivationCache>,
) -> Result<Vec<f64>> {
    let mut odds = Vec::new();
    for some in asked.chunks(PROMPTS) {
        let ids: Vec<&[u32]> = some.iter().map(|a| a.ids.as_slice()).collect();
        let packed = Packed::of(&ids, steering, below)?;
        let last: Vec<u32> = packed.paths.iter().map(|r| r[r.len() - 1]).collect();
        let labels = some.iter().flat_map(|a| [a.right, a.wrong]);
        let labels = Tensor::from_iter(labels, host.device())?.reshape((some.len(), 2))?;
        let found = packed.logits(host, &last, steering)?;
        let found: Vec<Vec<f32>> = found.gather(&labels, D::Minus1)?.to_vec2()?;
        odds.extend(found.iter().map(|l| f64::from(l[0]) - f64::from(l[1])));
    }
    Ok(odds)
}

/// What follows every token of some texts.
struct Predicted {
    /// Logits of distinct rows.
    logs: Vec<Vec<f32>>,
    /// For every token of every text, its row among them.
    at: Vec<usize>,
}

impl Predicted {
    fn of(
        host: &dyn HookedModel,
        texts: &[Vec<u32>],
        steering: &[Intervention],
        below: Option<&ActivationCache>,
    ) -> Result<Self> {
        let packed = Packed::of(texts, steering, below)?;
        let all: Vec<u32> = (0..packed.forest.len() as u32).collect();
        let logs = packed.logits(host, &all, steering)?.to_vec2()?;
        let at = packed
            .paths
            .concat()
            .into_iter()
            .map(|r| r as usize)
            .collect();
        Ok(Self { logs, at })
    }
}

/// `KL(p || q) = sum_v p_v (log p_v - log q_v)` of two rows of logits (V,).
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let total = |logits: &[f32]| {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|l| f64::from(l - max).exp()).sum();
        f64::from(max) + sum.ln()
    };
    let (zp, zq) = (total(p), total(q));
    let terms = p.iter().zip(q).map(|(p, q)| {
        let (p, q) = (f64::from(*p) - zp, f64::from(*q) - zq);
        p.exp() * (p - q)
    });
    terms.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_divergence_is_that_of_the_textbook() {
        // p = (3/4, 1/4), q = (1/2, 1/2): 3/4 ln(3/2) + 1/4 ln(1/2) = 0.130812
        let (p, q) = ([3f32.ln() + 5., 5.], [-2., -2.]);
        assert!((divergence(&p, &q) - 0.130_812).abs() < 1e-6);
        assert_eq!(divergence(&p, &p), 0.);
    }
}
