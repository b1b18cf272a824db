//! Control vectors in GGUF.
//!
//! llama.cpp adds tensor `direction.N`, times the strength that the user gives, to the
//! output of 0-based block N: our layer N. Its buffer starts at block 1, so it refuses a file
//! with `direction.0`; repeng may write one. It ignores keys that it does not know, so the
//! file also has those of the GLP convention and, under `reptune.`, everything that we know
//! of the directions: a file of unit vectors is read back bit for bit.

use super::vectors::{self, Read};
use crate::error::{Error, Result};
use crate::files;
use crate::formats::gguf::{Gguf, GgufWriter, Value};
use crate::formats::tables::{Metadata, Table};
use crate::steering::direction::{Direction, DirectionSet};
use crate::steering::dose::Dose;
use crate::steering::operator::Operator;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const ARCHITECTURE: &str = "controlvector";
const NAME: &str = "direction.";
/// Prefix of the keys of [`DirectionSet::save`].
const OURS: &str = "reptune.";
/// Our key for the dose that was multiplied into the vectors, if any.
const DOSE: &str = "dose";
/// GLP's name for block outputs, where our directions act.
const HOOK: &str = "residual_stream_post_layer";
/// Key of GLP for the layers, as `1,2,3`.
const LAYER_IDS: &str = "glp.layer_ids_zero_based";
/// Key of GLP for [`hash`].
const HASH: &str = "glp.content_sha256";

/// How long the vectors of a file are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Length {
    /// Unit vectors: a strength is a coeff at every layer. Read back, the set is the same.
    Unit,
    /// `norm * unit`, as the vectors were before normalising: a strength is what it was in the
    /// file of another program that they came from.
    Stored,
    /// `coeff * unit`, with the coefficient that this dose gives a layer: strength 1 applies
    /// the dose. Read back, a direction has the length of its vector as its norm.
    Dose(Dose),
}

/// Writes the directions of `layers` as a control vector of llama.cpp.
///
/// # Errors
/// When `layers` has block 0, which llama.cpp cannot steer, or one that the set lacks; when
/// a dose is 0 or not finite.
pub fn write(path: &Path, set: &DirectionSet, layers: &[usize], length: Length) -> Result<()> {
    let layers: BTreeSet<usize> = layers.iter().copied().collect();
    if layers.contains(&0) {
        let reason = "llama.cpp counts from block 1 there and refuses any file with \
                      `direction.0`; leave layer 0 out";
        return Err(Error::unsupported("layer 0 in a control vector", reason));
    }
    let wrong = |what: &str, expected: &str, found: String, hint: &str| {
        Err(Error::value(what, expected, found, hint))
    };
    if layers.is_empty() {
        return wrong("layers", "at least one", "none".into(), "for example 1-3");
    }
    let layers: Vec<usize> = layers.into_iter().collect();
    let coeffs = match length {
        Length::Unit | Length::Stored => BTreeMap::new(),
        Length::Dose(dose) => dose.per_layer(set, &layers, Operator::Add)?,
    };
    let applies = |coeff: &f64| *coeff != 0. && (*coeff as f32).is_finite();
    if !coeffs.values().all(applies) {
        let found = format!("{length:?}");
        return wrong("dose", "a number other than 0", found, "for example 19.0");
    }
    let mut written = DirectionSet {
        layers: BTreeMap::new(),
        provenance: set.provenance.clone(),
    };
    for &layer in &layers {
        let Direction { unit, norm } = set.layer(layer)?;
        let (factor, norm) = match length {
            Length::Unit => (1., *norm),
            Length::Stored => (*norm, *norm),
            Length::Dose(_) => (coeffs[&layer], coeffs[&layer].abs()),
        };
        let unit = unit.iter().map(|x| x * factor as f32).collect();
        written.layers.insert(layer, Direction { unit, norm });
    }
    let mut file = GgufWriter::new(ARCHITECTURE);
    file.text("general.type", ARCHITECTURE);
    file.text("controlvector.model_hint", vectors::kind_of_model(set));
    file.set("controlvector.layer_count", Value::I32(layers.len() as i32));
    file.set("glp.spec_version", Value::U32(1));
    file.text("glp.mode", "add");
    file.set("glp.alpha_default", Value::F32(1.));
    file.set("glp.rank", Value::U32(1));
    file.text("glp.hook_point", HOOK);
    file.text("glp.derived_at", HOOK);
    file.text("glp.method", set.provenance.method.as_str());
    let ids: Vec<String> = layers.iter().map(usize::to_string).collect();
    file.text(LAYER_IDS, ids.join(","));
    file.text(HASH, hash(written.layers.values().map(|d| &d.unit)));

    let dose = match length {
        Length::Unit => None,
        Length::Stored => Some("as stored".to_owned()),
        Length::Dose(Dose::Total(total)) => {
            Some(format!("coeff {total} over {} layers", layers.len()))
        }
        Length::Dose(dose) => Some(dose.to_string()),
    };
    let (_, metadata) = written.stored(dose.map(|dose| (DOSE, dose)));
    for (key, value) in metadata.into_iter().collect::<BTreeMap<_, _>>() {
        file.text(&format!("{OURS}{key}"), value);
    }
    for (layer, d) in &written.layers {
        file.floats(&format!("{NAME}{layer}"), &[d.unit.len()], &d.unit)?;
    }
    file.write(path)?;
    Ok(())
}

/// Reads a control vector for `operator`; layer N of the file is our layer N + `offset`.
///
/// Vectors that are to be projected out (GLP) are read for [`Operator::Ablate`] only.
///
/// # Errors
/// When it is not a control vector, does something else than `operator` at block outputs
/// (errors say what), a tensor is not one row of f32, or a hash is wrong.
pub fn read(path: &Path, offset: i64, operator: Operator) -> Result<Read> {
    let file = Gguf::open(path)?;
    let hint = "this GGUF file does not hold directions";
    file.expect_text("general.architecture", ARCHITECTURE, hint)?;
    let mut notes = check(&file, offset, operator)?;
    let vectors = vectors(&file, &mut notes)?;
    let ours = ours(&file)?;
    if ours.is_empty() {
        // Our own hash covers these too, and fails with a better message.
        check_vectors(&file, &vectors)?;
    }
    if vectors.contains_key(&0) {
        notes.push("it has direction.0, which llama.cpp refuses; it is read here".into());
    }
    if !ours.is_empty() {
        vectors::no_offset(offset)?;
        let set = own(path, vectors, &ours)?;
        return Ok(Read { set, notes });
    }
    let declared = file.whole("controlvector.layer_count")?;
    if let Some(declared) = declared.filter(|d| *d != vectors.len() as u64) {
        let found = vectors.len();
        notes.push(format!("it says to have {declared} layers and has {found}"));
    }
    let method = match file.text("glp.method")? {
        Some(method) => Some(method),
        None => file.text("controlvector.method")?,
    };
    let model = file.text("controlvector.model_hint")?.unwrap_or_default();
    let mut read = vectors::converted(path, vectors, (model, "GGUF control vector"), offset)?;
    if let Some(method) = method {
        read.set.provenance.method = method.to_owned();
    }
    read.notes.splice(0..0, notes);
    Ok(read)
}

/// The vectors by the file's layer numbers: rows or columns of any type that is no block of
/// quantized numbers.
fn vectors(file: &Gguf, notes: &mut Vec<String>) -> Result<BTreeMap<u32, Vec<f32>>> {
    let mut vectors = BTreeMap::new();
    let mut others = BTreeSet::new();
    for (name, info) in file.tensors() {
        let place = format!("tensor `{name}`");
        let wrong = |expected: &str, found: String, hint: &str| {
            Error::content(file.path(), &place, expected, found, hint)
        };
        let layer = name.strip_prefix(NAME).and_then(vectors::layer);
        let layer = layer.ok_or_else(|| {
            let hint = "files of rank above 1 (direction.N.j) are not supported";
            wrong("a name such as `direction.3`", format!("`{name}`"), hint)
        })?;
        if info.shape.iter().filter(|dim| **dim > 1).count() > 1 {
            let found = format!("shape {:?}", info.shape);
            return Err(wrong("one row", found, "re-export the file"));
        }
        if info.shape.len() != 1 || info.stored() != "F32" {
            others.insert(format!("{} of shape {:?}", info.stored(), info.shape));
        }
        vectors.insert(layer, file.numbers(name)?);
    }
    if !others.is_empty() {
        let others = others.into_iter().collect::<Vec<_>>().join(", ");
        notes.push(format!(
            "its tensors are {others}; llama.cpp takes one row of F32 only, they are read here"
        ));
    }
    Ok(vectors)
}

/// Our metadata, without the prefix of its keys.
fn ours(file: &Gguf) -> Result<Metadata> {
    let mut ours = Metadata::new();
    for key in file.metadata().keys() {
        if let Some(own) = key.strip_prefix(OURS)
            && let Some(text) = file.text(key)?
        {
            ours.insert(own.to_owned(), text.to_owned());
        }
    }
    Ok(ours)
}

/// The set of a file that reptune wrote.
fn own(path: &Path, vectors: BTreeMap<u32, Vec<f32>>, metadata: &Metadata) -> Result<DirectionSet> {
    let table = |(layer, data): (u32, Vec<f32>)| {
        let shape = vec![data.len()];
        (format!("layer.{layer}"), Table { shape, data })
    };
    let tables = vectors.into_iter().map(table).collect();
    let mut set = DirectionSet::from_tables(path, tables, metadata)?;
    if let Some(dose) = metadata.get(DOSE) {
        for (layer, d) in &mut set.layers {
            *d = vectors::direction(path, *layer, &d.unit)?;
        }
        set.provenance.origin = format!("GGUF control vector of reptune, {dose}");
    }
    Ok(set)
}

/// SHA-256 of the vectors in f32, little-endian, in the order of their layers.
fn hash<'a>(vectors: impl Iterator<Item = &'a Vec<f32>>) -> String {
    let bytes: Vec<u8> = vectors.flatten().flat_map(|x| x.to_le_bytes()).collect();
    files::sha256([bytes.as_slice()])
}

/// Refuses files that do something else than `operator` with one vector at block outputs;
/// returns remarks for the user.
fn check(file: &Gguf, offset: i64, operator: Operator) -> Result<Vec<String>> {
    let refused = |what: String, reason: &str| {
        let what = format!("{}: {what}", file.path().display());
        Err(Error::unsupported(what, reason))
    };
    match (file.text("glp.mode")?, operator) {
        (Some("project"), Operator::Ablate) | (None | Some("add"), _) => {}
        (Some("project"), _) => {
            let what = "vectors that are to be projected out (`glp.mode` = project)";
            let reason = "adding them would do something else; steer with --operator ablate";
            return refused(what.into(), reason);
        }
        (Some(other), _) => {
            let reason = "only `add` and `project` are supported";
            return refused(format!("`glp.mode` = {other}"), reason);
        }
    }
    if let Some(component) = component(file)?.filter(|component| component != "hidden_states") {
        let reason = "only vectors of the residual stream (`hidden_states`) can be added to it";
        return refused(format!("directions of the component `{component}`"), reason);
    }
    if let Some(other) = file.text("glp.hook_point")?.filter(|at| *at != HOOK) {
        let reason = "directions act on block outputs here, residual_stream_post_layer";
        return refused(format!("`glp.hook_point` = {other}"), reason);
    }
    for key in ["glp.spec_version", "glp.rank"] {
        if let Some(found) = file.whole(key)?.filter(|n| *n > 1) {
            let what = format!("`{key}` = {found}, directions of rank above 1 (GLP version 2)");
            return refused(what, "only one vector per layer is supported");
        }
    }
    if matches!(file.value(LAYER_IDS), Some(Value::Bool(false))) && offset == 0 {
        let reason = "layers are counted from 0 here; if the file counts from 1, give a layer \
                      offset of -1";
        return refused(format!("`{LAYER_IDS}` = false"), reason);
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

/// The part of a model that the vectors of EasySteer are for, if the file says it: as JSON in
/// `controlvector.easysteer`, or in keys of its own.
fn component(file: &Gguf) -> Result<Option<String>> {
    const NATIVE: &str = "controlvector.easysteer";
    if let Some(text) = file.text(NATIVE)? {
        let native: serde_json::Value = serde_json::from_str(text).map_err(|e| {
            let (place, expected) = (format!("metadata `{NATIVE}`"), "JSON");
            file.wrong(place, expected, e.to_string()).caused_by(e)
        })?;
        return match &native["component"] {
            serde_json::Value::Null => Ok(None),
            component => Ok(Some(
                component
                    .as_str()
                    .map_or(component.to_string(), str::to_owned),
            )),
        };
    }
    let heads = ["num_heads", "head_dim"].map(|key| file.value(&format!("controlvector.{key}")));
    match file.text("controlvector.component")? {
        Some(component) => Ok(Some(component.to_owned())),
        None if heads.iter().any(Option::is_some) => Ok(Some("attention_heads".into())),
        None => Ok(None),
    }
}

/// Compares the vectors with the layers and the hash that the file states.
fn check_vectors(file: &Gguf, vectors: &BTreeMap<u32, Vec<f32>>) -> Result<()> {
    let wrong = |key: &str, expected: String, found: &str| {
        let (place, found) = (format!("`{key}`"), format!("`{found}`"));
        let hint = "the file was changed or damaged; fetch it again";
        Err(Error::content(file.path(), place, expected, found, hint))
    };
    if let Some(Value::String(stated)) = file.value(LAYER_IDS) {
        let ids: Vec<String> = vectors.keys().map(u32::to_string).collect();
        if stated.split(',').map(str::trim).ne(ids.iter()) {
            let expected = format!("`{}`, the layers of its tensors", ids.join(","));
            return wrong(LAYER_IDS, expected, stated);
        }
    }
    match file
        .text(HASH)?
        .filter(|stated| *stated != hash(vectors.values()))
    {
        Some(stated) => {
            let expected = format!("`{}`, of its tensors", hash(vectors.values()));
            wrong(HASH, expected, stated)
        }
        None => Ok(()),
    }
}
