//! How well a model still writes: perplexity of a text.

use crate::error::{Error, Result};
use crate::score::{ModelVariant, log_sum_exp};
use reptune_adapters::ModelSpec;
use serde::{Deserialize, Serialize};

/// Windows over a text that is longer than the context.
#[derive(Clone, Copy)]
struct Windows {
    length: usize,
    /// Tokens from the start of one to the start of the next; below `length`.
    stride: usize,
}

impl Windows {
    /// Windows of 1024 with stride 512; in a smaller context, of the context with
    /// half of it as stride.
    fn of(spec: &ModelSpec) -> Self {
        let length = spec.context.min(1024);
        Self {
            length,
            stride: (length / 2).clamp(1, 512),
        }
    }
}

/// Perplexity of a text.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Perplexity {
    /// Tokens that were scored: all but the first.
    pub tokens: usize,
    /// Mean of `-log p(token)`, in nats.
    pub loss: f64,
    /// `exp(loss)`
    pub perplexity: f64,
}

impl Perplexity {
    /// Of a sum of losses over `tokens`.
    fn of(sum: f64, tokens: usize) -> Self {
        let loss = sum / tokens.max(1) as f64;
        let perplexity = loss.exp();
        Self {
            tokens,
            loss,
            perplexity,
        }
    }
}

/// Perplexity of `ids` (T,): every token but the first is scored once, in the
/// earliest window that holds it, which is the one with the longest context.
///
/// `exp(-1/(T-1) sum_t log p(ids_t | window before t))`
///
/// For positions a window is a prompt throughout. Refuses texts of fewer than two tokens, and
/// windows that do not fit the model.
fn perplexity(variant: &ModelVariant, ids: &[u32], windows: Windows) -> Result<Perplexity> {
    let Windows { length, stride } = windows;
    let context = variant.model.spec().context;
    let wrong = |what: &str, expected: String, found: usize, hint: &str| {
        Err(Error::value(what, expected, found.to_string(), hint))
    };
    if length < 2 || length > context {
        let expected = format!("2 to {context}, the model's context");
        return wrong("length of windows", expected, length, "1024 is usual");
    }
    if stride == 0 || stride >= length {
        let (expected, hint) = (format!("1 to {}", length - 1), "half a window is usual");
        return wrong("stride of windows", expected, stride, hint);
    }
    let tokens = ids.len();
    if tokens < 2 {
        let (expected, hint) = ("at least two tokens".to_owned(), "give a longer text");
        return wrong("text for perplexity", expected, tokens, hint);
    }
    let (mut sum, mut scored, mut begin) = (0., 1, 0);
    while scored < ids.len() {
        let end = ids.len().min(begin + length);
        let window = &ids[begin..end];
        let batch = variant.pack(&[window])?;
        // A token is predicted by the one before it.
        let predicting = &batch.paths[0][scored - begin - 1..end - begin - 1];
        let logits = variant.logits((&batch, &[window]), predicting.to_vec(), None)?;
        for (token, target) in predicting.iter().zip(&window[scored - begin..]) {
            let logits = logits.of(*token);
            sum += log_sum_exp(logits) - f64::from(logits[*target as usize]);
        }
        scored = end;
        begin += stride;
    }
    Ok(Perplexity::of(sum, tokens - 1))
}

/// Perplexity over several texts, each a sequence of its own: the mean is over all
/// their scored tokens.
///
/// # Errors
/// When a text has fewer than two tokens, or the model fails.
pub fn pooled(variant: &ModelVariant, texts: &[Vec<u32>]) -> Result<Perplexity> {
    let windows = Windows::of(variant.model.spec());
    let (mut sum, mut tokens) = (0., 0);
    for ids in texts {
        let one = perplexity(variant, ids, windows)?;
        sum += one.loss * one.tokens as f64;
        tokens += one.tokens;
    }
    Ok(Perplexity::of(sum, tokens))
}

#[cfg(test)]
mod tests;
