//! How a model scores fixed texts: log-odds of candidate responses, and KL divergence of
//! its next-token distributions. Nothing is generated and nothing is parsed.

mod choices;
mod divergence;
mod model_variant;
#[cfg(test)]
pub(crate) mod toy_variants;

pub use choices::{Choice, PackedChoices, log_odds};
pub use divergence::{ReferenceLogits, TextKind, divergence, kl_divergence};
pub use model_variant::ModelVariant;

/// `log sum_v exp(logits_v)`, summed in f64 in the order of the vocabulary.
pub(crate) fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|l| (f64::from(*l) - max).exp()).sum();
    max + sum.ln()
}
