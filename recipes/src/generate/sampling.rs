//! How the next token is chosen.

use crate::error::Result;
use candle_core::Tensor;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use reptune_adapters::Error;

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Sampling {
    /// The likeliest; of equals the first.
    #[default]
    Greedy,
    /// At random from `softmax(logits / temperature)`.
    Temperature {
        /// Above 0.
        temperature: f64,
        /// Prompt i draws from a stream of its own, seeded by this and i.
        seed: u64,
    },
}

impl Sampling {
    /// The temperature, if there is one.
    pub(super) fn temperature(self) -> Result<Option<f64>> {
        match self {
            Self::Greedy => Ok(None),
            Self::Temperature { temperature, .. }
                if temperature > 0. && temperature.is_finite() =>
            {
                Ok(Some(temperature))
            }
            Self::Temperature { temperature, .. } => Err(Error::value(
                "temperature",
                "a positive number",
                temperature.to_string(),
                "leave it out for greedy decoding",
            )
            .into()),
        }
    }

    /// The random numbers of the prompt with this index.
    pub(super) fn stream(self, index: usize) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(match self {
            Self::Greedy => 0,
            Self::Temperature { seed, .. } => seed,
        });
        rng.set_stream(index as u64);
        rng
    }
}

/// A token drawn from `softmax(logits / temperature)`. Shapes: `logits` (V,).
pub(super) fn draw(logits: &Tensor, temperature: f64, rng: &mut ChaCha8Rng) -> Result<u32> {
    let logits: Vec<f32> = logits.to_vec1()?;
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f64> = logits
        .iter()
        .map(|l| (f64::from(l - max) / temperature).exp())
        .collect();
    let mut left = rng.random::<f64>() * weights.iter().sum::<f64>();
    for (token, weight) in weights.iter().enumerate() {
        left -= weight;
        if left < 0. {
            return Ok(token as u32);
        }
    }
    Ok(weights.len() as u32 - 1)
}
