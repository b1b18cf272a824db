//! `.svec`: JSON with a vector for every layer, keyed by the block behind which it acts.

use super::{Read, foreign};
use crate::artefact;
use crate::direction::DirectionSet;
use crate::error::{Error, Result};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    model_type: String,
    directions: BTreeMap<String, Value>,
}

/// Writes the directions of `layers` as they were before normalising, `norm * unit`.
///
/// # Errors
/// When the set lacks a layer, or the file cannot be written.
pub fn write(path: &Path, set: &DirectionSet, layers: &[usize]) -> Result<()> {
    let mut directions = BTreeMap::new();
    for layer in layers {
        let d = set.layer(*layer)?;
        let vector = d.unit.iter().map(|x| (f64::from(*x) * d.norm) as f32);
        directions.insert(layer.to_string(), vector.collect::<Vec<f32>>());
    }
    let file = json!({
        "model_type": "llama", "directions": directions, "explained_variances": {},
    });
    artefact::write_atomically(path, |w| writeln!(w, "{file}"))
}

/// Reads a file; layer N of it is our layer N + `offset`.
///
/// # Errors
/// When it is no such file, a key is no layer, or a layer has several vectors.
pub fn read(path: &Path, offset: i64) -> Result<Read> {
    let wrong = |place: String, expected: &str, found: String, hint: &str| {
        Error::content(path, place, expected, found, hint)
    };
    let file: File = serde_json::from_slice(&artefact::read(path)?).map_err(|e| {
        let place = format!("line {}", e.line());
        let hint = "give a .svec file, a GGUF control vector, or directions of this project";
        wrong(place, "JSON with `directions`", e.to_string(), hint)
    })?;
    let mut vectors = BTreeMap::new();
    for (key, value) in &file.directions {
        let place = format!("`directions.{key}`");
        let layer: u32 = key.parse().map_err(|_| {
            wrong(
                place.clone(),
                "a layer as key",
                format!("`{key}`"),
                "write the file again",
            )
        })?;
        // several components are a table; one of them is a vector
        let row = match value.as_array().map(Vec::as_slice) {
            Some([Value::Array(row)]) => Some(row),
            Some(_) => value.as_array(),
            None => None,
        };
        let numbers = row.and_then(|r| {
            let each = r.iter().map(|x| Some(x.as_f64()? as f32));
            each.collect::<Option<Vec<f32>>>()
        });
        let Some(numbers) = numbers else {
            return Err(wrong(
                place,
                "one vector of numbers",
                "another value, or several vectors".into(),
                "write a file with one component a layer",
            ));
        };
        vectors.insert(i64::from(layer), numbers);
    }
    let set = foreign(
        path,
        vectors,
        (offset, &file.model_type),
        ".svec file".into(),
    )?;
    let note = match offset {
        0 => "layer N is taken for the output of block N, counted from 0".to_owned(),
        _ => format!("layer N is taken for the output of block N {offset:+}, counted from 0"),
    };
    Ok(Read {
        set,
        notes: vec![note],
    })
}
