//! The metadata of a UQFF that this program wrote: where the file comes from, what was
//! merged and baked into it, and hashes of its content. mistral.rs does not read it.

use super::entry::Entry;
use crate::error::{Error, Result};
use reptune_adapters::steering::direction::LAYER_CONVENTION;
use reptune_adapters::{HookPoint, Intervention, ModelSpec, Operator, files};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

const KEY: &str = "reptune.provenance";
const WEIGHTS: &str = "reptune.weights_sha256";
const BIASES: &str = "reptune.biases_sha256";
const HASH: &str = "reptune.provenance_sha256";
const FORMAT: &str = "reptune.uqff.2";
/// The format before, which is read too.
const FORMAT_1: &str = "reptune.uqff.1";

/// Where the content of a UQFF comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UqffProvenance {
    /// Name and version of this format.
    pub format: String,
    /// Name and version of the program.
    pub made_by: String,
    /// What layer numbers mean.
    pub layer_convention: String,
    /// Name of the model.
    pub model: String,
    /// [`ModelSpec::fingerprint`] of the model.
    pub model_fingerprint: String,
    /// Name of the file in the same directory that holds all other entries.
    #[serde(default, alias = "beside", skip_serializing_if = "Option::is_none")]
    pub shared: Option<String>,
    /// Hashes of the adapters that were merged, in their order.
    #[serde(default)]
    pub updates: Vec<String>,
    /// What was baked.
    #[serde(default)]
    pub steering: Vec<BakedSteering>,
}

/// An intervention that was baked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BakedSteering {
    /// What it does to the residual stream.
    pub operator: Operator,
    /// Where in the blocks.
    pub point: HookPoint,
    /// The coefficient of every layer. Format 1 has a total instead, which is not read.
    #[serde(default)]
    pub coeffs: BTreeMap<usize, f64>,
    /// SHA-256 of the unit directions, f32 in little-endian order, by layer.
    #[serde(default, rename = "directions_sha256")]
    pub directions: String,
}

impl BakedSteering {
    /// Describes `intervention`.
    ///
    /// # Errors
    /// When a direction cannot be read.
    pub fn of(intervention: &Intervention) -> Result<Self> {
        let mut directions = Vec::new();
        for layer in intervention.layers() {
            if let Some(unit) = intervention.direction(layer) {
                unit.write_bytes(&mut directions)?;
            }
        }
        let coeff = |layer| Some((layer, intervention.coeff(layer)?));
        Ok(Self {
            operator: intervention.operator(),
            point: intervention.point(),
            coeffs: intervention.layers().filter_map(coeff).collect(),
            directions: files::sha256([directions.as_slice()]),
        })
    }
}

impl UqffProvenance {
    /// The provenance of a copy of `model` in which nothing was changed yet.
    pub fn of(model: &ModelSpec) -> Self {
        let name = Path::new(&model.name).file_name().unwrap_or_default();
        Self {
            format: FORMAT.into(),
            made_by: concat!("reptune ", env!("CARGO_PKG_VERSION")).into(),
            layer_convention: LAYER_CONVENTION.into(),
            model: name.to_string_lossy().into_owned(),
            model_fingerprint: model.fingerprint.clone(),
            shared: None,
            updates: Vec::new(),
            steering: Vec::new(),
        }
    }

    /// Reads the metadata of `path`; none if another program wrote the file.
    ///
    /// # Errors
    /// When the metadata is malformed, or of another version.
    pub fn read(path: &Path, metadata: &BTreeMap<String, String>) -> Result<Option<Self>> {
        let Some(text) = metadata.get(KEY) else {
            return Ok(None);
        };
        let wrong = |expected: &str, found: String| {
            let hint = "write the file again with this version of reptune";
            Error::model(path, format!("metadata `{KEY}`"), expected, found, hint)
        };
        let mut read: Self =
            serde_json::from_str(text).map_err(|e| wrong("a provenance", e.to_string()))?;
        let known = [FORMAT, FORMAT_1].contains(&&*read.format);
        if !known || read.layer_convention != LAYER_CONVENTION {
            let found = format!("{}, {}", read.format, read.layer_convention);
            return Err(wrong(&format!("{FORMAT}, {LAYER_CONVENTION}"), found));
        }
        let is_name = |name: &String| Path::new(name).file_name().is_some_and(|n| n == &**name);
        if let Some(name) = read.shared.iter().find(|name| !is_name(name)) {
            return Err(wrong("`shared`, the name of a file", format!("`{name}`")));
        }
        read.format = FORMAT.into();
        Ok(Some(read))
    }

    /// The most bytes that the metadata takes in the header of a file with `entries`.
    pub(super) fn metadata_bytes(&self, entries: usize) -> usize {
        let text = self.text();
        // The JSON of the header escapes quotes and backslashes.
        text.len() + text.matches(['"', '\\']).count() + 80 * entries + 512
    }

    pub(super) fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// Hashes of the entries of a file, by index. Weights have one hash, so that the same
/// weights under other biases have the same.
#[derive(Default)]
pub struct Digests {
    weights: BTreeMap<usize, String>,
    biases: BTreeMap<usize, String>,
}

impl Digests {
    /// Adds an entry.
    pub fn add(&mut self, index: usize, entry: &Entry) {
        let (layout, bytes) = (entry.layout(), entry.bytes());
        let parts = [&bytes[..layout.flag], &bytes[layout.flag + 1..layout.end]];
        self.weights.insert(index, files::sha256(parts));
        if layout.bias.is_some() {
            let bias = files::sha256([&bytes[layout.end..]]);
            self.biases.insert(index, bias);
        }
    }

    /// The metadata of a file with these hashes and the text `provenance`.
    pub fn metadata(&self, provenance: String) -> BTreeMap<String, String> {
        let lines = self.weights.iter().map(|(i, h)| format!("{i} {h}\n"));
        let weights = files::sha256([lines.collect::<String>().as_bytes()]);
        let biases = serde_json::to_string(&self.biases).unwrap_or_default();
        let hash = files::sha256([provenance.as_bytes()]);
        let metadata = [
            (WEIGHTS, weights),
            (BIASES, biases),
            (HASH, hash),
            (KEY, provenance),
        ];
        metadata.map(|(key, value)| (key.to_owned(), value)).into()
    }

    /// Compares these hashes with those in the `metadata` of `path`, if this program wrote it.
    pub fn check(&self, path: &Path, metadata: &BTreeMap<String, String>) -> Result<()> {
        let expected = metadata.get(KEY).map(|text| self.metadata(text.clone()));
        for (key, expected) in expected.unwrap_or_default() {
            let found = metadata.get(&key).map_or("nothing", String::as_str);
            if found != expected {
                let (place, found) = (format!("metadata `{key}`"), format!("`{found}`"));
                let expected = format!("`{expected}`, the hash of the content");
                let hint = "the file was changed or damaged; write it again";
                return Err(Error::model(path, place, expected, found, hint));
            }
        }
        Ok(())
    }
}
