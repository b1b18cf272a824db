//! How well a model still writes: perplexity of a text.

use super::changed::{Changed, log_sum_exp};
use crate::error::{Error, Result};
use reptune_adapters::ModelSpec;
use serde::{Deserialize, Serialize};

/// Windows over a text that is longer than the context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Windows {
    /// Tokens of a window.
    pub length: usize,
    /// Tokens from the start of one to the start of the next; below `length`.
    pub stride: usize,
}

impl Windows {
    /// Windows of 1024 with stride 512; in a smaller context, of the context with
    /// half of it as stride.
    pub fn of(spec: &ModelSpec) -> Self {
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

/// Perplexity of `ids` (T,): every token but the first is scored once, in the
/// earliest window that holds it, which is the one with the longest context.
///
/// `exp(-1/(T-1) sum_t log p(ids_t | window before t))`
///
/// For row rules a window is a prompt throughout. `progress` is called after each
/// window with the number of tokens scored.
///
/// # Errors
/// When the text has fewer than two tokens, or the windows do not fit the model.
pub fn perplexity(
    model: &Changed,
    ids: &[u32],
    windows: Windows,
    progress: &mut dyn FnMut(usize),
) -> Result<Perplexity> {
    let Windows { length, stride } = windows;
    let context = model.host.spec().context;
    let wrong = |what: &str, expected: String, found: usize, hint: &str| {
        Err(Error::Adapters(reptune_adapters::Error::value(
            what,
            expected,
            found.to_string(),
            hint,
        )))
    };
    if length < 2 || length > context {
        let expected = format!("2 to {context}, the model's context");
        return wrong("length of windows", expected, length, "1024 is usual");
    }
    if stride == 0 || stride >= length {
        let expected = format!("1 to {}", length - 1);
        return wrong(
            "stride of windows",
            expected,
            stride,
            "half a window is usual",
        );
    }
    if ids.len() < 2 {
        let expected = "at least two tokens".to_owned();
        return wrong(
            "text for perplexity",
            expected,
            ids.len(),
            "give a longer text",
        );
    }
    let (mut sum, mut scored, mut begin) = (0., 1, 0);
    while scored < ids.len() {
        let end = ids.len().min(begin + length);
        let window = &ids[begin..end];
        // The row before a token predicts it.
        let rows = scored - begin - 1..end - begin - 1;
        let logits = model.logits(&[window], std::slice::from_ref(&rows))?;
        for (i, row) in rows.enumerate() {
            let row_logits = logits.row(0, i);
            let target = f64::from(row_logits[window[row + 1] as usize]);
            sum += log_sum_exp(row_logits) - target;
        }
        scored = end;
        begin += stride;
        progress(scored - 1);
    }
    let tokens = ids.len() - 1;
    let loss = sum / tokens as f64;
    Ok(Perplexity {
        tokens,
        loss,
        perplexity: loss.exp(),
    })
}

/// Perplexity over several texts, each a sequence of its own: the mean is over all
/// their scored tokens.
///
/// # Errors
/// As [`perplexity`].
pub fn pooled(model: &Changed, texts: &[Vec<u32>], windows: Windows) -> Result<Perplexity> {
    let (mut sum, mut tokens) = (0., 0);
    for ids in texts {
        let one = perplexity(model, ids, windows, &mut |_| {})?;
        sum += one.loss * one.tokens as f64;
        tokens += one.tokens;
    }
    let loss = sum / tokens.max(1) as f64;
    Ok(Perplexity {
        tokens,
        loss,
        perplexity: loss.exp(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::changed::toy_changes::{adapter, next, steering, text};
    use super::*;
    use crate::toy::tiny;

    const SHORT: Windows = Windows {
        length: 16,
        stride: 6,
    };

    #[test]
    fn perplexity_is_that_of_a_loop_over_tokens_under_every_change() {
        let toy = tiny();
        let (steering, update) = (steering(), adapter());
        let base = Changed::base(&toy);
        let both = Changed {
            interventions: &steering,
            adapter: Some(&update),
            ..base
        };
        let ids = text(45, 3);
        let mut values = Vec::new();
        for model in [base, both] {
            let mut sum = 0.;
            for t in 1..ids.len() {
                let begin = (0..).step_by(SHORT.stride).find(|b| t < b + SHORT.length);
                let begin = begin.expect("a window");
                sum -= next(&model, &ids[begin..t])[ids[t] as usize];
            }
            let got = perplexity(&model, &ids, SHORT, &mut |_| ()).expect("a perplexity");
            let loss = sum / 44.;
            assert_eq!(got.tokens, 44);
            assert!((got.loss - loss).abs() < 1e-5, "{} {loss}", got.loss);
            assert_eq!(got.perplexity, got.loss.exp());
            values.push(got.loss);
        }
        assert!((values[0] - values[1]).abs() > 1e-3, "{values:?}");
    }

    #[test]
    fn a_window_longer_than_the_text_gives_the_plain_value() {
        let toy = tiny();
        let base = Changed::base(&toy);
        let ids = text(30, 8);
        let plain: f64 = (1..30)
            .map(|t| -next(&base, &ids[..t])[ids[t] as usize])
            .sum();
        for (length, stride) in [(30, 1), (30, 29), (31, 7), (128, 64)] {
            let windows = Windows { length, stride };
            let mut calls = 0;
            let got = perplexity(&base, &ids, windows, &mut |_| calls += 1);
            let got = got.expect("a perplexity");
            assert!((got.loss - plain / 29.).abs() < 1e-5);
            assert_eq!(calls, 1);
        }
    }

    #[test]
    fn windows_follow_the_context() {
        let mut spec = reptune_adapters::HookedModel::spec(&tiny()).clone();
        let mut windows = |context| {
            spec.context = context;
            let w = Windows::of(&spec);
            (w.length, w.stride)
        };
        assert_eq!(windows(128), (128, 64));
        assert_eq!(windows(1024), (1024, 512));
        assert_eq!(windows(4096), (1024, 512));
    }

    #[test]
    fn windows_that_cannot_be_are_refused() {
        let toy = tiny();
        let refused = |length, stride, tokens| {
            let windows = Windows { length, stride };
            let got = perplexity(&Changed::base(&toy), &text(tokens, 0), windows, &mut |_| ());
            got.expect_err("what cannot be").to_string()
        };
        assert!(refused(129, 64, 9).starts_with("length of windows: expected 2 to 128"));
        assert!(refused(16, 16, 9).starts_with("stride of windows: expected 1 to 15"));
        assert!(refused(16, 0, 9).contains("found 0"));
        assert!(refused(16, 8, 1).starts_with("text for perplexity: expected at least two"));
    }
}
