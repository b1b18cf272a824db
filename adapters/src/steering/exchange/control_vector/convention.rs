//! The keys of the GLP convention that a reader must check.

use crate::error::{Error, Result};
use crate::files;
use crate::formats::gguf::{Gguf, Value};
use crate::steering::operator::Operator;
use std::collections::BTreeMap;

/// Block outputs, where our directions act.
pub const HOOK: &str = "residual_stream_post_layer";
/// Key of the layers, as `1,2,3`.
pub const LAYER_IDS: &str = "glp.layer_ids_zero_based";
/// Key of [`hash`].
pub const HASH: &str = "glp.content_sha256";

/// SHA-256 of the vectors in f32, little-endian, in the order of their layers.
pub fn hash<'a, L>(vectors: impl IntoIterator<Item = (L, &'a Vec<f32>)>) -> String {
    let floats = vectors.into_iter().flat_map(|(_, v)| v);
    let bytes: Vec<u8> = floats.flat_map(|x| x.to_le_bytes()).collect();
    files::sha256([bytes.as_slice()])
}

/// Refuses files that do something else than `operator` with one vector at block outputs;
/// returns remarks for the user.
pub fn check(file: &Gguf, offset: i64, operator: Operator) -> Result<Vec<String>> {
    let refused = |what: String, reason: &str| {
        Err(Error::Unsupported {
            what: format!("{}: {what}", file.path().display()),
            reason: reason.into(),
        })
    };
    match (file.text("glp.mode")?, operator) {
        (Some("project"), Operator::Ablate) | (None | Some("add"), _) => {}
        (Some("project"), _) => {
            return refused(
                "vectors that are to be projected out (`glp.mode` = project)".into(),
                "adding them would do something else; steer with --operator ablate",
            );
        }
        (Some(other), _) => {
            return refused(
                format!("`glp.mode` = {other}"),
                "only `add` and `project` are supported",
            );
        }
    }
    match file.text("glp.hook_point")? {
        None | Some(HOOK) => {}
        Some(other) => {
            return refused(
                format!("`glp.hook_point` = {other}"),
                "directions act on block outputs here, residual_stream_post_layer",
            );
        }
    }
    for (key, most) in [("glp.spec_version", 1), ("glp.rank", 1)] {
        if let Some(found) = file.whole(key)?.filter(|n| *n > most) {
            return refused(
                format!("`{key}` = {found}, directions of rank above 1 (GLP version 2)"),
                "only one vector per layer is supported",
            );
        }
    }
    if matches!(file.value(LAYER_IDS), Some(Value::Bool(false))) && offset == 0 {
        return refused(
            format!("`{LAYER_IDS}` = false"),
            "layers are counted from 0 here; if the file counts from 1, give a layer offset of -1",
        );
    }
    let mut notes = Vec::new();
    if let Some(other) = file.text("glp.derived_at")?.filter(|at| *at != HOOK) {
        notes.push(format!("it was derived at another hook point, {other}"));
    }
    if let Some(alpha) = file.number("glp.alpha_default")?.filter(|a| *a != 1.) {
        notes.push(format!(
            "it names a default strength of {alpha} (`glp.alpha_default`), which is not applied"
        ));
    }
    Ok(notes)
}

/// Compares the vectors with the layers and the hash that the file states.
pub fn check_vectors(file: &Gguf, vectors: &BTreeMap<u32, Vec<f32>>) -> Result<()> {
    let wrong = |key: &str, expected: String, found: &str| {
        let hint = "the file was changed or damaged; fetch it again";
        Err(Error::content(
            file.path(),
            format!("`{key}`"),
            expected,
            format!("`{found}`"),
            hint,
        ))
    };
    if let Some(Value::String(stated)) = file.value(LAYER_IDS) {
        let ids: Vec<String> = vectors.keys().map(u32::to_string).collect();
        if stated.split(',').map(str::trim).ne(ids.iter()) {
            let expected = format!("`{}`, the layers of its tensors", ids.join(","));
            return wrong(LAYER_IDS, expected, stated);
        }
    }
    match file.text(HASH)? {
        Some(stated) if stated != hash(vectors) => {
            wrong(HASH, format!("`{}`, of its tensors", hash(vectors)), stated)
        }
        _ => Ok(()),
    }
}
