//! Finding a direction: contrast pairs, captured once, and the methods that make a
//! direction of their rows, as in section 2 of Representation Tuning (arXiv 2409.06927).

mod captured_pairs;
mod contrast;
mod method;
pub(crate) mod pca;
mod probe;
#[cfg(test)]
mod tests;

pub use captured_pairs::{CapturedPairs, CountedPairs};
pub use contrast::Contrast;
pub use method::Nuisance;

use crate::chat::Chat;
use crate::data::Claim;
use crate::error::{Error, Result};
use crate::recipe::{Pairing, Recipe, Without};
use captured_pairs::run_pairs;
use contrast::PairSums;
use reptune_adapters::model::Architecture;
use reptune_adapters::steering::direction::Provenance;
use reptune_adapters::{
    Direction, DirectionSet, HookedModel, ModelSpec, Operator, files, open_directions_for,
};
use std::collections::BTreeMap;

/// What extraction gives: the directions, and how the pairs came out.
#[derive(Debug, Clone, PartialEq)]
pub struct Extracted {
    /// One direction per layer.
    pub directions: DirectionSet,
    /// Per layer, the share of pairs whose positive row projects higher; empty where rows
    /// were summed and not kept.
    pub ordered: BTreeMap<usize, f64>,
}

/// Extracts a direction at every layer from `claims`. `progress` is called with
/// the number of pairs done.
///
/// By default `d = mean_p (h_positive[p] - h_negative[p])`, normalised to unit L2; see
/// [`ExtractionMethod::direction`](crate::recipe::ExtractionMethod::direction) for the others.
///
/// # Errors
/// When a prompt is too short for a position, no pair is left by the correct-only
/// filter, the recipe names several positions, or as [`find`].
pub fn extract(
    model: &dyn HookedModel,
    chat: &Chat,
    recipe: &Recipe,
    claims: &[Claim],
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Extracted> {
    let positions = recipe.extraction.positions.each().len();
    let several = || {
        let (name, key) = (&recipe.name, "extraction.positions");
        let expected = "one position of which directions are made";
        let found = format!("{positions} positions");
        let hint = "choose among them on validation claims, or name one, such as `last:1`";
        Error::input(name, key, expected, found, hint)
    };
    if positions != 1 {
        return Err(several());
    }
    let captured = CapturedPairs::of(model, chat, recipe, claims, progress)?;
    let mut found = find(model.spec(), recipe, &captured)?;
    found.pop().ok_or_else(several)
}

/// Extracts a direction set at every position, and says how many pairs were kept and asked.
///
/// Where the method needs only sums over pairs, rows are summed as they are computed: memory
/// is `positions * L * H` numbers, however many pairs there are. The directions are those of
/// [`find`], bit for bit, because both sum in the order of the pairs.
///
/// # Errors
/// As [`extract`], but for several positions.
pub fn extract_each(
    model: &dyn HookedModel,
    chat: &Chat,
    recipe: &Recipe,
    claims: &[Claim],
    progress: &mut dyn FnMut(usize, usize),
) -> Result<(Vec<Extracted>, [usize; 2])> {
    let e = &recipe.extraction;
    // The direction of the answer token weighs rows by counts that are known at the end.
    let of_sums = e.method.of_sums();
    let of_sums = of_sums.filter(|_| e.without != Some(Without::AnswerToken));
    let Some(direction) = of_sums else {
        let captured = CapturedPairs::of(model, chat, recipe, claims, progress)?;
        let found = find(model.spec(), recipe, &captured)?;
        let pairs = captured.pairs;
        return Ok((found, [pairs.answers.len(), pairs.asked]));
    };
    let (spec, positions) = (model.spec(), e.positions.each());
    let mut sums = vec![PairSums::new(spec.hidden); positions.len() * spec.layers];
    let mut add = |place: usize, [p, n]: [&[f32]; 2]| sums[place].add(p, n);
    let pairs = run_pairs(model, chat, recipe, claims, &mut add, progress)?;
    let found = sets(spec, recipe, &pairs, |position, layer, nuisance| {
        let sums = &sums[position * spec.layers + layer];
        let mut d = direction(sums);
        if let Some(nuisance) = nuisance {
            d = nuisance.removed(d)?;
        }
        Ok((Direction::new(&d)?, sums.mean_norm(), None))
    })?;
    Ok((found, [pairs.answers.len(), pairs.asked]))
}

/// Makes directions of captured rows by the recipe's method: for every position a set.
///
/// # Errors
/// When the method fails at a layer, or the file of a nuisance does not fit the model.
pub fn find(spec: &ModelSpec, recipe: &Recipe, captured: &CapturedPairs) -> Result<Vec<Extracted>> {
    let e = &recipe.extraction;
    let pairs = &captured.pairs;
    sets(spec, recipe, pairs, |position, layer, nuisance| {
        let contrast = captured.contrast(position, layer)?;
        let nuisance = match &e.without {
            Some(Without::AnswerToken) => Some(Nuisance::answer_token(contrast, &pairs.answers)?),
            _ => nuisance,
        };
        let direction = e.method.direction(contrast, nuisance.as_ref())?;
        let ordered = contrast.ordered(&direction);
        Ok((direction, contrast.sums().mean_norm(), Some(ordered)))
    })
}

/// A direction set for every position. `of` gives for a position and a layer, and what is
/// projected out there, the direction, the mean norm of the rows and the share of ordered
/// pairs.
fn sets(
    spec: &ModelSpec,
    recipe: &Recipe,
    pairs: &CountedPairs,
    mut of: impl FnMut(usize, usize, Option<Nuisance>) -> Result<(Direction, f64, Option<f64>)>,
) -> Result<Vec<Extracted>> {
    let nuisance = match &recipe.extraction.without {
        Some(Without::File(path)) => {
            let set = open_directions_for(path, Operator::Ablate)?;
            set.check_model(path, spec)?;
            Some(set)
        }
        _ => None,
    };
    let nuisance = |layer: usize| match &nuisance {
        Some(set) => {
            let unit = set.layer(layer)?.unit.iter().copied().map(f64::from);
            Nuisance::new(&unit.collect::<Vec<_>>()).map(Some)
        }
        None => Ok(None),
    };
    let provenance = provenance(spec, recipe, pairs)?;
    let mut found = Vec::new();
    for (position, name) in recipe.extraction.positions.each().iter().enumerate() {
        let mut provenance = provenance.clone();
        provenance.rows = name.to_string();
        let (mut layers, mut ordered) = (BTreeMap::new(), BTreeMap::new());
        for layer in 0..spec.layers {
            let (direction, norm, share) = of(position, layer, nuisance(layer)?)?;
            layers.insert(layer, direction);
            provenance.residual_norms.insert(layer, norm);
            ordered.extend(share.map(|share| (layer, share)));
        }
        let directions = DirectionSet { layers, provenance };
        found.push(Extracted {
            directions,
            ordered,
        });
    }
    Ok(found)
}

/// Where directions come from; position and norms are filled in for each set.
fn provenance(spec: &ModelSpec, recipe: &Recipe, pairs: &CountedPairs) -> Result<Provenance> {
    let e = &recipe.extraction;
    let pairing = match e.pairing {
        Pairing::SameAnswer => "same-answer",
        Pairing::SameClaim => "same-claim",
    };
    let without = match &e.without {
        None => String::new(),
        Some(Without::AnswerToken) => ", without the answer token".into(),
        Some(Without::File(path)) => {
            let hash = files::sha256([files::read(path)?.as_slice()]);
            format!(", without the directions of sha256 {hash}")
        }
    };
    let architecture = Some(spec.architecture).filter(|a| *a != Architecture::Llama);
    Ok(Provenance {
        model: spec.name.clone(),
        model_fingerprint: spec.fingerprint.clone(),
        model_layers: spec.layers,
        architecture: architecture.map_or(String::new(), |a| a.to_string()),
        recipe: recipe.hash(),
        method: format!("{}, {pairing} pairs{without}", e.method.words()),
        pairs: pairs.answers.len(),
        pairs_captured: pairs.asked,
        ..Provenance::default()
    })
}
