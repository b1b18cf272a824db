//! Vectors as other programs store them, converted to directions.

use crate::error::{Error, Result};
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
    let found = offset.to_string();
    Err(Error::value(
        "layer offset",
        expected,
        found,
        "leave it out",
    ))
}

/// The layer in a name or key: digits without sign or leading zeros, so that no two names
/// mean the same layer.
pub(super) fn layer(text: &str) -> Option<u32> {
    let layer: u32 = text.parse().ok()?;
    (layer.to_string() == text).then_some(layer)
}

/// The kind of model that other programs read: reptune extracts from Llamas only; a set that
/// was imported keeps what its file said.
pub(super) fn kind_of_model(set: &DirectionSet) -> &str {
    match set.is_foreign() {
        true => &set.provenance.model,
        false => "llama",
    }
}

pub(super) fn direction(path: &Path, layer: i64, vector: &[f64]) -> Result<Direction> {
    let norm = vector.iter().map(|x| x * x).sum::<f64>().sqrt();
    Direction::new(vector).map_err(|_| {
        Error::content(
            path,
            format!("direction of layer {layer}"),
            "a non-zero, finite vector",
            format!("norm {norm}"),
            "re-export the file",
        )
    })
}

/// Vectors of a file, by its own layer numbers.
pub(super) struct Vectors<'a> {
    pub(super) path: &'a Path,
    pub(super) by_layer: BTreeMap<u32, Vec<f32>>,
    /// The kind of model that the file names; may be empty.
    pub(super) model: String,
    /// The kind of file.
    pub(super) origin: &'a str,
}

impl Vectors<'_> {
    /// Converts them; layer i is our layer i + `offset`. A vector of zeros does nothing and is
    /// left out with a note.
    pub(super) fn taken(self, offset: i64) -> Result<Read> {
        let wrong = |place: String, expected: &str, found: String| {
            Error::content(self.path, place, expected, found, "re-export the file")
        };
        let moved = match offset {
            0 => String::new(),
            _ => format!(" {offset:+}"),
        };
        let mut notes = vec![format!(
            "its layer N is read as the output of block N{moved}, counted from 0"
        )];
        let width = self.by_layer.values().next().map_or(0, Vec::len);
        let mut layers = BTreeMap::new();
        for (there, vector) in self.by_layer {
            let place = format!("direction of layer {there}");
            if vector.len() != width || width == 0 {
                let expected = format!("{} numbers, as many as others", width.max(1));
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
            let vector: Vec<f64> = vector.into_iter().map(f64::from).collect();
            layers.insert(here, direction(self.path, there.into(), &vector)?);
        }
        if layers.is_empty() {
            return Err(wrong(
                "directions".into(),
                "at least one that is not zero",
                "none".into(),
            ));
        }
        let origin = match offset {
            0 => self.origin.to_owned(),
            _ => format!("{}, layers moved by {offset:+}", self.origin),
        };
        let provenance = Provenance {
            model: self.model,
            method: "unknown".into(),
            rows: "unknown".into(),
            origin,
            ..Provenance::default()
        };
        Ok(Read {
            set: DirectionSet { layers, provenance },
            notes,
        })
    }
}
