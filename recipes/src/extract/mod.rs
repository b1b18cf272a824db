//! Finding a direction: contrast pairs, captured once, and the methods that make a
//! direction of their rows, as in section 2 of Representation Tuning (arXiv 2409.06927).

mod captured;
mod contrast;
mod method;
mod nuisance;
mod pairs;
pub(crate) mod pca;
mod probe;
#[cfg(test)]
mod tests;

pub use captured::Captured;
pub use contrast::Contrast;
pub use nuisance::Nuisance;

use crate::chat::Chat;
use crate::data::Claim;
use crate::error::{Error, Result};
use crate::recipe::{Pairing, Recipe, Without};
use reptune_adapters::steering::direction::Provenance;
use reptune_adapters::{DirectionSet, HookedModel, ModelSpec, files};
use std::collections::BTreeMap;

/// What extraction gives: the directions, and how the pairs came out.
#[derive(Debug, Clone, PartialEq)]
pub struct Extracted {
    /// One direction per layer.
    pub directions: DirectionSet,
    /// Per layer, the share of pairs whose positive row projects higher.
    pub ordered: BTreeMap<usize, f64>,
}

/// Extracts a direction at every layer from `claims`. `progress` is called with
/// the number of pairs done.
///
/// By default `d = mean_p (h_positive[p] - h_negative[p])`, normalised to unit L2; see
/// [`Method::direction`](crate::recipe::Method::direction) for the others.
///
/// # Errors
/// When a prompt is shorter than the offset, no pair is left by the correct-only
/// filter, the recipe names several places, or as [`find`].
pub fn extract(
    host: &dyn HookedModel,
    chat: &Chat,
    recipe: &Recipe,
    claims: &[Claim],
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Extracted> {
    let places = recipe.extraction.places().len();
    let several = || {
        Error::input(
            &recipe.name,
            "extraction",
            "one place of which directions are made",
            format!("{places} places"),
            "choose among them on validation claims, or name one `offset`",
        )
    };
    if places != 1 {
        return Err(several());
    }
    let captured = Captured::of(host, chat, recipe, claims, progress)?;
    find(host.spec(), recipe, &captured)?
        .pop()
        .ok_or_else(several)
}

/// Makes directions of captured rows by the recipe's method: for every place a set.
///
/// # Errors
/// When the method fails at a layer, or the file of a nuisance does not fit the model.
pub fn find(spec: &ModelSpec, recipe: &Recipe, captured: &Captured) -> Result<Vec<Extracted>> {
    let places = 0..captured.places().len();
    places
        .map(|place| found(spec, recipe, captured, place))
        .collect()
}

fn found(
    spec: &ModelSpec,
    recipe: &Recipe,
    captured: &Captured,
    place: usize,
) -> Result<Extracted> {
    let e = &recipe.extraction;
    let file = match &e.without {
        Some(Without::File(path)) => {
            let set = DirectionSet::load(path)?;
            set.check_model(path, spec)?;
            Some(set)
        }
        _ => None,
    };
    let mut layers = BTreeMap::new();
    let mut ordered = BTreeMap::new();
    let mut residual_norms = BTreeMap::new();
    for layer in 0..captured.layers() {
        let contrast = captured.contrast(place, layer)?;
        let nuisance = match (&e.without, &file) {
            (Some(Without::Letter), _) => Some(Nuisance::letter(contrast, captured.letters())?),
            (_, Some(set)) => Some(Nuisance::from_direction(set.layer(layer)?)?),
            _ => None,
        };
        let direction = e.method.direction(contrast, nuisance.as_ref())?;
        ordered.insert(layer, contrast.ordered(&direction));
        residual_norms.insert(layer, contrast.mean_norm());
        layers.insert(layer, direction);
    }
    let pairing = match e.pairing {
        Pairing::SameAnswer => "same-answer",
        Pairing::SameClaim => "same-claim",
    };
    let without = match &e.without {
        None => String::new(),
        Some(Without::Letter) => ", without the answer letter".into(),
        Some(Without::File(path)) => {
            let hash = files::sha256([files::read(path)?.as_slice()]);
            format!(", without the directions of sha256 {hash}")
        }
    };
    let provenance = Provenance {
        model: spec.name.clone(),
        model_fingerprint: spec.fingerprint.clone(),
        model_layers: spec.layers,
        recipe: recipe.hash(),
        method: format!("{}, {pairing} pairs{without}", e.method.words()),
        rows: captured.places()[place].to_string(),
        pairs: captured.pairs(),
        pairs_captured: captured.asked(),
        residual_norms,
        origin: String::new(),
    };
    Ok(Extracted {
        directions: DirectionSet { layers, provenance },
        ordered,
    })
}
