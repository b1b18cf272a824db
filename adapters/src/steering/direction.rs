//! Directions in the residual stream, and the file that holds a set of them.

use crate::error::{Error, Result};
use crate::formats::tables::{self, CONTENT_HASH, Metadata, Table, Tables};
use crate::model::ModelSpec;
use crate::steering::model_hint::{HintedModel, hinted};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// How layers are counted in every file of this project: layer i is the output of block i,
/// from 0.
pub const LAYER_CONVENTION: &str = "block_output_0";

const FORMAT: &str = "reptune.directions.1";

/// A unit vector, with the norm it had before normalising.
#[derive(Debug, Clone, PartialEq)]
pub struct Direction {
    /// Unit L2 vector (H,).
    pub unit: Vec<f32>,
    /// L2 norm before normalising.
    pub norm: f64,
}

impl Direction {
    /// Normalises `v` (H,).
    ///
    /// # Errors
    /// When its norm is zero or not finite.
    pub fn new(v: &[f64]) -> Result<Self> {
        let norm = v.iter().map(|x| x * x).sum::<f64>().sqrt();
        if norm == 0. || !norm.is_finite() {
            let (expected, found) = ("a non-zero, finite vector", format!("norm {norm}"));
            let hint = "the positive and negative prompts may be the same";
            return Err(Error::value("direction", expected, found, hint));
        }
        Ok(Self {
            unit: v.iter().map(|x| (x / norm) as f32).collect(),
            norm,
        })
    }
}

/// Where a direction set comes from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// Name of the model.
    pub model: String,
    /// [`ModelSpec::fingerprint`] of the model.
    pub model_fingerprint: String,
    /// Number of blocks of the model.
    pub model_layers: usize,
    /// [`Architecture::model_type`](crate::model::Architecture::model_type) of the model; empty of
    /// a Llama.
    #[serde(default)]
    pub architecture: String,
    /// SHA-256 of the recipe.
    pub recipe: String,
    /// How the directions were computed.
    pub method: String,
    /// Which tokens were captured.
    pub rows: String,
    /// Number of pairs used.
    pub pairs: usize,
    /// Number of pairs before the correct-only filter.
    pub pairs_captured: usize,
    /// Mean L2 norm of the captured residual rows, by layer.
    pub residual_norms: BTreeMap<usize, f64>,
    /// The file of another program that the set was read from, and how; empty if the set was
    /// extracted here.
    #[serde(default)]
    pub origin: String,
}

/// One direction for each of some layers, and where they come from.
#[derive(Debug, Clone, PartialEq)]
pub struct DirectionSet {
    /// Directions by layer (output of block i, 0-based).
    pub layers: BTreeMap<usize, Direction>,
    /// Where they come from.
    pub provenance: Provenance,
}

impl DirectionSet {
    /// The direction of a layer.
    ///
    /// # Errors
    /// When the set has none for it.
    pub fn layer(&self, layer: usize) -> Result<&Direction> {
        self.layers.get(&layer).ok_or_else(|| {
            let layers: Vec<_> = self.layers.keys().collect();
            let expected = format!("one of the layers of the direction set, {layers:?}");
            let hint = "choose another layer, or extract this one";
            Error::value("layers", expected, format!("layer {layer}"), hint)
        })
    }

    /// The coeff that is `fraction` of the mean residual norm, averaged over `layers`.
    ///
    /// # Errors
    /// When a layer has no reference norm.
    pub fn natural_coeff(&self, layers: &[usize], fraction: f64) -> Result<f64> {
        let known = &self.provenance.residual_norms;
        if let Some(l) = layers.iter().find(|l| !known.contains_key(l)) {
            let expected = format!("a reference norm for layer {l} in the direction set");
            let hint = "give the dose as a coeff";
            return Err(Error::value("fraction", expected, "none", hint));
        }
        let sum: f64 = layers.iter().map(|l| known[l]).sum();
        Ok(fraction * sum / layers.len().max(1) as f64)
    }

    /// Writes tensors `layer.{i}` (F32, (H,)) with provenance as metadata.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let (tables, metadata) = self.stored(None);
        tables::write_tables(path, &tables, metadata)
    }

    /// The vectors as `layer.{i}`, and everything else as text, with `more` and a hash.
    pub(crate) fn stored(&self, more: Option<(&str, String)>) -> (Tables, Metadata) {
        let tables = self.layers.iter().map(|(l, d)| {
            let (shape, data) = (vec![d.unit.len()], d.unit.clone());
            (format!("layer.{l}"), Table { shape, data })
        });
        let tables = tables.collect();
        // As text: JSON readers differ in the last bit of a number.
        let json = |numbers: &mut dyn Iterator<Item = (&usize, &f64)>| {
            let text: BTreeMap<_, _> = numbers.map(|(l, x)| (*l, x.to_string())).collect();
            serde_json::to_string(&text).unwrap_or_default()
        };
        let p = &self.provenance;
        let optional = [
            ("model_architecture", p.architecture.clone()),
            ("origin", p.origin.clone()),
        ];
        let optional = optional.into_iter().filter(|(_, text)| !text.is_empty());
        let fields = [
            ("format", FORMAT.into()),
            ("layer_convention", LAYER_CONVENTION.into()),
            ("model", p.model.clone()),
            ("model_fingerprint", p.model_fingerprint.clone()),
            ("model_layers", p.model_layers.to_string()),
            ("recipe", p.recipe.clone()),
            ("method", p.method.clone()),
            ("rows", p.rows.clone()),
            ("pairs", p.pairs.to_string()),
            ("pairs_captured", p.pairs_captured.to_string()),
            ("residual_norms", json(&mut p.residual_norms.iter())),
            (
                "norms",
                json(&mut self.layers.iter().map(|(l, d)| (l, &d.norm))),
            ),
        ];
        let fields = fields.into_iter().chain(optional).chain(more);
        let mut metadata: Metadata = fields.map(|(k, v)| (k.to_owned(), v)).collect();
        let hash = tables::content_hash_of_vectors(&tables, &metadata);
        metadata.insert(CONTENT_HASH.to_owned(), hash);
        (tables, metadata)
    }

    /// Reads a file written by [`DirectionSet::save`].
    ///
    /// # Errors
    /// When a tensor, its shape, the content hash or the layer convention is wrong.
    pub fn load(path: &Path) -> Result<Self> {
        let (tables, metadata) = tables::read_tables(path)?;
        Self::from_tables(path, tables, &metadata)
    }

    /// The set that was [`DirectionSet::stored`]; errors name `path`.
    pub(crate) fn from_tables(path: &Path, tables: Tables, metadata: &Metadata) -> Result<Self> {
        let hash = tables::content_hash_of_vectors(&tables, metadata);
        for (key, expected) in [
            ("layer_convention", LAYER_CONVENTION),
            ("format", FORMAT),
            (CONTENT_HASH, &hash),
        ] {
            let hint = "this is not a direction file of this project, or it was changed";
            tables::expect((path, metadata), key, expected, hint)?;
        }
        let get = |key: &str| metadata.get(key).cloned().unwrap_or_default();
        let map = |key: &str| -> Result<BTreeMap<usize, f64>> {
            let wrong = |found: String| {
                let (place, hint) = (format!("metadata `{key}`"), "re-export the file");
                Error::content(path, place, "numbers by layer", found, hint)
            };
            let text: BTreeMap<usize, String> =
                serde_json::from_str(&get(key)).map_err(|e| wrong(e.to_string()).caused_by(e))?;
            let number = |(l, x): (usize, String)| Ok((l, x.parse().map_err(|_| wrong(x))?));
            text.into_iter().map(number).collect()
        };
        let norms = map("norms")?;
        let mut layers = BTreeMap::new();
        let width = tables.values().next().map_or(0, |table| table.data.len());
        for (name, Table { shape, data: unit }) in tables {
            let wrong = |expected: &str, found: String, hint: &str| {
                Error::content(path, format!("tensor `{name}`"), expected, found, hint)
            };
            let layer = name.strip_prefix("layer.").and_then(|l| l.parse().ok());
            let layer: usize = layer.ok_or_else(|| {
                let found = format!("`{name}`");
                wrong("a name such as `layer.3`", found, "remove the tensor")
            })?;
            if shape != [width] {
                let (expected, found) = (format!("shape ({width},)"), format!("{shape:?}"));
                return Err(wrong(&expected, found, "re-export the file"));
            }
            let norm = norms.get(&layer).copied().unwrap_or(1.);
            layers.insert(layer, Direction { unit, norm });
        }
        let number = |key: &str| get(key).parse().unwrap_or_default();
        Ok(Self {
            layers,
            provenance: Provenance {
                model: get("model"),
                model_fingerprint: get("model_fingerprint"),
                model_layers: number("model_layers"),
                architecture: get("model_architecture"),
                recipe: get("recipe"),
                method: get("method"),
                rows: get("rows"),
                pairs: number("pairs"),
                pairs_captured: number("pairs_captured"),
                residual_norms: map("residual_norms")?,
                origin: get("origin"),
            },
        })
    }

    /// Checks that the set was made for `model`: width, layer count, fingerprint.
    ///
    /// # Errors
    /// When it was not; they name the file `path`.
    pub fn check_model(&self, path: &Path, model: &ModelSpec) -> Result<()> {
        let (p, name) = (&self.provenance, &model.name);
        let made = format!("the directions were made for the model {}", p.model);
        let again = format!("{made}; extract them again for this model");
        let misfit = |place: &str, expected: String, found: String, hint: &str| {
            Err(Error::content(path, place, expected, found, hint))
        };
        for (layer, Direction { unit, .. }) in &self.layers {
            if unit.len() != model.hidden {
                let place = format!("tensor `layer.{layer}`");
                let expected = format!("width {} of {name}", model.hidden);
                return misfit(&place, expected, unit.len().to_string(), &again);
            }
        }
        if self.is_foreign() {
            // Layers above are left out by whoever steers, as llama.cpp ignores them.
            let above = self.layers.keys().next().filter(|l| **l >= model.layers);
            if let Some(layer) = above {
                let expected = format!("layers 0 to {} of {name}", model.layers - 1);
                let (place, found) = (format!("tensor of layer {layer}"), format!("layer {layer}"));
                let hint = "the vectors belong to another model";
                return misfit(&place, expected, found, hint);
            }
            let (architecture, found) = (model.architecture, format!("`{}`", p.model));
            if hinted(&p.model, architecture) != HintedModel::Other {
                return Ok(());
            }
            let hint = format!(
                "the vectors belong to another model; if they do belong to this one, export the \
                 file again with the model hint `{architecture}`"
            );
            return misfit("kind of model", format!("`{architecture}`"), found, &hint);
        }
        if p.model_layers != model.layers {
            let expected = format!("{} layers of {name}", model.layers);
            let found = p.model_layers.to_string();
            return misfit("metadata `model_layers`", expected, found, &again);
        }
        if !model.is(&p.model_fingerprint) {
            let expected = format!("{} of {name}", short(&model.fingerprint));
            let found = short(&p.model_fingerprint).to_owned();
            return misfit("metadata `model_fingerprint`", expected, found, &again);
        }
        Ok(())
    }

    /// The set for `model`: without layers that the model does not have, and with remarks for the
    /// user on what its file leaves open.
    ///
    /// # Errors
    /// Those of [`DirectionSet::check_model`].
    pub fn for_model(mut self, path: &Path, model: &ModelSpec) -> Result<(Self, Vec<String>)> {
        self.check_model(path, model)?;
        let (mut notes, file) = (Vec::new(), path.display());
        let hinted = hinted(&self.provenance.model, model.architecture);
        if self.is_foreign() && hinted == HintedModel::Unclear {
            let (hint, name) = (&self.provenance.model, &model.name);
            notes.push(format!(
                "{file}: made for `{hint}`, as it says; used for {name}"
            ));
        }
        let layers = self.layers.keys().filter(|l| **l >= model.layers);
        let layers: Vec<String> = layers.map(usize::to_string).collect();
        if !layers.is_empty() {
            let (layers, last) = (layers.join(", "), model.layers - 1);
            notes.push(format!(
                "{file}: layer {layers} is left out: the last layer of {} is {last}",
                model.name
            ));
        }
        self.layers.retain(|layer, _| *layer < model.layers);
        Ok((self, notes))
    }

    /// Whether another program made the set. Such files name at most the kind of model.
    pub fn is_foreign(&self) -> bool {
        !self.provenance.origin.is_empty() && self.provenance.model_fingerprint.is_empty()
    }
}

fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}
