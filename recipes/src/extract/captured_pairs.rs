//! Running contrast pairs: their residual rows, at all layers and positions.

use super::contrast::Contrast;
use super::pairs::{Pair, Side};
use crate::chat::Chat;
use crate::data::Claim;
use crate::error::{Error, Result};
use crate::recipe::{PairFilter, Recipe};
use candle_core::{D, DType, Tensor};
use reptune_adapters::{
    CaptureTokens, ForwardOptions, HookedModel, KeyValueCache, Positions, PrefixTree,
};

/// Pairs whose prompts are packed into one prefix tree.
const PAIRS: usize = 16;

/// The rows of one pair at one position and layer.
pub(super) struct PairRows<'a> {
    /// Index of the position among those of the recipe.
    pub position: usize,
    pub layer: usize,
    /// (H,)
    pub positive: &'a [f32],
    /// (H,)
    pub negative: &'a [f32],
}

/// The pairs that were run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pairs {
    /// Of every pair that was kept, which answer token the positive and the negative prompt
    /// end in: 0 or 1.
    pub answers: Vec<[usize; 2]>,
    /// Number of pairs before the correct-only filter.
    pub asked: usize,
}

/// Runs the pairs that `recipe` makes of `claims` and hands their rows to `take`, pair by
/// pair for every position and layer; with `keep = "correct"` only those of pairs that the
/// model answers as both personas ask. `progress` is called with the number of pairs done
/// and of all.
pub(super) fn run_pairs(
    host: &dyn HookedModel,
    chat: &Chat,
    recipe: &Recipe,
    claims: &[Claim],
    take: &mut dyn FnMut(PairRows),
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Pairs> {
    let pairs = Pair::all(chat, recipe, claims)?;
    let layers: Vec<usize> = (0..host.spec().layers).collect();
    let positions = recipe.extraction.each_position().len();
    let keep = recipe.extraction.keep;
    let mut ran = Pairs {
        answers: Vec::new(),
        asked: pairs.len(),
    };
    let mut done = 0;
    for some in pairs.chunks(PAIRS) {
        let sides: Vec<&Side> = some
            .iter()
            .flat_map(|p| [&p.positive, &p.negative])
            .collect();
        let prompts: Vec<&[u32]> = sides.iter().map(|s| s.ids.as_slice()).collect();
        let (tree, rows) = PrefixTree::pack(&prompts);
        let ends = sides.iter().zip(&rows);
        let ends: Vec<u32> = ends.map(|(s, r)| r[s.end - 1]).collect();
        // Every row that some position reads, once.
        let mut read: Vec<u32> = (sides.iter().zip(&rows))
            .flat_map(|(s, r)| s.captured.iter().flatten().map(|t| r[*t]))
            .collect();
        read.sort_unstable();
        read.dedup();
        let request = ForwardOptions {
            capture: &layers,
            captured: CaptureTokens::Only(&read),
            logits: match keep {
                PairFilter::Correct => &ends,
                PairFilter::All => &[],
            },
            ..ForwardOptions::default()
        };
        let pass = host.forward(&tree, &mut KeyValueCache::none(), &request)?;
        let answers: Vec<u32> = match (keep, &pass.logits) {
            (PairFilter::Correct, Some(logits)) => logits.argmax(D::Minus1)?.to_vec1()?,
            _ => sides.iter().map(|s| s.ids[s.end]).collect(),
        };
        let correct = |j: usize| answers[j] == sides[j].ids[sides[j].end];
        let kept: Vec<usize> = (0..some.len())
            .filter(|i| correct(2 * i) && correct(2 * i + 1))
            .collect();
        let answers = kept.iter().map(|i| [2 * i, 2 * i + 1]);
        ran.answers
            .extend(answers.map(|both| both.map(|j| sides[j].answer)));
        for position in 0..positions {
            let wanted: Vec<Vec<u32>> = kept
                .iter()
                .flat_map(|i| [2 * i, 2 * i + 1])
                .map(|j| {
                    let tokens = sides[j].captured[position].iter();
                    let row = |t: &usize| read.partition_point(|r| *r < rows[j][*t]) as u32;
                    tokens.map(row).collect()
                })
                .collect();
            if wanted.is_empty() {
                continue;
            }
            let index = Tensor::new(wanted.concat(), host.device())?;
            for &layer in &layers {
                let rows = pass.residuals[&layer].index_select(&index, 0)?;
                let rows: Vec<Vec<f32>> = rows.to_dtype(DType::F32)?.to_vec2()?;
                let mut rows = rows.as_slice();
                let mut next = wanted.iter().map(|w| {
                    let (these, rest) = rows.split_at(w.len());
                    rows = rest;
                    mean(these)
                });
                while let (Some(positive), Some(negative)) = (next.next(), next.next()) {
                    take(PairRows {
                        position,
                        layer,
                        positive: &positive,
                        negative: &negative,
                    });
                }
            }
        }
        done += some.len();
        progress(done, pairs.len());
    }
    if ran.answers.is_empty() {
        return Err(Error::input(
            &recipe.name,
            "extraction.keep",
            "at least one pair that the model answers as both personas ask",
            format!("none of {}", pairs.len()),
            "word the personas differently, or set `keep = \"all\"`",
        ));
    }
    Ok(ran)
}

/// Residual rows of contrast pairs (f32), at every layer and some positions.
///
/// Holds `2 P * positions * L * H` numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct CapturedPairs {
    positions: Vec<Positions>,
    layers: usize,
    /// By position, then by layer.
    contrasts: Vec<Contrast>,
    pairs: Pairs,
}

impl CapturedPairs {
    /// Runs the pairs that `recipe` makes of `claims` and keeps their rows; with
    /// `keep = "correct"` only those of pairs that the model answers as both personas ask.
    /// `progress` is called with the number of pairs done and of all.
    ///
    /// # Errors
    /// When a prompt is too short for a position, or no pair is left by the correct-only
    /// filter.
    pub fn of(
        host: &dyn HookedModel,
        chat: &Chat,
        recipe: &Recipe,
        claims: &[Claim],
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self> {
        let positions = recipe.extraction.each_position();
        let layers = host.spec().layers;
        let mut contrasts = vec![Contrast::empty(host.spec().hidden); positions.len() * layers];
        let mut take = |rows: PairRows| {
            contrasts[rows.position * layers + rows.layer].push(rows.positive, rows.negative);
        };
        let pairs = run_pairs(host, chat, recipe, claims, &mut take, progress)?;
        Ok(Self {
            positions,
            layers,
            contrasts,
            pairs,
        })
    }

    /// The positions, one by one.
    pub fn positions(&self) -> &[Positions] {
        &self.positions
    }

    /// Number of layers, L.
    pub fn layers(&self) -> usize {
        self.layers
    }

    /// Number of pairs kept, P.
    pub fn pairs(&self) -> usize {
        self.pairs.answers.len()
    }

    /// Number of pairs before the correct-only filter.
    pub fn asked(&self) -> usize {
        self.pairs.asked
    }

    /// The pairs, counted, and their answer tokens.
    pub(super) fn counted(&self) -> &Pairs {
        &self.pairs
    }

    /// The rows at the `position`-th position and `layer`.
    ///
    /// # Errors
    /// When there is no such position or layer.
    pub fn contrast(&self, position: usize, layer: usize) -> Result<&Contrast> {
        if position >= self.positions.len() || layer >= self.layers {
            return Err(reptune_adapters::Error::value(
                "captured rows",
                format!(
                    "a position below {} and a layer below {}",
                    self.positions.len(),
                    self.layers
                ),
                format!("position {position}, layer {layer}"),
                "capture them, or ask for others",
            )
            .into());
        }
        Ok(&self.contrasts[position * self.layers + layer])
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
