//! Control vectors in GGUF.
//!
//! Tensor `direction.N` is added behind 0-based block N, times the strength that the user
//! gives: our layer N. llama.cpp's buffer starts at block 1, so it refuses a file with
//! `direction.0`; repeng may write one. Extra keys are ignored there, so ours stand beside
//! those of the GLP convention, and a file of ours is read back bit for bit.

use super::{Read, foreign};
use crate::artefact;
use crate::direction::{Direction, DirectionSet, LAYER_CONVENTION, Provenance};
use crate::error::{Error, Result};
use crate::gguf::{Gguf, GgufWriter, Value};
use std::collections::BTreeMap;
use std::path::Path;

const ARCHITECTURE: &str = "controlvector";
const FORMAT: &str = "reptune.control_vector.1";
const HOOK: &str = "residual_stream_post_layer";
/// Arrays of one type where something is added by others and read by us.
const NAME: &str = "direction.";

/// How long the vectors of a file are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Length {
    /// Unit vectors: a strength is a coeff at every layer. Read back, the set is the same.
    Unit,
    /// `coeff / layers * unit`: a strength of 1 is the steering with this coeff.
    Dose(f64),
}

/// Writes the directions of `layers` as a control vector of llama.cpp.
///
/// # Errors
/// When `layers` has block 0, which llama.cpp cannot steer, or one that the set lacks.
pub fn write(path: &Path, set: &DirectionSet, layers: &[usize], length: Length) -> Result<()> {
    if layers.contains(&0) {
        return Err(Error::Unsupported {
            what: "layer 0 in a control vector".into(),
            reason: "llama.cpp counts from block 1 there, and refuses a file with `direction.0` \
                     as a whole; leave layer 0 out"
                .into(),
        });
    }
    if layers.is_empty() {
        return Err(Error::value(
            "layers",
            "at least one",
            "none",
            "for example 1-3",
        ));
    }
    let p = &set.provenance;
    let mut file = GgufWriter::new(ARCHITECTURE);
    file.text("controlvector.model_hint", "llama");
    file.set("controlvector.layer_count", Value::I32(layers.len() as i32));
    file.set("glp.spec_version", Value::U32(1));
    file.text("glp.mode", "add");
    file.set("glp.alpha_default", Value::F32(1.));
    file.text("glp.hook_point", HOOK);
    file.text("glp.derived_at", HOOK);
    file.text("glp.method", p.method.as_str());
    let listed: Vec<String> = layers.iter().map(usize::to_string).collect();
    file.text("glp.layer_ids_zero_based", listed.join(","));
    let mut all = Vec::new();
    for layer in layers {
        let direction = set.layer(*layer)?;
        let vector: Vec<f32> = match length {
            Length::Unit => direction.unit.clone(),
            Length::Dose(coeff) => {
                let dose = (coeff / layers.len() as f64) as f32;
                direction.unit.iter().map(|x| x * dose).collect()
            }
        };
        all.extend(vector.iter().flat_map(|x| x.to_le_bytes()));
        file.floats(&format!("{NAME}{layer}"), &[vector.len()], &vector)?;
    }
    file.text("glp.content_sha256", artefact::sha256([all.as_slice()]));
    if length == Length::Unit {
        let numbers = |x: &BTreeMap<usize, f64>| {
            let text: BTreeMap<usize, String> =
                x.iter().map(|(l, x)| (*l, x.to_string())).collect();
            serde_json::to_string(&text).unwrap_or_default()
        };
        let norms = layers.iter().map(|l| Ok((*l, set.layer(*l)?.norm)));
        for (key, value) in [
            ("format", FORMAT.to_owned()),
            ("layer_convention", LAYER_CONVENTION.to_owned()),
            ("model", p.model.clone()),
            ("model_fingerprint", p.model_fingerprint.clone()),
            ("model_layers", p.model_layers.to_string()),
            ("recipe", p.recipe.clone()),
            ("method", p.method.clone()),
            ("rows", p.rows.clone()),
            ("pairs", p.pairs.to_string()),
            ("pairs_captured", p.pairs_captured.to_string()),
            ("residual_norms", numbers(&p.residual_norms)),
            ("norms", numbers(&norms.collect::<Result<_>>()?)),
            ("origin", p.origin.clone()),
        ] {
            file.text(&format!("reptune.{key}"), value);
        }
    }
    file.write(path)?;
    Ok(())
}

/// Reads a control vector; layer N of the file is our layer N + `offset`.
///
/// # Errors
/// When it is no control vector, acts in a way that is not an addition behind whole blocks
/// (each is named), or a tensor is not one row of f32.
pub fn read(path: &Path, offset: i64) -> Result<Read> {
    let file = Gguf::open(path)?;
    let wrong = |place: &str, expected: &str, found: String, hint: &str| {
        Error::content(path, place, expected, found, hint)
    };
    let architecture = file.text("general.architecture")?.unwrap_or("nothing");
    if architecture != ARCHITECTURE {
        return Err(wrong(
            "`general.architecture`",
            "`controlvector`",
            format!("`{architecture}`"),
            "this GGUF holds something else than directions",
        ));
    }
    let mut notes = kind(&file)?;
    let mut vectors = BTreeMap::new();
    for (name, info) in file.tensors() {
        let place = format!("tensor `{name}`");
        let layer = name.strip_prefix(NAME).and_then(|l| l.parse::<u32>().ok());
        let Some(layer) = layer else {
            let hint = "files of rank above 1 (direction.N.j) are not taken";
            return Err(wrong(
                &place,
                "a name such as `direction.3`",
                format!("`{name}`"),
                hint,
            ));
        };
        if info.shape.len() != 1 {
            let found = format!("shape {:?}", info.shape);
            return Err(wrong(&place, "one row", found, "write the file again"));
        }
        vectors.insert(i64::from(layer), file.floats(name)?);
    }
    let declared = file.value("controlvector.layer_count").and_then(|v| {
        let small = v.to_i32().ok().map(i64::from);
        small.or_else(|| v.to_u32().ok().map(i64::from))
    });
    if declared.is_some_and(|d| d != vectors.len() as i64) {
        notes.push(format!(
            "it says to have {} layers and has {}",
            declared.unwrap_or_default(),
            vectors.len()
        ));
    }
    if vectors.contains_key(&0) {
        notes.push("it has direction.0, with which llama.cpp refuses it; taken here".into());
    }
    if file.text("reptune.format")? == Some(FORMAT) {
        if offset != 0 {
            return Err(Error::value(
                "layer offset",
                "0 for a file whose layers are known",
                offset.to_string(),
                "leave it out",
            ));
        }
        let set = ours(&file, vectors)?;
        return Ok(Read { set, notes });
    }
    let hint = file.text("controlvector.model_hint")?.unwrap_or_default();
    let method = file
        .text("glp.method")?
        .or(file.text("controlvector.method")?);
    let mut set = foreign(path, vectors, (offset, hint), "GGUF control vector".into())?;
    if let Some(method) = method {
        set.provenance.method = method.to_owned();
    }
    notes.push(format!(
        "direction.N is taken for the output of block N{}, counted from 0",
        match offset {
            0 => String::new(),
            _ => format!(" {offset:+}"),
        }
    ));
    Ok(Read { set, notes })
}

/// Refuses what is no addition behind whole blocks.
fn kind(file: &Gguf) -> Result<Vec<String>> {
    let mode = file.text("glp.mode")?;
    let refused = |what: String, reason: &str| {
        Err(Error::Unsupported {
            what: format!("{}: {what}", file.path().display()),
            reason: reason.into(),
        })
    };
    match mode {
        None | Some("add") => {}
        Some("project") => {
            return refused(
                "a vector that is to be projected out (`glp.mode` = project)".into(),
                "read as an addition it would do something else; convert a file without that \
                 key, and steer with --operator ablate",
            );
        }
        Some(other) => return refused(format!("`glp.mode` = {other}"), "only `add` is known"),
    }
    for key in ["glp.hook_point", "glp.derived_at"] {
        match file.text(key)? {
            None | Some(HOOK) => {}
            Some(other) => {
                return refused(
                    format!("`{key}` = {other}"),
                    "directions act behind whole blocks here, residual_stream_post_layer",
                );
            }
        }
    }
    let number = |key: &str| file.value(key).and_then(|v| v.to_u32().ok());
    if number("glp.spec_version").is_some_and(|v| v > 1)
        || number("glp.rank").is_some_and(|r| r > 1)
    {
        return refused(
            "directions of rank above 1 (GLP version 2)".into(),
            "one vector a layer is taken",
        );
    }
    match number("glp.alpha_default") {
        _ if file
            .value("glp.alpha_default")
            .and_then(|v| v.to_f32().ok())
            .is_none_or(|a| a == 1.) =>
        {
            Ok(Vec::new())
        }
        _ => Ok(vec![
            "it names a default strength (`glp.alpha_default`) other than 1, which is not applied"
                .into(),
        ]),
    }
}

/// A file of ours: unit vectors, with all that was known of them.
fn ours(file: &Gguf, vectors: BTreeMap<i64, Vec<f32>>) -> Result<DirectionSet> {
    let get = |key: &str| {
        file.text(&format!("reptune.{key}"))
            .ok()
            .flatten()
            .unwrap_or_default()
            .to_owned()
    };
    let wrong = |place: String, expected: &str, found: String| {
        let hint = "the file was changed or damaged; convert it again";
        Error::content(file.path(), place, expected, found, hint)
    };
    let bytes: Vec<u8> = vectors
        .values()
        .flatten()
        .flat_map(|x| x.to_le_bytes())
        .collect();
    let (told, found) = (
        file.text("glp.content_sha256")?.unwrap_or_default(),
        artefact::sha256([bytes.as_slice()]),
    );
    if told != found {
        let place = "`glp.content_sha256`".to_owned();
        return Err(wrong(
            place,
            &format!("`{found}`, of its tensors"),
            format!("`{told}`"),
        ));
    }
    if get("layer_convention") != LAYER_CONVENTION {
        let place = "`reptune.layer_convention`".to_owned();
        return Err(wrong(place, LAYER_CONVENTION, get("layer_convention")));
    }
    let numbers = |key: &str| -> Result<BTreeMap<usize, f64>> {
        let text: BTreeMap<usize, String> = serde_json::from_str(&get(key)).map_err(|e| {
            wrong(
                format!("`reptune.{key}`"),
                "numbers by layer",
                e.to_string(),
            )
        })?;
        let number = |(l, x): (usize, String)| {
            let parsed = x.parse();
            let parsed = parsed.map_err(|_| wrong(format!("`reptune.{key}`"), "numbers", x))?;
            Ok((l, parsed))
        };
        text.into_iter().map(number).collect()
    };
    let norms = numbers("norms")?;
    let layers = vectors.into_iter().map(|(layer, unit)| {
        let layer = layer as usize;
        let norm = norms.get(&layer).copied().unwrap_or(1.);
        (layer, Direction { unit, norm })
    });
    let count = |key: &str| get(key).parse().unwrap_or_default();
    Ok(DirectionSet {
        layers: layers.collect(),
        provenance: Provenance {
            model: get("model"),
            model_fingerprint: get("model_fingerprint"),
            model_layers: count("model_layers"),
            recipe: get("recipe"),
            method: get("method"),
            rows: get("rows"),
            pairs: count("pairs"),
            pairs_captured: count("pairs_captured"),
            residual_norms: numbers("residual_norms")?,
            origin: get("origin"),
        },
    })
}
