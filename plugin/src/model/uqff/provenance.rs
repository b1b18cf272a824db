//! What a UQFF of ours says of itself: where it comes from, what was baked into it, and
//! hashes of its content.
//!
//! It stands in the metadata of the file, which mistral.rs does not read. Weights have one
//! hash, every bias has its own, so that a change of the biases alone need not read
//! gigabytes of weights.

use super::entry::Entry;
use crate::error::{Error, Result};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use reptune_adapters::steering::direction::{Direction, DirectionSet, LAYER_CONVENTION};
use reptune_adapters::{Dose, HookPoint, Intervention, Operator, files};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

const KEY: &str = "reptune.provenance";
const WEIGHTS: &str = "reptune.weights_sha256";
const BIASES: &str = "reptune.biases_sha256";
const HASH: &str = "reptune.provenance_sha256";
const FORMAT: &str = "reptune.uqff.1";

/// Where the content of a UQFF comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// What this text is.
    pub format: String,
    /// Name and version of the program.
    pub made_by: String,
    /// What layer numbers mean.
    pub layer_convention: String,
    /// Name of the model.
    pub model: String,
    /// [`ModelSpec::fingerprint`](reptune_adapters::ModelSpec) of the model.
    pub model_fingerprint: String,
    /// The file beside this one that holds all other entries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beside: Option<String>,
    /// Hashes of the low-rank updates that were merged, in their order.
    #[serde(default)]
    pub updates: Vec<String>,
    /// What was baked.
    #[serde(default)]
    pub steering: Vec<Steered>,
    /// Biases that the entries had before, by entry.
    #[serde(default)]
    pub earlier: BTreeMap<usize, Floats>,
}

/// An intervention as it was baked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Steered {
    /// What was done.
    pub operator: Operator,
    /// Where in the blocks.
    pub point: HookPoint,
    /// Signed multiplier, shared out over the layers.
    pub coeff: f64,
    /// The unit direction of every layer.
    pub directions: BTreeMap<usize, Floats>,
    /// Norms of the vectors, where they are applied as they were stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub norms: Option<BTreeMap<usize, f64>>,
}

/// Numbers that are written bit for bit: base64 of little-endian f32.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Floats(pub Vec<f32>);

impl From<Floats> for String {
    fn from(floats: Floats) -> Self {
        let bytes: Vec<u8> = floats.0.iter().flat_map(|x| x.to_le_bytes()).collect();
        BASE64_STANDARD.encode(bytes)
    }
}

impl TryFrom<String> for Floats {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        let bytes = BASE64_STANDARD.decode(text).map_err(|e| e.to_string())?;
        match bytes.as_chunks::<4>() {
            (words, []) => Ok(Self(words.iter().map(|w| f32::from_le_bytes(*w)).collect())),
            _ => Err("not a whole number of floats".into()),
        }
    }
}

/// The dose as a total over the layers; under [`Operator::Clamp`] what each of them gets,
/// and for vectors as they were stored their multiple.
fn total(intervention: &Intervention) -> f64 {
    let layers: Vec<usize> = intervention.layers().collect();
    let each = layers.first().and_then(|l| intervention.coeff(*l));
    match (intervention.dose(), intervention.operator()) {
        (Dose::Total(x) | Dose::Strength(x), _) | (Dose::Coeff(x), Operator::Clamp) => x,
        (Dose::Coeff(x), _) => x * layers.len() as f64,
        (Dose::Fraction(_), Operator::Clamp) => each.unwrap_or(0.),
        (Dose::Fraction(_), _) => each.unwrap_or(0.) * layers.len() as f64,
    }
}

impl Steered {
    /// `intervention`, to be written down.
    ///
    /// # Errors
    /// When a direction is not on the CPU.
    pub fn of(intervention: &Intervention) -> Result<Self> {
        let floats = |layer| -> Result<Option<(usize, Floats)>> {
            let Some(d) = intervention.direction(layer) else {
                return Ok(None);
            };
            Ok(Some((layer, Floats(d.to_vec1()?))))
        };
        Ok(Self {
            operator: intervention.operator(),
            point: intervention.point(),
            coeff: total(intervention),
            directions: intervention
                .layers()
                .filter_map(|l| floats(l).transpose())
                .collect::<Result<_>>()?,
            norms: match intervention.dose() {
                Dose::Strength(_) => intervention
                    .layers()
                    .map(|l| Some((l, intervention.norm(l)?)))
                    .collect(),
                _ => None,
            },
        })
    }

    /// The intervention with `coeff`.
    ///
    /// # Errors
    /// When it has no layer, or coeff is not finite.
    pub fn with(&self, coeff: f64) -> Result<Intervention> {
        let direction = |(layer, unit): (&usize, &Floats)| {
            let norm = self.norms.as_ref().and_then(|n| n.get(layer));
            let (unit, norm) = (unit.0.clone(), norm.copied().unwrap_or(1.));
            (*layer, Direction { unit, norm })
        };
        let set = DirectionSet {
            layers: self.directions.iter().map(direction).collect(),
            provenance: Default::default(),
        };
        let layers: Vec<usize> = self.directions.keys().copied().collect();
        let intervention = match self.norms {
            Some(_) => Intervention::new(&set, &layers, Dose::Strength(coeff), Operator::Add)?,
            None => Intervention::new(&set, &layers, Dose::Total(coeff), self.operator)?,
        };
        Ok(intervention.at(self.point))
    }
}

impl Provenance {
    /// Of a descendant of `model`, in which nothing was changed yet.
    pub fn of(model: &reptune_adapters::ModelSpec) -> Self {
        let name = Path::new(&model.name).file_name().unwrap_or_default();
        Self {
            format: FORMAT.into(),
            made_by: concat!("reptune ", env!("CARGO_PKG_VERSION")).into(),
            layer_convention: LAYER_CONVENTION.into(),
            model: name.to_string_lossy().into_owned(),
            model_fingerprint: model.fingerprint.clone(),
            beside: None,
            updates: Vec::new(),
            steering: Vec::new(),
            earlier: BTreeMap::new(),
        }
    }

    /// What the metadata of `path` says; none if the file is not ours.
    ///
    /// # Errors
    /// When it is broken, or of another version.
    pub fn read(path: &Path, metadata: &BTreeMap<String, String>) -> Result<Option<Self>> {
        let Some(text) = metadata.get(KEY) else {
            return Ok(None);
        };
        let wrong = |expected: &str, found: String| {
            let hint = "write the file anew, with this version";
            Error::model(path, format!("metadata `{KEY}`"), expected, found, hint)
        };
        let read: Self =
            serde_json::from_str(text).map_err(|e| wrong("a provenance", e.to_string()))?;
        if read.format != FORMAT || read.layer_convention != LAYER_CONVENTION {
            let found = format!("{}, {}", read.format, read.layer_convention);
            return Err(wrong(&format!("{FORMAT}, {LAYER_CONVENTION}"), found));
        }
        match &read.beside {
            Some(name)
                if Path::new(name)
                    .file_name()
                    .is_none_or(|n| n != name.as_str()) =>
            {
                Err(wrong("`beside`, the name of a file", format!("`{name}`")))
            }
            _ => Ok(Some(read)),
        }
    }

    /// Bytes of metadata that this takes in a file of `entries`, whatever the coeffs are.
    pub(super) fn room(&self, entries: usize) -> usize {
        let mut still = self.clone();
        still.steering.iter_mut().for_each(|s| s.coeff = 0.);
        // quotes and backslashes of the JSON are escaped in the header
        let text = still.text();
        let escaped = text.len() + text.matches(['"', '\\']).count();
        escaped + 32 * self.steering.len() + 80 * entries + 512
    }

    /// The metadata of a file with this provenance and `digests`.
    pub(super) fn metadata(&self, digests: &Digests) -> BTreeMap<String, String> {
        self.told(digests.weights_hash(), &digests.biases)
    }

    /// `metadata`, that of `path`, once this is its provenance and some of its biases, by
    /// entry, have become others.
    ///
    /// # Errors
    /// When the hashes in it are broken.
    pub fn restated(
        &self,
        path: &Path,
        metadata: &BTreeMap<String, String>,
        biases: &BTreeMap<usize, Vec<u8>>,
    ) -> Result<BTreeMap<String, String>> {
        let text = |key: &str| metadata.get(key).cloned().unwrap_or_default();
        let mut hashes: BTreeMap<usize, String> =
            serde_json::from_str(&text(BIASES)).map_err(|e| {
                let hint = "write the file anew";
                let place = format!("metadata `{BIASES}`");
                Error::model(path, place, "hashes by entry", e.to_string(), hint)
            })?;
        let new = biases
            .iter()
            .map(|(i, b)| (*i, files::sha256([b.as_slice()])));
        hashes.extend(new);
        Ok(self.told(text(WEIGHTS), &hashes))
    }

    fn told(&self, weights: String, biases: &BTreeMap<usize, String>) -> BTreeMap<String, String> {
        let text = self.text();
        BTreeMap::from([
            (WEIGHTS.to_owned(), weights),
            (
                BIASES.to_owned(),
                serde_json::to_string(biases).unwrap_or_default(),
            ),
            (HASH.to_owned(), files::sha256([text.as_bytes()])),
            (KEY.to_owned(), text),
        ])
    }

    fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// Hashes of the entries of a file, by index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Digests {
    weights: BTreeMap<usize, String>,
    biases: BTreeMap<usize, String>,
}

impl Digests {
    /// Takes in an entry.
    pub fn add(&mut self, index: usize, entry: &Entry) {
        let (layout, bytes) = (entry.layout(), entry.bytes());
        let parts = [&bytes[..layout.flag], &bytes[layout.flag + 1..layout.end]];
        self.weights.insert(index, files::sha256(parts));
        if layout.bias.is_some() {
            let bias = files::sha256([&bytes[layout.end..]]);
            self.biases.insert(index, bias);
        }
    }

    fn weights_hash(&self) -> String {
        let lines = self.weights.iter().map(|(i, h)| format!("{i} {h}\n"));
        files::sha256([lines.collect::<String>().as_bytes()])
    }

    /// Checks that these are the entries that `metadata` of `path` tells of, if it does.
    ///
    /// # Errors
    /// When they are not.
    pub fn check(&self, path: &Path, metadata: &BTreeMap<String, String>) -> Result<()> {
        let Some(provenance) = Provenance::read(path, metadata)? else {
            return Ok(());
        };
        for (key, expected) in provenance.metadata(self) {
            let found = metadata.get(&key).map_or("nothing", String::as_str);
            if found != expected {
                return Err(Error::model(
                    path,
                    format!("metadata `{key}`"),
                    format!("`{expected}`, of what the file holds"),
                    format!("`{found}`"),
                    "the file was changed or damaged; write it anew",
                ));
            }
        }
        Ok(())
    }
}
