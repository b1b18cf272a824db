//! How far the tokens that a tuning looks at point along the direction.

use crate::batch::{CACHED_PER_FORWARD, Most, batches};
use crate::error::{Error, Result};
use crate::score::ModelVariant;
use candle_core::{DType, Tensor};
use reptune_adapters::steering::intervention::token_mask;
use reptune_adapters::{DirectionSet, ForwardOptions};

/// Mean cosine of residual rows and the direction of their layer, over `layers`,
/// `offsets` (tokens counted back from the last of a prompt) and `prompts`.
///
/// `mean of (h . d) / |h|`
///
/// # Errors
/// When a direction is missing, or a prompt is shorter than an offset or does not fit.
pub fn alignment(
    variant: &ModelVariant,
    prompts: &[Vec<u32>],
    directions: &DirectionSet,
    (layers, offsets): (&[usize], &[usize]),
) -> Result<f64> {
    let (mut sum, mut count) = (0., 0usize);
    let mask = |i: usize, position| token_mask(variant.interventions, position, prompts[i].len());
    for batch in batches(prompts, Most::Total(CACHED_PER_FORWARD), mask) {
        let mut tokens = Vec::new();
        for path in &batch.paths {
            for offset in offsets {
                let Some(at) = path.len().checked_sub(1 + offset) else {
                    let expected = format!("a prompt of more than {offset} tokens");
                    let (found, hint) = (path.len(), "choose a smaller offset");
                    let found = format!("{found} tokens");
                    return Err(Error::value("offset", expected, found, hint));
                };
                tokens.push(path[at]);
            }
        }
        let options = ForwardOptions {
            interventions: variant.interventions,
            capture: layers,
            adapter: variant.adapter,
            ..ForwardOptions::default()
        };
        let output = batch.forward(variant.model, &options)?;
        let tokens = Tensor::new(tokens, variant.model.device())?;
        for layer in layers {
            let d = &directions.layer(*layer)?.unit;
            let h = output.residuals[layer].index_select(&tokens, 0)?.detach();
            let h: Vec<Vec<f32>> = h.to_dtype(DType::F32)?.to_vec2()?;
            for h in h {
                let dot: f64 = h.iter().zip(d).map(|(x, y)| f64::from(x * y)).sum();
                let norm = h.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
                sum += dot / norm.max(f64::MIN_POSITIVE);
                count += 1;
            }
        }
    }
    Ok(sum / count.max(1) as f64)
}

#[cfg(test)]
mod tests;
