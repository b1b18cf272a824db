//! Files of other programs: what they hold, in our terms, and the other way round.
//!
//! Directions lie in GGUF control vectors (llama.cpp, repeng, EasySteer, GLP) and in `.svec`
//! files; adapters in GGUF. Layers are converted to ours, the output of block i counted from
//! 0, and what a format cannot hold is refused or told.

pub mod control_vector;
pub mod lora;
pub mod svec;

use crate::artefact;
use crate::direction::{Direction, DirectionSet, Provenance};
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use std::collections::BTreeMap;
use std::path::Path;

/// What was read, with what is worth telling of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Read {
    /// The directions.
    pub set: DirectionSet,
    /// How they were taken, and what may surprise.
    pub notes: Vec<String>,
}

impl DirectionSet {
    /// Reads directions of any kind, ours, a GGUF control vector or a `.svec` file, told by
    /// its content.
    ///
    /// # Errors
    /// Those of [`DirectionSet::load`], [`control_vector::read`] and [`svec::read`].
    pub fn open(path: &Path) -> Result<Self> {
        Ok(read(path, 0)?.set)
    }
}

/// [`DirectionSet::open`] where layers of other programs' files are `offset` off: layer i
/// of the file is taken for our layer i + offset.
///
/// # Errors
/// The same; when a layer falls below 0, or an offset is given for a file of ours.
pub fn read(path: &Path, offset: i64) -> Result<Read> {
    if Gguf::is_one(path) {
        return control_vector::read(path, offset);
    }
    let bytes = artefact::read(path)?;
    if bytes.first() == Some(&b'{') {
        return svec::read(path, offset);
    }
    if offset != 0 {
        return Err(Error::value(
            "layer offset",
            "0 for a file whose layers are known",
            offset.to_string(),
            "leave it out",
        ));
    }
    Ok(Read {
        set: DirectionSet::load(path)?,
        notes: Vec::new(),
    })
}

/// A set of vectors as they stand in a file, with their layers there.
fn foreign(
    path: &Path,
    vectors: BTreeMap<i64, Vec<f32>>,
    (offset, model): (i64, &str),
    origin: String,
) -> Result<DirectionSet> {
    let wrong = |place: String, expected: &str, found: String| {
        Error::content(path, place, expected, found, "write the file again")
    };
    let width = vectors.values().next().map_or(0, Vec::len);
    if width == 0 {
        return Err(wrong("directions".into(), "at least one", "none".into()));
    }
    let mut layers = BTreeMap::new();
    for (there, vector) in vectors {
        let place = format!("direction of layer {there}");
        if vector.len() != width {
            let expected = format!("{width} numbers, as the others");
            return Err(wrong(place, &expected, vector.len().to_string()));
        }
        let layer = there
            .checked_add(offset)
            .and_then(|l| usize::try_from(l).ok());
        let Some(layer) = layer else {
            let found = format!("layer {there} with offset {offset}");
            return Err(wrong(place, "a layer from 0 on", found));
        };
        let vector: Vec<f64> = vector.into_iter().map(f64::from).collect();
        let direction = Direction::new(&vector)
            .map_err(|_| wrong(place, "a vector of positive, finite norm", "another".into()))?;
        layers.insert(layer, direction);
    }
    Ok(DirectionSet {
        layers,
        provenance: Provenance {
            model: model.to_owned(),
            method: "unknown".into(),
            rows: "unknown".into(),
            origin: match offset {
                0 => origin,
                _ => format!("{origin}, layers moved by {offset}"),
            },
            ..Provenance::default()
        },
    })
}

#[cfg(test)]
mod tests;
