//! How well a model still writes: perplexity of a text.

use crate::error::{Error, Result};
use crate::score::{ModelVariant, log_sum_exp};
use reptune_adapters::ModelSpec;

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

/// Loss of `ids` (T,), in nats: every token but the first is scored once, in the
/// earliest window that holds it, which is the one with the longest context.
///
/// `-1/(T-1) sum_t log p(ids_t | window before t)`
///
/// For positions all tokens of `ids` but the first are generated ones, as if the model had written
/// the text. Refuses texts of fewer than two tokens, and windows that do not fit the model.
fn loss(variant: &ModelVariant, ids: &[u32], windows: Windows) -> Result<f64> {
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
        let batch = variant.pack(&[window], |_, at| variant.mask(begin + at, 1))?;
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
    Ok(sum / (tokens - 1) as f64)
}

/// Perplexity over several texts, each a sequence of its own: `exp` of the mean loss over all
/// their tokens but the first ones.
///
/// # Errors
/// When a text has fewer than two tokens, `variant` steers none that predicts another, or the
/// model fails.
pub fn perplexity(variant: &ModelVariant, texts: &[Vec<u32>]) -> Result<f64> {
    let predicting = texts.iter().map(|ids| (ids.len().saturating_sub(1), 1));
    variant.check_steered("perplexity of texts", predicting)?;
    let windows = Windows::of(variant.model.spec());
    let (mut sum, mut tokens) = (0., 0);
    for ids in texts {
        let scored = ids.len().saturating_sub(1);
        sum += loss(variant, ids, windows)? * scored as f64;
        tokens += scored;
    }
    let mean: f64 = sum / tokens.max(1) as f64;
    Ok(mean.exp())
}

#[cfg(test)]
mod tests;
