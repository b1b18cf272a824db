//! Finding a direction: contrast pairs, captured once, and the methods that make a
//! direction of their rows, as in section 2 of Representation Tuning (arXiv 2409.06927).

mod captured_pairs;
mod contrast;
mod method;
mod nuisance;
mod pair_sums;
mod pairs;
pub(crate) mod pca;
mod probe;
#[cfg(test)]
mod tests;

pub use captured_pairs::CapturedPairs;
pub use contrast::Contrast;
pub use nuisance::Nuisance;

use crate::chat::Chat;
use crate::data::Claim;
use crate::error::{Error, Result};
use crate::recipe::{Pairing, Recipe, Without};
use captured_pairs::{PairRows, Pairs, run_pairs};
use pair_sums::PairSums;
use reptune_adapters::steering::direction::Provenance;
use reptune_adapters::{Direction, DirectionSet, HookedModel, ModelSpec, files};
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
    host: &dyn HookedModel,
    chat: &Chat,
    recipe: &Recipe,
    claims: &[Claim],
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Extracted> {
    let positions = recipe.extraction.each_position().len();
    let several = || {
        Error::input(
            &recipe.name,
            "extraction.positions",
            "one position of which directions are made",
            format!("{positions} positions"),
            "choose among them on validation claims, or name one, such as `last:1`",
        )
    };
    if positions != 1 {
        return Err(several());
    }
    let captured = CapturedPairs::of(host, chat, recipe, claims, progress)?;
    find(host.spec(), recipe, &captured)?
        .pop()
        .ok_or_else(several)
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
    host: &dyn HookedModel,
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
        let captured = CapturedPairs::of(host, chat, recipe, claims, progress)?;
        let found = find(host.spec(), recipe, &captured)?;
        return Ok((found, [captured.pairs(), captured.asked()]));
    };
    let (spec, positions) = (host.spec(), e.each_position());
    let mut sums = vec![PairSums::new(spec.hidden); positions.len() * spec.layers];
    let mut add = |rows: PairRows| {
        sums[rows.position * spec.layers + rows.layer].add(rows.positive, rows.negative);
    };
    let pairs = run_pairs(host, chat, recipe, claims, &mut add, progress)?;
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
    let pairs = captured.counted();
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
    pairs: &Pairs,
    mut of: impl FnMut(usize, usize, Option<Nuisance>) -> Result<(Direction, f64, Option<f64>)>,
) -> Result<Vec<Extracted>> {
    let nuisance = NuisanceFile::of(spec, recipe)?;
    let provenance = provenance(spec, recipe, pairs)?;
    let mut found = Vec::new();
    for (position, name) in recipe.extraction.each_position().iter().enumerate() {
        let mut set = Extracted {
            directions: DirectionSet {
                layers: BTreeMap::new(),
                provenance: Provenance {
                    rows: name.to_string(),
                    ..provenance.clone()
                },
            },
            ordered: BTreeMap::new(),
        };
        for layer in 0..spec.layers {
            let (direction, norm, ordered) = of(position, layer, nuisance.at(layer)?)?;
            set.directions.layers.insert(layer, direction);
            set.directions.provenance.residual_norms.insert(layer, norm);
            set.ordered.extend(ordered.map(|share| (layer, share)));
        }
        found.push(set);
    }
    Ok(found)
}

/// The directions of a file that are projected out, if the recipe names one.
struct NuisanceFile(Option<DirectionSet>);

impl NuisanceFile {
    fn of(spec: &ModelSpec, recipe: &Recipe) -> Result<Self> {
        let Some(Without::File(path)) = &recipe.extraction.without else {
            return Ok(Self(None));
        };
        let set = DirectionSet::load(path)?;
        set.check_model(path, spec)?;
        Ok(Self(Some(set)))
    }

    fn at(&self, layer: usize) -> Result<Option<Nuisance>> {
        match &self.0 {
            None => Ok(None),
            Some(set) => Ok(Some(Nuisance::from_direction(set.layer(layer)?)?)),
        }
    }
}

/// Where directions come from; position and norms are filled in for each set.
fn provenance(spec: &ModelSpec, recipe: &Recipe, pairs: &Pairs) -> Result<Provenance> {
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
    Ok(Provenance {
        model: spec.name.clone(),
        model_fingerprint: spec.fingerprint.clone(),
        model_layers: spec.layers,
        recipe: recipe.hash(),
        method: format!("{}, {pairing} pairs{without}", e.method.words()),
        pairs: pairs.answers.len(),
        pairs_captured: pairs.asked,
        ..Provenance::default()
    })
}
