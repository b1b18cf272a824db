//! Control vectors in GGUF.
//!
//! llama.cpp adds tensor `direction.N`, times the strength that the user gives, to the
//! output of 0-based block N: our layer N. Its buffer starts at block 1, so it refuses a file
//! with `direction.0`; repeng may write one. It ignores keys that it does not know, so the
//! file also has those of the GLP convention and, under `reptune.`, everything that we know
//! of the directions: a file of unit vectors is read back bit for bit.

mod convention;

use super::vectors::{self, Read, Vectors};
use crate::error::{Error, Result};
use crate::formats::gguf::{Gguf, GgufWriter, Value};
use crate::formats::tables::{self, CONTENT_HASH, content_hash_of_vectors};
use crate::steering::direction::{Direction, DirectionSet};
use crate::steering::dose::Dose;
use crate::steering::operator::Operator;
use convention::HOOK;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

const ARCHITECTURE: &str = "controlvector";
const NAME: &str = "direction.";
/// Prefix of the keys of [`DirectionSet::save`].
const OURS: &str = "reptune.";
/// Our key for the dose that was multiplied into the vectors, if any.
const DOSE: &str = "dose";

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
        return Err(Error::Unsupported {
            what: "layer 0 in a control vector".into(),
            reason: "llama.cpp counts from block 1 there and refuses any file with `direction.0`; \
                     leave layer 0 out"
                .into(),
        });
    }
    let wrong = |what: &str, expected: &str, found: String, hint: &str| {
        Err(Error::value(what, expected, found, hint))
    };
    if layers.is_empty() {
        return wrong("layers", "at least one", "none".into(), "for example 1-3");
    }
    let listed: Vec<usize> = layers.iter().copied().collect();
    let coeffs = match length {
        Length::Unit | Length::Stored => BTreeMap::new(),
        Length::Dose(dose) => dose.per_layer(set, &listed, Operator::Add)?,
    };
    if coeffs
        .values()
        .any(|c| *c == 0. || !(*c as f32).is_finite())
    {
        let found = format!("{length:?}");
        return wrong("dose", "a number other than 0", found, "for example 19.0");
    }
    let mut written = DirectionSet {
        layers: BTreeMap::new(),
        provenance: set.provenance.clone(),
    };
    for &layer in &layers {
        let Direction { unit, norm } = set.layer(layer)?;
        let factor = match length {
            Length::Stored => *norm,
            Length::Unit => 1.,
            Length::Dose(_) => coeffs[&layer],
        };
        let scaled = Direction {
            unit: unit.iter().map(|x| x * factor as f32).collect(),
            norm: match length {
                Length::Unit | Length::Stored => *norm,
                Length::Dose(_) => factor.abs(),
            },
        };
        written.layers.insert(layer, scaled);
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
    file.text(convention::LAYER_IDS, ids.join(","));
    let vectors = written.layers.iter().map(|(l, d)| (*l, &d.unit));
    file.text(convention::HASH, convention::hash(vectors));

    let mut metadata = written.metadata();
    let dose = match length {
        Length::Unit => None,
        Length::Stored => Some("as stored".to_owned()),
        Length::Dose(Dose::Total(total)) => {
            Some(format!("coeff {total} over {} layers", layers.len()))
        }
        Length::Dose(dose) => Some(dose.to_string()),
    };
    metadata.extend(dose.map(|dose| (DOSE.to_owned(), dose)));
    let hash = content_hash_of_vectors(&written.tables(), &metadata);
    metadata.insert(CONTENT_HASH.to_owned(), hash);
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
    let architecture = file.text("general.architecture")?.unwrap_or("nothing");
    if architecture != ARCHITECTURE {
        return Err(Error::content(
            path,
            "`general.architecture`",
            format!("`{ARCHITECTURE}`"),
            format!("`{architecture}`"),
            "this GGUF file does not hold directions",
        ));
    }
    let mut notes = convention::check(&file, offset, operator)?;
    let vectors = vectors(&file)?;
    let ours = ours(&file)?;
    if ours.is_empty() {
        // Our own hash covers these too, and fails with a better message.
        convention::check_vectors(&file, &vectors)?;
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
    let mut read = Vectors {
        path,
        by_layer: vectors,
        model: model.to_owned(),
        origin: "GGUF control vector",
    }
    .taken(offset)?;
    if let Some(method) = method {
        read.set.provenance.method = method.to_owned();
    }
    read.notes.splice(0..0, notes);
    Ok(read)
}

/// The vectors by the file's layer numbers.
fn vectors(file: &Gguf) -> Result<BTreeMap<u32, Vec<f32>>> {
    let mut vectors = BTreeMap::new();
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
        if info.shape.len() != 1 {
            let found = format!("shape {:?}", info.shape);
            return Err(wrong("one row", found, "re-export the file"));
        }
        vectors.insert(layer, file.floats(name)?);
    }
    Ok(vectors)
}

/// Our metadata, without the prefix of its keys.
fn ours(file: &Gguf) -> Result<HashMap<String, String>> {
    let mut ours = HashMap::new();
    for key in file.metadata().keys() {
        let Some(own) = key.strip_prefix(OURS) else {
            continue;
        };
        if let Some(text) = file.text(key)? {
            ours.insert(own.to_owned(), text.to_owned());
        }
    }
    Ok(ours)
}

/// The set of a file that reptune wrote.
fn own(
    path: &Path,
    vectors: BTreeMap<u32, Vec<f32>>,
    metadata: &HashMap<String, String>,
) -> Result<DirectionSet> {
    let table = |(layer, data): (u32, Vec<f32>)| {
        let shape = vec![data.len()];
        (format!("layer.{layer}"), tables::Table { shape, data })
    };
    let tables = vectors.into_iter().map(table).collect();
    let mut set = DirectionSet::from_tables(path, tables, metadata)?;
    if let Some(dose) = metadata.get(DOSE) {
        for (layer, d) in &mut set.layers {
            let vector: Vec<f64> = d.unit.iter().copied().map(f64::from).collect();
            *d = vectors::direction(path, *layer as i64, &vector)?;
        }
        set.provenance.origin = format!("GGUF control vector of reptune, {dose}");
    }
    Ok(set)
}
