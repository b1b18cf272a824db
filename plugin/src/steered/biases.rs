//! Steering as biases: a UQFF with other biases than the one it is made from.

use super::steering::Steering;
use crate::bake::BakePlan;
use crate::error::{Error, Result};
use crate::model::ModelDir;
use crate::model::uqff::{self, UQFF};
use crate::store::{Store, StoreKey};
use candle_core::Tensor;
use reptune_adapters::formats::safetensors::TensorFileWriter;
use reptune_adapters::{Error as Fault, ModelSpec, TargetModule};
use safetensors::Dtype;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The biases that steer, without those that are zero.
pub(super) fn biases(
    spec: &ModelSpec,
    steering: &Steering,
) -> Result<BTreeMap<TargetModule, Tensor>> {
    let plan = BakePlan::of(spec, &steering.interventions(spec)?)?;
    if plan.embeddings.is_some() {
        return Err(Error::Bake {
            what: "an addition at the input of layer 0".into(),
            reason: "that is in the embeddings, which the builder loads as they are; \
                     use `reptune bake`, or another layer"
                .into(),
        });
    }
    let mut left = BTreeMap::new();
    for (module, bias) in plan.biases {
        if bias.to_vec1::<f32>()?.iter().any(|x| *x != 0.) {
            left.insert(module, bias);
        }
    }
    Ok(left)
}

/// The UQFF in `base` with `biases`, kept under `key` and the biases.
pub(super) fn variant(
    cache: &Store,
    key: &StoreKey,
    base: &Path,
    spec: &ModelSpec,
    biases: &BTreeMap<TargetModule, Tensor>,
) -> Result<PathBuf> {
    let mut written = Vec::new();
    for (module, bias) in biases {
        written.extend(module.to_string().into_bytes());
        bias.write_bytes(&mut written)?;
    }
    let entry = cache.entry(&key.and(written), |out| write(base, spec, biases, out))?;
    Ok(entry.join(UQFF))
}

/// Writes to the directory `out` a [`UQFF`] with the entries of the UQFF `from`, and with
/// `biases` at the `down_proj` of their blocks: what [`additions`](crate::bake::additions)
/// come to. The weights are copied as they are, one at a time.
///
/// Shapes: every bias (H,).
///
/// # Errors
/// When `from` is no UQFF of this Llama, a type takes no bias, or the disk is full.
fn write(
    from: &Path,
    spec: &ModelSpec,
    biases: &BTreeMap<TargetModule, Tensor>,
    out: &Path,
) -> Result<()> {
    let Some(file) = ModelDir::at(from)?.open_uqff()? else {
        let hint = "mistral.rs wrote none";
        return Err(Error::model(from, "*.uqff", "a UQFF", "none", hint));
    };
    std::fs::create_dir_all(out).map_err(|e| Fault::write(out, e))?;
    let names: Vec<String> = file.indices().map(|i| i.to_string()).collect();
    let shown = names.iter().map(String::as_str);
    let path = &out.join(UQFF);
    let mut writer = TensorFileWriter::create((path, path), shown, 0)?;
    let places: BTreeMap<usize, (TargetModule, &Tensor)> = biases
        .iter()
        .map(|(module, bias)| (uqff::index(module.layer, module.kind), (*module, bias)))
        .collect();
    for index in file.indices() {
        let mut entry = file.entry(index)?;
        if let Some((module, bias)) = places.get(&index) {
            let (shape, expected) = (entry.layout().shape, module.kind.shape(spec));
            if shape != expected {
                let place = format!("tensor `{index}`");
                let (expected, found) = (format!("{expected:?}"), format!("{shape:?}"));
                let hint = "its linear layers are not those of a Llama";
                return Err(Error::model(from, place, expected, found, hint));
            }
            entry = entry.with_bias(Some(bias))?;
        }
        let bytes = entry.bytes();
        writer.push(&index.to_string(), Dtype::U8, &[bytes.len()], bytes)?;
    }
    writer.finish(BTreeMap::new())?;
    Ok(())
}
