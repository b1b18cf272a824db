//! How far changes move a model from itself where they should do nothing.

use super::changed::{Changed, batches, log_sum_exp};
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// Rows of one forward; all their logits are kept, twice.
const ROWS: usize = 512;

/// Divergence of a changed model from its base.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Divergence {
    /// Rows, over all texts.
    pub rows: usize,
    /// Mean over rows, in nats.
    pub mean: f64,
}

/// Divergence of the next-token distributions of `model` from those of its base, at
/// every row of the same texts.
///
/// `1/N sum_n sum_v p_n(v) (log p_n(v) - log q_n(v))`, p of the base, q of `model`
///
/// `progress` is called after each forward with the number of texts done.
///
/// # Errors
/// When a text is empty or longer than the context.
pub fn divergence(
    model: &Changed,
    texts: &[Vec<u32>],
    progress: &mut dyn FnMut(usize),
) -> Result<Divergence> {
    divergence_from(&Changed::base(model.host), model, texts, progress)
}

/// The same, from `base`, which may be another model of the same vocabulary.
///
/// # Errors
/// When a text is empty or longer than the context.
pub fn divergence_from(
    base: &Changed,
    model: &Changed,
    texts: &[Vec<u32>],
    progress: &mut dyn FnMut(usize),
) -> Result<Divergence> {
    let (mut sum, mut rows) = (0., 0);
    for batch in batches(texts.iter().map(Vec::len), ROWS) {
        let done = batch.end;
        let ids: Vec<&[u32]> = texts[batch].iter().map(Vec::as_slice).collect();
        let all: Vec<_> = ids.iter().map(|t| 0..t.len()).collect();
        let (p, q) = (base.logits(&ids, &all)?, model.logits(&ids, &all)?);
        for (text, range) in all.into_iter().enumerate() {
            for row in range {
                sum += kl(p.row(text, row), q.row(text, row));
                rows += 1;
            }
        }
        progress(done);
    }
    Ok(Divergence {
        rows,
        mean: sum / rows.max(1) as f64,
    })
}

/// `sum_v p(v) (log p(v) - log q(v))` of logits p and q. Shapes: both (V,).
fn kl(p: &[f32], q: &[f32]) -> f64 {
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
mod tests {
    use super::super::changed::toy_changes::{adapter, next, steering, text};
    use super::*;
    use crate::toy::tiny;

    /// `scipy.special.rel_entr(softmax([1, 2, 3]), softmax([3, 2, 0.5])).sum()`
    #[test]
    fn divergence_of_two_rows_is_that_of_scipy() {
        let got = kl(&[1., 2., 3.], &[3., 2., 0.5]);
        assert!((got - 1.446974310504596).abs() < 1e-12, "{got}");
        assert_eq!(kl(&[0., f32::NEG_INFINITY], &[0., 0.]), 2f64.ln());
    }

    #[test]
    fn divergence_is_the_mean_over_all_rows_of_all_texts() {
        let toy = tiny();
        let (steering, update) = (steering(), adapter());
        let base = Changed::base(&toy);
        let changed = Changed {
            interventions: &steering,
            adapter: Some(&update),
            ..base
        };
        let mut texts: Vec<Vec<u32>> = (0..9).map(|seed| text(60 + seed, seed)).collect();
        texts.push(texts[0].clone());
        let mut calls = 0;
        let got = divergence(&changed, &texts, &mut |_| calls += 1).expect("a divergence");
        let (mut sum, mut rows) = (0., 0);
        for ids in &texts {
            for t in 1..=ids.len() {
                let (p, q) = (next(&base, &ids[..t]), next(&changed, &ids[..t]));
                sum += p
                    .iter()
                    .zip(&q)
                    .map(|(p, q)| p.exp() * (p - q))
                    .sum::<f64>();
                rows += 1;
            }
        }
        assert_eq!(got.rows, rows);
        let mean = sum / f64::from(rows as u32);
        assert!((got.mean - mean).abs() < 1e-5, "{} {mean}", got.mean);
        assert!(got.mean > 1e-3 && calls > 1, "{} {calls}", got.mean);
    }

    #[test]
    fn the_base_does_not_diverge_from_itself() {
        let toy = tiny();
        let got = divergence(&Changed::base(&toy), &[text(20, 1)], &mut |_| ());
        assert_eq!(
            got.expect("a divergence"),
            Divergence { rows: 20, mean: 0. }
        );
    }
}
