//! Whether an intervention does anything.
//!
//! Positions that choose no token, a gate that never opens, a layer counted from 1: each
//! leaves a run that looks like any other. The check compares the model with and without
//! the intervention on a few prompts in the same prefix tree, so that without an effect
//! both are equal to the bit.

use crate::error::{Error, Result};
use crate::generate::{Generation, generate};
use crate::open_gates::open_gates;
use crate::score::kl_divergence;
use candle_core::DType;
use reptune_adapters::steering::intervention::token_mask_gated;
use reptune_adapters::{
    Adapter, ForwardOptions, HookedModel, Intervention, KeyValueCache, PrefixTree,
};
use std::collections::BTreeSet;

/// A shift of logits no larger than this is none: it is the rounding of a forward.
const NOTHING: f64 = 1e-5;

/// What an intervention does to some prompts.
#[derive(Debug, Clone, PartialEq)]
pub struct EffectCheck {
    /// The intervention in words.
    what: String,
    /// Tokens that the positions chose and a gate that decides once let through; a gate
    /// that decides at every token may let through fewer.
    pub rows: usize,
    /// Next-token distributions that were compared.
    pub readings: usize,
    /// Mean over them of KL(before || after), in nats.
    pub kl: f64,
    /// Largest absolute change of a logit.
    pub shift: f64,
}

/// Compares the model with and without `intervention` on `prompts`, each followed by
/// the `tokens` tokens that the model without it would generate (so that positions of
/// generated tokens choose some). Distributions are read at the last prompt token and at
/// every token after it.
///
/// `kl = mean_r sum_v p_r(v) (ln p_r(v) - ln q_r(v))`, p without and q with it.
///
/// All prompts are one batch: a handful is enough.
///
/// # Errors
/// When there is no prompt, one is empty, or the model fails.
pub fn check_effect(
    model: &dyn HookedModel,
    intervention: &Intervention,
    prompts: &[Vec<u32>],
    adapter: Option<&Adapter>,
    tokens: usize,
) -> Result<EffectCheck> {
    if prompts.is_empty() {
        let hint = "give a few prompts of the kind that will be steered";
        return Err(Error::value("prompts", "at least one", "none", hint));
    }
    let how = Generation {
        adapter,
        max_new_tokens: tokens,
        ..Generation::default()
    };
    let generated = generate(model, prompts, &how, &mut |_| {})?;
    let interventions = std::slice::from_ref(intervention);
    let open = open_gates(model, prompts, interventions, adapter)?;
    let mut tree = PrefixTree::new();
    let mut read = BTreeSet::new();
    for ((prompt, generated), open) in prompts.iter().zip(&generated).zip(open) {
        let ids = [prompt.as_slice(), generated].concat();
        let mask = |i| token_mask_gated(interventions, open, i, prompt.len());
        let rows = tree.insert(None, &ids, mask);
        read.extend(rows.iter().skip(prompt.len().saturating_sub(1)));
    }
    let read: Vec<u32> = read.into_iter().collect();
    let rows = tree.masked(0, 0..tree.len());
    let run = |interventions| -> Result<Vec<Vec<f32>>> {
        let options = ForwardOptions {
            interventions,
            logits: &read,
            adapter,
            ..ForwardOptions::default()
        };
        let output = model.forward(&tree, &mut KeyValueCache::none(), &options)?;
        let logits = output.into_logits()?.detach();
        Ok(logits.to_dtype(DType::F32)?.to_vec2()?)
    };
    let (before, after) = (run(&[])?, run(interventions)?);
    let pairs = || before.iter().zip(&after);
    let kls: Vec<f64> = pairs().map(|(p, q)| kl_divergence(p, q)).collect();
    let shifts = pairs().flat_map(|(p, q)| p.iter().zip(q).map(|(p, q)| f64::from((p - q).abs())));
    let point = intervention.point();
    let modules = intervention
        .layers()
        .map(|layer| format!("layer {layer} {point}"));
    let modules = modules.collect::<Vec<_>>().join(", ");
    let (operator, rule) = (intervention.operator(), intervention.rows());
    Ok(EffectCheck {
        what: format!("{operator} on positions `{rule}` at {modules}"),
        rows: rows.len(),
        readings: kls.len(),
        kl: kls.iter().sum::<f64>() / kls.len().max(1) as f64,
        shift: shifts.fold(0., f64::max),
    })
}

impl EffectCheck {
    /// Whether the next-token logits moved.
    pub fn any(&self) -> bool {
        // A shift that is not a number is no absence of one.
        self.shift.is_nan() || self.shift > NOTHING || self.kl.is_nan()
    }

    /// Hands the effect back if there is one.
    ///
    /// # Errors
    /// When there is none: names the modules and what to look at.
    pub fn require(self) -> Result<Self> {
        if self.any() {
            return Ok(self);
        }
        let hint = match self.rows {
            0 => "the positions choose no token of these prompts, or the gate stayed shut",
            _ => {
                "the coeff may be zero or tiny, or the gate shut at every token; allow it if that is meant"
            }
        };
        let (shift, readings, rows) = (self.shift, self.readings, self.rows);
        let expected = format!("next-token logits that shift by more than {NOTHING}");
        let found = format!(
            "a largest shift of {shift} over {readings} distributions, {rows} tokens acted on"
        );
        Err(Error::value(self.what, expected, found, hint))
    }
}
