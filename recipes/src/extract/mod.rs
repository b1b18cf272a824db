//! Finding a direction: the mean over contrast pairs of (positive - negative)
//! residual rows, as in section 2 of Representation Tuning (arXiv 2409.06927).

use crate::chat::{Chat, Message};
use crate::data::{Claim, claim_question};
use crate::error::{Error, Result};
use crate::recipe::{Keep, Pairing, Recipe};
use candle_core::D;
use reptune_adapters::direction::Provenance;
use reptune_adapters::{Cache, Direction, DirectionSet, Forest, Host, Request};
use std::collections::BTreeMap;

/// Pairs whose prompts are packed into one forest.
const PAIRS: usize = 16;

/// A prompt that ends in an answer, and the row that is captured.
struct Side {
    ids: Vec<u32>,
    /// Index of the answer letter in `ids`.
    answer: usize,
    captured: usize,
}

/// A positive and a negative prompt.
struct Pair {
    positive: Side,
    negative: Side,
}

/// What extraction gives: the directions, and how the pairs came out.
pub struct Extracted {
    /// One direction per layer.
    pub directions: DirectionSet,
    /// Per layer, the share of pairs whose positive row projects higher.
    pub ordered: BTreeMap<usize, f64>,
}

/// Extracts a direction at every layer from `claims`. `progress` is called with
/// the number of pairs done.
///
/// `d = mean_p (h_positive[p] - h_negative[p])`, normalised to unit L2.
///
/// # Errors
/// When a prompt is shorter than the offset, or no pair is left by the
/// correct-only filter.
pub fn extract(
    host: &dyn Host,
    chat: &Chat,
    recipe: &Recipe,
    claims: &[Claim],
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Extracted> {
    let pairs = pairs(chat, recipe, claims)?;
    let layers: Vec<usize> = (0..host.spec().layers).collect();
    let width = host.spec().hidden;
    let mut sums = vec![vec![0f64; width]; layers.len()];
    let mut norms = vec![0f64; layers.len()];
    let mut differences: Vec<Vec<Vec<f32>>> = Vec::new();
    let mut done = 0;
    for some in pairs.chunks(PAIRS) {
        let sides: Vec<&Side> = some
            .iter()
            .flat_map(|p| [&p.positive, &p.negative])
            .collect();
        let prompts: Vec<&[u32]> = sides.iter().map(|s| s.ids.as_slice()).collect();
        let (forest, rows) = Forest::pack(&prompts);
        let asked: Vec<u32> = sides
            .iter()
            .zip(&rows)
            .map(|(s, r)| r[s.answer - 1])
            .collect();
        let request = Request {
            capture: &layers,
            logits: &asked,
            ..Request::default()
        };
        let pass = host.forward(&forest, &mut Cache::none(), &request)?;
        let answers: Vec<u32> = match (recipe.extraction.keep, &pass.logits) {
            (Keep::Correct, Some(logits)) => logits.argmax(D::Minus1)?.to_vec1()?,
            _ => sides.iter().map(|s| s.ids[s.answer]).collect(),
        };
        let residuals: Vec<Vec<Vec<f32>>> = layers
            .iter()
            .map(|l| Ok(pass.residuals[l].to_vec2()?))
            .collect::<Result<_>>()?;
        for i in 0..some.len() {
            let correct = |j: usize| answers[j] == sides[j].ids[sides[j].answer];
            if !(correct(2 * i) && correct(2 * i + 1)) {
                continue;
            }
            let row = |j: usize| rows[j][sides[j].captured] as usize;
            let mut per_layer = Vec::new();
            for (layer, residual) in residuals.iter().enumerate() {
                let (p, n) = (&residual[row(2 * i)], &residual[row(2 * i + 1)]);
                let difference: Vec<f32> = p.iter().zip(n).map(|(p, n)| p - n).collect();
                for (sum, d) in sums[layer].iter_mut().zip(&difference) {
                    *sum += f64::from(*d);
                }
                norms[layer] += norm(p) + norm(n);
                per_layer.push(difference);
            }
            differences.push(per_layer);
        }
        done += some.len();
        progress(done, pairs.len());
    }
    let kept = differences.len();
    if kept == 0 {
        return Err(Error::input(
            &recipe.name,
            "extraction.keep",
            "at least one pair that the model answers as both personas ask",
            format!("none of {}", pairs.len()),
            "word the personas differently, or set `keep = \"all\"`",
        ));
    }
    let mut set = BTreeMap::new();
    let mut ordered = BTreeMap::new();
    for &layer in &layers {
        let mean: Vec<f64> = sums[layer].iter().map(|s| s / kept as f64).collect();
        let direction = Direction::new(&mean)?;
        let higher = differences.iter().filter(|d| {
            let dot: f64 = d[layer]
                .iter()
                .zip(&direction.unit)
                .map(|(x, y)| f64::from(x * y))
                .sum();
            dot > 0.
        });
        ordered.insert(layer, higher.count() as f64 / kept as f64);
        set.insert(layer, direction);
    }
    let spec = host.spec();
    let pairing = match recipe.extraction.pairing {
        Pairing::SameAnswer => "same-answer",
        Pairing::SameClaim => "same-claim",
    };
    let provenance = Provenance {
        model: spec.name.clone(),
        model_fingerprint: spec.fingerprint.clone(),
        model_layers: spec.layers,
        recipe: recipe.hash(),
        method: format!("mean difference, {pairing} pairs"),
        rows: format!(
            "offset {} from the last prompt token",
            recipe.extraction.offset
        ),
        pairs: kept,
        pairs_captured: pairs.len(),
        residual_norms: layers
            .iter()
            .map(|&l| (l, norms[l] / (2 * kept) as f64))
            .collect(),
    };
    Ok(Extracted {
        directions: DirectionSet {
            layers: set,
            provenance,
        },
        ordered,
    })
}

fn norm(row: &[f32]) -> f64 {
    row.iter().map(|x| f64::from(x * x)).sum::<f64>().sqrt()
}

fn pairs(chat: &Chat, recipe: &Recipe, claims: &[Claim]) -> Result<Vec<Pair>> {
    let (yes, no): (Vec<&Claim>, Vec<&Claim>) = claims.iter().partition(|c| c.label);
    let side = |personas: &[String], turn: usize, claim: &Claim, answer: usize| -> Result<Side> {
        let persona = &personas[turn % personas.len()];
        let messages = Message::conversation(persona, &claim_question(recipe, claim).text);
        let mut ids = chat.prompt(&messages)?;
        let at = ids.len();
        ids.push(chat.label_token(&messages, &recipe.prompt.labels[answer])?);
        let captured = at as i64 - 1 - recipe.extraction.offset;
        if captured < 0 || captured > at as i64 {
            return Err(Error::input(
                &recipe.name,
                "extraction.offset",
                format!("-1 to {}", at - 1),
                recipe.extraction.offset.to_string(),
                format!("the prompt of `{}` has {at} tokens", claim.text),
            ));
        }
        Ok(Side {
            ids,
            answer: at,
            captured: captured as usize,
        })
    };
    let (positive, negative) = (&recipe.behaviour.positive, &recipe.behaviour.negative);
    let mut pairs = Vec::new();
    // The positive persona says A of a true claim and B of a false one, the negative the reverse.
    for (i, (t, f)) in yes.iter().zip(&no).enumerate() {
        let couples = match recipe.extraction.pairing {
            Pairing::SameAnswer => [((*t, 0), (*f, 0)), ((*f, 1), (*t, 1))],
            Pairing::SameClaim => [((*t, 0), (*t, 1)), ((*f, 1), (*f, 0))],
        };
        for ((pc, pa), (nc, na)) in couples {
            if pairs.len() < recipe.extraction.pairs {
                pairs.push(Pair {
                    positive: side(positive, i, pc, pa)?,
                    negative: side(negative, i, nc, na)?,
                });
            }
        }
    }
    Ok(pairs)
}
