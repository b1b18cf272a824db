//! Capturing once: the rows of all pairs, at all layers and places.

use super::contrast::Contrast;
use super::pairs::{Pair, Side};
use crate::chat::Chat;
use crate::data::Claim;
use crate::error::{Error, Result};
use crate::recipe::{Keep, Place, Recipe};
use candle_core::{D, DType, Tensor};
use reptune_adapters::{CaptureTokens, ForwardOptions, HookedModel, KeyValueCache, PrefixTree};

/// Pairs whose prompts are packed into one forest.
const PAIRS: usize = 16;

/// Residual rows of contrast pairs (f32), at every layer and some places.
///
/// Holds `2 P * places * L * H` numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Captured {
    places: Vec<Place>,
    layers: usize,
    /// By place, then by layer.
    contrasts: Vec<Contrast>,
    letters: Vec<[usize; 2]>,
    asked: usize,
}

impl Captured {
    /// Runs the pairs that `recipe` makes of `claims` and keeps their rows; with
    /// `keep = "correct"` only those of pairs that the model answers as both
    /// personas ask. `progress` is called with the number of pairs done and of all.
    ///
    /// # Errors
    /// When a prompt is shorter than an offset, or no pair is left by the
    /// correct-only filter.
    pub fn of(
        host: &dyn HookedModel,
        chat: &Chat,
        recipe: &Recipe,
        claims: &[Claim],
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self> {
        let pairs = Pair::all(chat, recipe, claims)?;
        let layers: Vec<usize> = (0..host.spec().layers).collect();
        let places = recipe.extraction.places();
        let mut contrasts = vec![Contrast::empty(host.spec().hidden); places.len() * layers.len()];
        let mut letters = Vec::new();
        let mut done = 0;
        for some in pairs.chunks(PAIRS) {
            let sides: Vec<&Side> = some
                .iter()
                .flat_map(|p| [&p.positive, &p.negative])
                .collect();
            let prompts: Vec<&[u32]> = sides.iter().map(|s| s.ids.as_slice()).collect();
            let (forest, rows) = PrefixTree::pack(&prompts);
            let asked: Vec<u32> = sides
                .iter()
                .zip(&rows)
                .map(|(s, r)| r[s.answer - 1])
                .collect();
            // Every row that some place reads, once.
            let mut read: Vec<u32> = (sides.iter().zip(&rows))
                .flat_map(|(s, r)| s.captured.iter().flatten().map(|t| r[*t]))
                .collect();
            read.sort_unstable();
            read.dedup();
            let request = ForwardOptions {
                capture: &layers,
                captured: CaptureTokens::Only(&read),
                logits: match recipe.extraction.keep {
                    Keep::Correct => &asked,
                    Keep::All => &[],
                },
                ..ForwardOptions::default()
            };
            let pass = host.forward(&forest, &mut KeyValueCache::none(), &request)?;
            let answers: Vec<u32> = match (recipe.extraction.keep, &pass.logits) {
                (Keep::Correct, Some(logits)) => logits.argmax(D::Minus1)?.to_vec1()?,
                _ => sides.iter().map(|s| s.ids[s.answer]).collect(),
            };
            let correct = |j: usize| answers[j] == sides[j].ids[sides[j].answer];
            let kept: Vec<usize> = (0..some.len())
                .filter(|i| correct(2 * i) && correct(2 * i + 1))
                .collect();
            letters.extend(
                kept.iter()
                    .map(|i| [2 * i, 2 * i + 1].map(|j| sides[j].letter)),
            );
            for (place, _) in places.iter().enumerate() {
                let wanted: Vec<Vec<u32>> = kept
                    .iter()
                    .flat_map(|i| [2 * i, 2 * i + 1])
                    .map(|j| {
                        sides[j].captured[place]
                            .iter()
                            .map(|t| read.partition_point(|r| *r < rows[j][*t]) as u32)
                            .collect()
                    })
                    .collect();
                if wanted.is_empty() {
                    continue;
                }
                let index = Tensor::new(wanted.concat(), host.device())?;
                for layer in &layers {
                    let rows = pass.residuals[layer].index_select(&index, 0)?;
                    let rows: Vec<Vec<f32>> = rows.to_dtype(DType::F32)?.to_vec2()?;
                    let mut rows = rows.as_slice();
                    let mut next = wanted.iter().map(|w| {
                        let (these, rest) = rows.split_at(w.len());
                        rows = rest;
                        mean(these)
                    });
                    let contrast = &mut contrasts[place * layers.len() + layer];
                    while let (Some(positive), Some(negative)) = (next.next(), next.next()) {
                        contrast.push(&positive, &negative);
                    }
                }
            }
            done += some.len();
            progress(done, pairs.len());
        }
        if letters.is_empty() {
            return Err(Error::input(
                &recipe.name,
                "extraction.keep",
                "at least one pair that the model answers as both personas ask",
                format!("none of {}", pairs.len()),
                "word the personas differently, or set `keep = \"all\"`",
            ));
        }
        Ok(Self {
            places,
            layers: layers.len(),
            contrasts,
            letters,
            asked: pairs.len(),
        })
    }

    /// The places.
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// Number of layers, L.
    pub fn layers(&self) -> usize {
        self.layers
    }

    /// Number of pairs kept, P.
    pub fn pairs(&self) -> usize {
        self.letters.len()
    }

    /// Number of pairs before the correct-only filter.
    pub fn asked(&self) -> usize {
        self.asked
    }

    /// For every pair, which label the positive and the negative prompt end in: 0 or 1.
    pub fn letters(&self) -> &[[usize; 2]] {
        &self.letters
    }

    /// The rows at the `place`-th place and `layer`.
    ///
    /// # Errors
    /// When there is no such place or layer.
    pub fn contrast(&self, place: usize, layer: usize) -> Result<&Contrast> {
        if place >= self.places.len() || layer >= self.layers {
            return Err(reptune_adapters::Error::value(
                "captured rows",
                format!(
                    "a place below {} and a layer below {}",
                    self.places.len(),
                    self.layers
                ),
                format!("place {place}, layer {layer}"),
                "capture them, or ask for others",
            )
            .into());
        }
        Ok(&self.contrasts[place * self.layers + layer])
    }
}

/// The mean of some rows; a single row as it is.
fn mean(rows: &[Vec<f32>]) -> Vec<f32> {
    if let [row] = rows {
        return row.clone();
    }
    let mut sums = vec![0f64; rows.first().map_or(0, Vec::len)];
    for row in rows {
        sums.iter_mut()
            .zip(row)
            .for_each(|(s, x)| *s += f64::from(*x));
    }
    sums.into_iter()
        .map(|s| (s / rows.len() as f64) as f32)
        .collect()
}
