//! How far the rows that a tuning looks at point along the direction.

use super::changed::{Changed, batches};
use crate::error::Result;
use candle_core::{DType, Tensor};
use reptune_adapters::steering::intervention::token_mask;
use reptune_adapters::{DirectionSet, ForwardOptions, KeyValueCache, PrefixTree};

/// Rows of one forward.
const ROWS: usize = 2048;

/// Mean cosine of residual rows and the direction of their layer, over `layers`,
/// `offsets` (rows counted back from the last of a prompt) and `prompts`.
///
/// `mean of (h . d) / |h|`
///
/// # Errors
/// When a direction is missing, or a prompt is shorter than an offset or does not fit.
pub fn alignment(
    model: &Changed,
    prompts: &[Vec<u32>],
    directions: &DirectionSet,
    (layers, offsets): (&[usize], &[usize]),
) -> Result<f64> {
    let (mut sum, mut count) = (0., 0usize);
    for batch in batches(prompts.iter().map(Vec::len), ROWS) {
        let mut forest = PrefixTree::new();
        let mut rows = Vec::new();
        for ids in &prompts[batch] {
            let all = forest.insert(None, ids, |p| token_mask(model.interventions, p, ids.len()));
            for offset in offsets {
                match all.len().checked_sub(1 + offset) {
                    Some(at) => rows.push(all[at]),
                    None => {
                        let found = format!("{} tokens", all.len());
                        return Err(reptune_adapters::Error::value(
                            "offset",
                            format!("a prompt of more than {offset} tokens"),
                            found,
                            "choose a smaller offset",
                        )
                        .into());
                    }
                }
            }
        }
        let request = ForwardOptions {
            interventions: model.interventions,
            capture: layers,
            adapter: model.adapter,
            ..ForwardOptions::default()
        };
        let pass = model
            .host
            .forward(&forest, &mut KeyValueCache::none(), &request)?;
        let rows = Tensor::new(rows.as_slice(), model.host.device())?;
        for layer in layers {
            let d = &directions.layer(*layer)?.unit;
            let h = pass.residuals[layer].index_select(&rows, 0)?.detach();
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
mod tests {
    use super::super::changed::toy_changes::{steering, text};
    use super::*;
    use crate::toy::tiny;
    use reptune_adapters::steering::direction::{Direction, Provenance};
    use std::collections::BTreeMap;

    #[test]
    fn it_is_the_mean_cosine_and_steering_along_the_direction_raises_it() {
        let (toy, steering) = (tiny(), steering());
        let d = steering[0].direction(1).expect("layer 1").to_vec1::<f32>();
        let d: Vec<f64> = d.expect("numbers").into_iter().map(f64::from).collect();
        let set = DirectionSet {
            layers: BTreeMap::from([(1, Direction::new(&d).expect("a direction"))]),
            provenance: Provenance::default(),
        };
        let prompts: Vec<Vec<u32>> = (0..60).map(|i| text(40 + i, i)).collect();
        let base = Changed::base(&toy);
        let steered = Changed {
            interventions: &steering,
            ..base
        };
        let of = |m: &Changed, p: &[Vec<u32>]| alignment(m, p, &set, (&[1], &[0, 2]));
        let (before, after) = (of(&base, &prompts), of(&steered, &prompts));
        let (before, after) = (before.expect("a mean"), after.expect("a mean"));
        assert!(after > before + 0.1, "{before} {after}");
        let alone: f64 = prompts
            .chunks(1)
            .map(|p| of(&base, p).expect("a mean"))
            .sum();
        assert!((before - alone / 60.).abs() < 1e-5, "{before} {alone}");
        let short = alignment(&base, &[vec![1, 2]], &set, (&[1], &[2])).expect_err("too short");
        assert!(short.to_string().contains("more than 2 tokens"), "{short}");
    }
}
