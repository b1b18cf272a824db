//! Contrast pairs of prompts, and their residual rows at all layers and positions.

use super::contrast::Contrast;
use crate::chat::{Chat, Message};
use crate::data::Claim;
use crate::error::{Error, Result};
use crate::recipe::{PairFilter, Pairing, Recipe};
use candle_core::{D, DType, Tensor};
use reptune_adapters::{
    CaptureTokens, ForwardOptions, HookedModel, KeyValueCache, Positions, PrefixTree,
};

/// Pairs whose prompts are packed into one prefix tree.
const PAIRS: usize = 16;

/// The pairs that were run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountedPairs {
    /// Of every pair that was kept, which answer token the positive and the negative prompt
    /// end in: 0 or 1.
    pub answers: Vec<[usize; 2]>,
    /// Number of pairs before the correct-only filter.
    pub asked: usize,
}

/// A prompt that ends in an answer.
pub(super) struct Side {
    pub ids: Vec<u32>,
    /// Number of prompt tokens: the index of the answer token in `ids`.
    pub end: usize,
    /// Which answer token it is: 0 or 1.
    pub answer: usize,
    /// For every position, the indices in `ids` whose mean row is captured.
    pub captured: Vec<Vec<usize>>,
}

/// The pairs, a positive and a negative prompt, that `recipe` makes of `claims`.
pub(super) fn pairs(chat: &Chat, recipe: &Recipe, claims: &[Claim]) -> Result<Vec<[Side; 2]>> {
    let (yes, no): (Vec<&Claim>, Vec<&Claim>) = claims.iter().partition(|c| c.label);
    let (positive, negative) = (&recipe.behaviour.positive, &recipe.behaviour.negative);
    let mut pairs = Vec::new();
    // The positive persona says A of a true claim and B of a false one, the negative the reverse.
    for (i, (t, f)) in yes.iter().zip(&no).enumerate() {
        let (p, n) = (&positive[i % positive.len()], &negative[i % negative.len()]);
        let couples = match recipe.extraction.pairing {
            Pairing::SameAnswer => [((*t, 0), (*f, 0)), ((*f, 1), (*t, 1))],
            Pairing::SameClaim => [((*t, 0), (*t, 1)), ((*f, 1), (*f, 0))],
        };
        for ((pc, pa), (nc, na)) in couples {
            if pairs.len() < recipe.extraction.pairs {
                let positive = Side::new(chat, recipe, p, pc, pa)?;
                pairs.push([positive, Side::new(chat, recipe, n, nc, na)?]);
            }
        }
    }
    Ok(pairs)
}

impl Side {
    fn new(
        chat: &Chat,
        recipe: &Recipe,
        persona: &str,
        claim: &Claim,
        answer: usize,
    ) -> Result<Self> {
        let worded = recipe.prompt.worded(&claim.text);
        let messages = Message::conversation(persona, &worded.text);
        let mut ids = chat.prompt(&messages)?;
        let end = ids.len();
        ids.push(chat.label_token(&messages, &recipe.prompt.labels[answer])?);
        let wrong = |expected: String, found: &Positions| {
            let hint = format!("the prompt is that of `{}`", claim.text);
            let key = "extraction.positions";
            Error::input(&recipe.name, key, expected, format!("`{found}`"), hint)
        };
        let tokens = |position: &Positions| match position {
            Positions::Marker(name) => {
                let byte = worded.markers.get(name).ok_or_else(|| {
                    let markers = recipe.prompt.markers();
                    wrong(format!("a marker of prompt.claim, {markers:?}"), position)
                })?;
                Ok(vec![chat.token_before(&messages, *byte)?])
            }
            other => other.tokens(end).ok_or_else(|| {
                let expected = format!("tokens of a prompt of {end} tokens, or its answer token");
                wrong(expected, other)
            }),
        };
        let positions = recipe.extraction.positions.each();
        let captured = positions.iter().map(tokens).collect::<Result<_>>()?;
        Ok(Self {
            ids,
            end,
            answer,
            captured,
        })
    }
}

/// Runs the pairs that `recipe` makes of `claims`; with `keep = "correct"` only those that the
/// model answers as both personas ask are kept. `take` gets a positive and a negative row (H,),
/// pair by pair for every position and layer, whose number is `position * L + layer`.
/// `progress` is called with the number of pairs done and of all.
pub(super) fn run_pairs(
    model: &dyn HookedModel,
    chat: &Chat,
    recipe: &Recipe,
    claims: &[Claim],
    take: &mut dyn FnMut(usize, [&[f32]; 2]),
    progress: &mut dyn FnMut(usize, usize),
) -> Result<CountedPairs> {
    let pairs = pairs(chat, recipe, claims)?;
    let layers: Vec<usize> = (0..model.spec().layers).collect();
    let positions = recipe.extraction.positions.each().len();
    let keep = recipe.extraction.keep;
    let mut ran = CountedPairs {
        answers: Vec::new(),
        asked: pairs.len(),
    };
    let mut done = 0;
    for some in pairs.chunks(PAIRS) {
        let sides: Vec<&Side> = some.iter().flatten().collect();
        let prompts: Vec<&[u32]> = sides.iter().map(|s| s.ids.as_slice()).collect();
        let (tree, rows) = PrefixTree::pack(&prompts);
        let paths = || sides.iter().zip(&rows);
        let ends: Vec<u32> = paths().map(|(s, r)| r[s.end - 1]).collect();
        // Every row that some position reads, once.
        let read = paths().flat_map(|(s, r)| s.captured.iter().flatten().map(|t| r[*t]));
        let mut read: Vec<u32> = read.collect();
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
        let pass = model.forward(&tree, &mut KeyValueCache::none(), &request)?;
        let answers: Vec<u32> = match (keep, &pass.logits) {
            (PairFilter::Correct, Some(logits)) => logits.argmax(D::Minus1)?.to_vec1()?,
            _ => sides.iter().map(|s| s.ids[s.end]).collect(),
        };
        let correct = |j: usize| answers[j] == sides[j].ids[sides[j].end];
        let both = (0..some.len()).map(|i| [2 * i, 2 * i + 1]);
        let kept: Vec<[usize; 2]> = both
            .filter(|both| both.iter().all(|j| correct(*j)))
            .collect();
        let answers = kept.iter().map(|both| both.map(|j| sides[j].answer));
        ran.answers.extend(answers);
        for position in 0..positions {
            let row_of = |j: &usize| {
                let row = |t: &usize| read.partition_point(|r| *r < rows[*j][*t]) as u32;
                sides[*j].captured[position].iter().map(row).collect()
            };
            let wanted: Vec<Vec<u32>> = kept.iter().flatten().map(row_of).collect();
            if wanted.is_empty() {
                continue;
            }
            let index = Tensor::new(wanted.concat(), model.device())?;
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
                    take(position * layers.len() + layer, [&positive, &negative]);
                }
            }
        }
        done += some.len();
        progress(done, pairs.len());
    }
    if ran.answers.is_empty() {
        let expected = "at least one pair that the model answers as both personas ask";
        let (name, found) = (&recipe.name, format!("none of {}", pairs.len()));
        let hint = "word the personas differently, or set `keep = \"all\"`";
        return Err(Error::input(name, "extraction.keep", expected, found, hint));
    }
    Ok(ran)
}

/// Residual rows of contrast pairs (f32), at every layer and some positions.
///
/// Holds `2 P * positions * L * H` numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct CapturedPairs {
    /// The positions, one by one.
    pub positions: Vec<Positions>,
    /// Number of layers, L.
    pub layers: usize,
    /// By position, then by layer.
    contrasts: Vec<Contrast>,
    /// The pairs that were run.
    pub pairs: CountedPairs,
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
        model: &dyn HookedModel,
        chat: &Chat,
        recipe: &Recipe,
        claims: &[Claim],
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self> {
        let positions = recipe.extraction.positions.each();
        let layers = model.spec().layers;
        let mut contrasts = vec![Contrast::empty(model.spec().hidden); positions.len() * layers];
        let mut take = |place: usize, [p, n]: [&[f32]; 2]| contrasts[place].push(p, n);
        let pairs = run_pairs(model, chat, recipe, claims, &mut take, progress)?;
        Ok(Self {
            positions,
            layers,
            contrasts,
            pairs,
        })
    }

    /// The rows at the `position`-th position and `layer`.
    pub fn contrast(&self, position: usize, layer: usize) -> Result<&Contrast> {
        if position >= self.positions.len() || layer >= self.layers {
            let (positions, layers) = (self.positions.len(), self.layers);
            let expected = format!("a position below {positions} and a layer below {layers}");
            let found = format!("position {position}, layer {layer}");
            let hint = "capture them, or ask for others";
            return Err(Error::value("captured rows", expected, found, hint));
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
        let both = sums.iter_mut().zip(row);
        both.for_each(|(s, x)| *s += f64::from(*x));
    }
    let n = rows.len() as f64;
    sums.into_iter().map(|s| (s / n) as f32).collect()
}
