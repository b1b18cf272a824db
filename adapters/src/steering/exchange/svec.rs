//! `.svec`: JSON with a vector for each layer, keyed by the block whose output it is added to.

use super::vectors::{self, Read};
use crate::error::{Error, Result};
use crate::files;
use crate::steering::direction::DirectionSet;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// Longest file: a vector of every layer of the largest Llama takes a twentieth of it.
const LONGEST: u64 = 256 << 20;

/// Values stay text until their layer is known, so that errors can name it.
#[derive(Deserialize)]
struct Svec<'a> {
    #[serde(default)]
    model_type: String,
    #[serde(borrow)]
    directions: BTreeMap<String, &'a RawValue>,
    #[serde(default)]
    explained_variances: BTreeMap<String, IgnoredAny>,
    #[serde(default)]
    probe_accuracies: BTreeMap<String, IgnoredAny>,
    #[serde(default)]
    num_heads: Option<IgnoredAny>,
    #[serde(default)]
    head_dim: Option<IgnoredAny>,
}

/// Whether the file starts as JSON does.
///
/// # Errors
/// When it cannot be read.
pub fn is_one(path: &Path) -> Result<bool> {
    let mut start = Vec::new();
    let read = File::open(path).and_then(|f| f.take(64).read_to_end(&mut start));
    read.map_err(|e| Error::read(path, e))?;
    Ok(start.trim_ascii_start().first() == Some(&b'{'))
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
    let model = vectors::kind_of_model(set);
    let file = json!({
        "model_type": model, "directions": directions, "explained_variances": {},
    });
    files::write_atomically(path, |w| writeln!(w, "{file}"))
}

/// Reads a file; layer N of it is our layer N + `offset`.
///
/// # Errors
/// When it is not a `.svec` file, a key is not a layer, a layer has several vectors, or they
/// are of attention heads.
pub fn read(path: &Path, offset: i64) -> Result<Read> {
    let wrong = |place: String, expected: &str, found: String, hint: &str| {
        Error::content(path, place, expected, found, hint)
    };
    let length = std::fs::metadata(path).map_err(|e| Error::read(path, e))?;
    if length.len() > LONGEST {
        let expected = format!("at most {LONGEST} bytes");
        let found = length.len().to_string();
        let hint = "keep one vector a layer, or convert it to GGUF";
        return Err(wrong("file".into(), &expected, found, hint));
    }
    let bytes = files::read(path)?;
    let file: Svec = serde_json::from_slice(&bytes).map_err(|e| {
        let place = format!("line {}", e.line());
        let hint = "give a .svec file, a GGUF control vector, or directions of this project";
        wrong(place, "JSON with `directions`", e.to_string(), hint).caused_by(e)
    })?;
    let of_heads = file.probe_accuracies.keys().any(|key| key.contains(':'));
    if of_heads || file.num_heads.is_some() || file.head_dim.is_some() {
        let what = format!("{}: vectors of attention heads", path.display());
        let reason = "only vectors of the residual stream can be added to it";
        return Err(Error::unsupported(what, reason));
    }
    let mut by_layer = BTreeMap::new();
    for (key, value) in &file.directions {
        let place = format!("`directions.{key}`");
        let Some(layer) = vectors::layer(key) else {
            let (found, hint) = (format!("`{key}`"), "re-export the file");
            return Err(wrong(place, "a layer as key", found, hint));
        };
        let vector = vector(value.get())
            .map_err(|found| wrong(place, "one vector of numbers", found, "keep one a layer"))?;
        by_layer.insert(layer, vector);
    }
    let about = (&*file.model_type, ".svec file");
    let mut read = vectors::converted(path, by_layer, about, offset)?;
    for (name, map) in [
        ("explained_variances", &file.explained_variances),
        ("probe_accuracies", &file.probe_accuracies),
    ] {
        if !map.is_empty() {
            read.notes.push(format!("its `{name}` are not kept"));
        }
    }
    Ok(read)
}

/// A row of numbers, or a table of one row: several rows are several components.
fn vector(text: &str) -> std::result::Result<Vec<f32>, String> {
    let inner = text.trim_start().strip_prefix('[').unwrap_or_default();
    if !inner.trim_start().starts_with('[') {
        return serde_json::from_str(text).map_err(|e| e.to_string());
    }
    let table: Vec<Vec<f32>> = serde_json::from_str(text).map_err(|e| e.to_string())?;
    match <[Vec<f32>; 1]>::try_from(table) {
        Ok([row]) => Ok(row),
        Err(table) => Err(format!("{} vectors", table.len())),
    }
}
