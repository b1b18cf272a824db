//! Vectors as other programs store them, converted to directions.

use crate::error::{Error, Result};
use crate::model::{Architecture, llama_cpp};
use crate::steering::direction::{Direction, DirectionSet, Provenance};
use std::collections::BTreeMap;
use std::path::Path;

/// Directions of a file, and remarks for the user.
#[derive(Debug, Clone, PartialEq)]
pub struct Read {
    /// The directions.
    pub set: DirectionSet,
    /// How the file was interpreted, and what may surprise.
    pub notes: Vec<String>,
}

/// Refuses an offset for a file whose layers are known.
pub(super) fn no_offset(offset: i64) -> Result<()> {
    if offset == 0 {
        return Ok(());
    }
    let expected = "0, because a file of reptune states its layers";
    let (found, hint) = (offset.to_string(), "leave it out");
    Err(Error::value("layer offset", expected, found, hint))
}

/// The layer in a name or key: digits without sign or leading zeros, so that no two names
/// mean the same layer.
pub(super) fn layer(text: &str) -> Option<u32> {
    let layer: u32 = text.parse().ok()?;
    (layer.to_string() == text).then_some(layer)
}

/// The kind of model that other programs read, as llama.cpp calls it; a set that was imported
/// keeps what its file said.
pub(super) fn kind_of_model(set: &DirectionSet) -> &str {
    let named = Architecture::named(&set.provenance.architecture);
    match set.is_foreign() {
        true => &set.provenance.model,
        false => llama_cpp::architecture(named.unwrap_or(Architecture::Llama)),
    }
}

/// The direction of a vector; errors name its layer.
pub(super) fn direction(path: &Path, layer: usize, vector: &[f32]) -> Result<Direction> {
    let vector: Vec<f64> = vector.iter().copied().map(f64::from).collect();
    Direction::new(&vector).map_err(|_| {
        let norm = vector.iter().map(|x| x * x).sum::<f64>().sqrt();
        let (expected, found) = ("a non-zero, finite vector", format!("norm {norm}"));
        let place = format!("direction of layer {layer}");
        Error::content(path, place, expected, found, "re-export the file")
    })
}

/// Converts the vectors of a file, which are by its own layer numbers: its layer i is our layer
/// i + `offset`. A vector of zeros does nothing and is left out with a note.
///
/// `model` is the kind of model that the file names, or nothing; `kind` is the kind of file.
pub(super) fn converted(
    path: &Path,
    vectors: BTreeMap<u32, Vec<f32>>,
    (model, kind): (&str, &str),
    offset: i64,
) -> Result<Read> {
    let wrong = |place: String, expected: &str, found: String| {
        Error::content(path, place, expected, found, "re-export the file")
    };
    let (moved, origin) = match offset {
        0 => (String::new(), kind.to_owned()),
        _ => (
            format!(" {offset:+}"),
            format!("{kind}, layers moved by {offset:+}"),
        ),
    };
    let mut notes = vec![format!(
        "its layer N is read as the output of block N{moved}, counted from 0"
    )];
    let width = vectors.values().next().map_or(0, Vec::len);
    let mut layers = BTreeMap::new();
    for (there, vector) in vectors {
        let place = format!("direction of layer {there}");
        if vector.len() != width || width == 0 {
            let expected = format!("{} numbers, like the other layers", width.max(1));
            return Err(wrong(place, &expected, vector.len().to_string()));
        }
        let here = i64::from(there).checked_add(offset);
        let Some(here) = here.and_then(|l| usize::try_from(l).ok()) else {
            let found = format!("layer {there} with offset {offset}");
            return Err(wrong(place, "a layer from 0 on", found));
        };
        if vector.iter().all(|x| *x == 0.) {
            notes.push(format!("its layer {there} is all zeros and is left out"));
            continue;
        }
        layers.insert(here, direction(path, there as usize, &vector)?);
    }
    if layers.is_empty() {
        let expected = "at least one that is not zero";
        return Err(wrong("directions".into(), expected, "none".into()));
    }
    let provenance = Provenance {
        model: model.to_owned(),
        method: "unknown".into(),
        rows: "unknown".into(),
        origin,
        ..Provenance::default()
    };
    let set = DirectionSet { layers, provenance };
    Ok(Read { set, notes })
}
