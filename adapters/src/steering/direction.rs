//! Directions in the residual stream, and the file that holds a set of them.

use crate::error::{Error, Result};
use crate::formats::tables::{self, CONTENT_HASH, Table, content_hash_of_vectors};
use crate::model::ModelSpec;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
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
            return Err(Error::value(
                "direction",
                "a non-zero, finite vector",
                format!("norm {norm}"),
                "the positive and negative prompts may be the same",
            ));
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
            Error::value(
                "layers",
                format!(
                    "one of the layers of the direction set, {:?}",
                    self.layers.keys().collect::<Vec<_>>()
                ),
                format!("layer {layer}"),
                "choose another layer, or extract this one",
            )
        })
    }

    /// The coeff that is `fraction` of the mean residual norm, averaged over `layers`.
    ///
    /// # Errors
    /// When a layer has no reference norm.
    pub fn natural_coeff(&self, layers: &[usize], fraction: f64) -> Result<f64> {
        let norms = layers
            .iter()
            .map(|l| {
                self.provenance.residual_norms.get(l).ok_or_else(|| {
                    Error::value(
                        "coeff_fraction",
                        format!("a reference norm for layer {l} in the direction set"),
                        "none",
                        "give an absolute coeff",
                    )
                })
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(fraction * norms.iter().copied().sum::<f64>() / norms.len().max(1) as f64)
    }

    /// Writes tensors `layer.{i}` (F32, (H,)) with provenance as metadata.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let (tables, mut metadata) = (self.tables(), self.metadata());
        let hash = content_hash_of_vectors(&tables, &metadata);
        metadata.insert(CONTENT_HASH.to_owned(), hash);
        tables::write_tables(path, &tables, metadata)
    }

    /// Everything but the vectors and the hash, as text.
    pub(crate) fn metadata(&self) -> HashMap<String, String> {
        let norms: BTreeMap<usize, f64> = self.layers.iter().map(|(l, d)| (*l, d.norm)).collect();
        let p = &self.provenance;
        // As text: JSON readers differ in the last bit of a number.
        let json = |x: &BTreeMap<usize, f64>| {
            let text: BTreeMap<usize, String> =
                x.iter().map(|(l, x)| (*l, x.to_string())).collect();
            serde_json::to_string(&text).unwrap_or_default()
        };
        let metadata = [
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
            ("residual_norms", json(&p.residual_norms)),
            ("norms", json(&norms)),
            ("origin", p.origin.clone()),
        ];
        metadata
            .into_iter()
            .filter(|(k, v)| *k != "origin" || !v.is_empty())
            .map(|(k, v)| (k.to_owned(), v))
            .collect()
    }

    /// The vectors, `layer.{i}`.
    pub(crate) fn tables(&self) -> BTreeMap<String, Table> {
        self.layers
            .iter()
            .map(|(l, d)| {
                let table = Table {
                    shape: vec![d.unit.len()],
                    data: d.unit.clone(),
                };
                (format!("layer.{l}"), table)
            })
            .collect()
    }

    /// Reads a file written by [`DirectionSet::save`].
    ///
    /// # Errors
    /// When a tensor, its shape, the content hash or the layer convention is wrong.
    pub fn load(path: &Path) -> Result<Self> {
        let (tables, metadata) = tables::read_tables(path)?;
        Self::from_tables(path, tables, &metadata)
    }

    /// The set with these [`DirectionSet::tables`] and [`DirectionSet::metadata`] and their
    /// hash; errors name `path`.
    pub(crate) fn from_tables(
        path: &Path,
        tables: BTreeMap<String, Table>,
        metadata: &HashMap<String, String>,
    ) -> Result<Self> {
        let get = |key: &str| metadata.get(key).cloned().unwrap_or_default();
        let expect = |key: &str, expected: &str| {
            let found = get(key);
            if found == expected {
                return Ok(());
            }
            Err(Error::content(
                path,
                format!("metadata `{key}`"),
                format!("`{expected}`"),
                if found.is_empty() {
                    "nothing".into()
                } else {
                    format!("`{found}`")
                },
                "this is not a direction file of this project, or it was changed",
            ))
        };
        expect("layer_convention", LAYER_CONVENTION)?;
        expect("format", FORMAT)?;
        expect(CONTENT_HASH, &content_hash_of_vectors(&tables, metadata))?;
        let map = |key: &str| -> Result<BTreeMap<usize, f64>> {
            let wrong = |found: String| {
                Error::content(
                    path,
                    format!("metadata `{key}`"),
                    "numbers by layer",
                    found,
                    "re-export the file",
                )
            };
            let text: BTreeMap<usize, String> =
                serde_json::from_str(&get(key)).map_err(|e| wrong(e.to_string()))?;
            let number = |(l, x): (usize, String)| Ok((l, x.parse().map_err(|_| wrong(x))?));
            text.into_iter().map(number).collect()
        };
        let norms = map("norms")?;
        let mut layers = BTreeMap::new();
        let mut width = None;
        for (name, table) in tables {
            let layer: usize = name
                .strip_prefix("layer.")
                .and_then(|l| l.parse().ok())
                .ok_or_else(|| {
                    Error::content(
                        path,
                        format!("tensor `{name}`"),
                        "a name such as `layer.3`",
                        format!("`{name}`"),
                        "remove the tensor",
                    )
                })?;
            let hidden = *width.get_or_insert(table.data.len());
            if table.shape != [hidden] {
                return Err(Error::content(
                    path,
                    format!("tensor `{name}`"),
                    format!("shape ({hidden},)"),
                    format!("{:?}", table.shape),
                    "re-export the file",
                ));
            }
            let norm = norms.get(&layer).copied().unwrap_or(1.);
            layers.insert(
                layer,
                Direction {
                    unit: table.data,
                    norm,
                },
            );
        }
        let number = |key: &str| get(key).parse().unwrap_or_default();
        Ok(Self {
            layers,
            provenance: Provenance {
                model: get("model"),
                model_fingerprint: get("model_fingerprint"),
                model_layers: number("model_layers"),
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
        let misfit = |place: &str, expected: String, found: String| {
            let hint = format!(
                "the directions were made for {}; extract them again for this model",
                self.provenance.model
            );
            Err(Error::content(path, place, expected, found, hint))
        };
        for (layer, d) in &self.layers {
            if d.unit.len() != model.hidden {
                return misfit(
                    &format!("tensor `layer.{layer}`"),
                    format!("width {} of {}", model.hidden, model.name),
                    d.unit.len().to_string(),
                );
            }
        }
        if self.is_foreign() {
            return self.check_foreign(path, model);
        }
        if self.provenance.model_layers != model.layers {
            return misfit(
                "metadata `model_layers`",
                format!("{} layers of {}", model.layers, model.name),
                self.provenance.model_layers.to_string(),
            );
        }
        if self.provenance.model_fingerprint != model.fingerprint {
            return misfit(
                "metadata `model_fingerprint`",
                format!("{} of {}", short(&model.fingerprint), model.name),
                short(&self.provenance.model_fingerprint).into(),
            );
        }
        Ok(())
    }

    /// Whether another program made the set. Such files name at most the kind of model.
    pub fn is_foreign(&self) -> bool {
        !self.provenance.origin.is_empty() && self.provenance.model_fingerprint.is_empty()
    }

    fn check_foreign(&self, path: &Path, model: &ModelSpec) -> Result<()> {
        let hint = "the vectors belong to another model";
        if let Some(layer) = self.layers.keys().find(|l| **l >= model.layers) {
            let expected = format!("layers 0 to {} of {}", model.layers - 1, model.name);
            let place = format!("tensor of layer {layer}");
            return Err(Error::content(
                path,
                place,
                expected,
                format!("layer {layer}"),
                hint,
            ));
        }
        let plain = |name: &str| -> String {
            let letters = name.chars().filter(char::is_ascii_alphanumeric);
            letters.map(|c| c.to_ascii_lowercase()).collect()
        };
        match plain(&self.provenance.model).as_str() {
            "" | "llama" | "llamaforcausallm" => Ok(()),
            _ => Err(Error::content(
                path,
                "kind of model",
                "`llama`",
                format!("`{}`", self.provenance.model),
                hint,
            )),
        }
    }
}

fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}
