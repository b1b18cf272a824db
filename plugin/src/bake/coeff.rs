//! Another dose for a file that was baked: its biases are written over, and nothing else.

use super::{BakePlan, refused, sum};
use crate::error::{Error, Result};
use crate::model::uqff::{self, Entry, Floats, Provenance};
use candle_core::{DType, Device, Tensor};
use reptune_adapters::formats::safetensors::TensorFile;
use reptune_adapters::patch::{self, Patch};
use reptune_adapters::{ModelSpec, TargetModule};
use std::collections::BTreeMap;
use std::path::Path;

/// Bytes before the data of a bias: length, dtype (f32), number of dims, the dim.
const HEAD: usize = 16;

/// Gives the `.uqff` at `path`, one variant of a model with `spec`, the steering that it
/// has with `coeff`; returns the coeff that it had.
///
/// All or nothing: cut off in between, the next of our programs that opens the file
/// completes it. The file is the one that a bake with `coeff` would have written, bit
/// for bit, but weights are not read, so this takes milliseconds whatever the size.
///
/// # Errors
/// [`Error::Bake`] when the file holds no steering with one dose, or its biases are not
/// those that it tells of; when it cannot be written.
pub fn set_coeff(path: &Path, spec: &ModelSpec, coeff: f64) -> Result<f64> {
    let mut old = 0.;
    patch::apply(path, || {
        let (patches, before) = patches(path, spec, coeff)?;
        old = before;
        Ok::<_, Error>(patches)
    })?;
    Ok(old)
}

fn patches(path: &Path, spec: &ModelSpec, coeff: f64) -> Result<(Vec<Patch>, f64)> {
    let file = TensorFile::open(path)?;
    let metadata = file.metadata();
    let Some(provenance) = Provenance::read(path, &metadata)? else {
        return Err(refused(
            format!("another coeff into {}", path.display()),
            "it does not tell what was baked into it; bake it with this program",
        ));
    };
    let [steered] = provenance.steering.as_slice() else {
        return Err(refused(
            format!(
                "another coeff into {}, with {} interventions",
                path.display(),
                provenance.steering.len()
            ),
            "a coeff belongs to one; bake it anew",
        ));
    };
    if provenance.model_fingerprint != spec.fingerprint {
        return Err(refused(
            format!("another coeff into {}", path.display()),
            "config.json and tokenizer beside it are of another model",
        ));
    }
    let was = BakePlan::of(spec, &[steered.with(steered.coeff)?])?;
    let next = BakePlan::of(spec, &[steered.with(coeff)?])?;
    if was.biases.is_empty() || was.embeddings.is_some() || !was.erased.is_empty() {
        return Err(refused(
            format!("another coeff into {}", path.display()),
            "its steering stands in the embeddings or in weights, not in biases; bake it anew",
        ));
    }
    let mut told = provenance.clone();
    told.steering[0].coeff = coeff;
    let mut patches = Vec::new();
    let mut biases = BTreeMap::new();
    for (module, bias) in &next.biases {
        let index = uqff::index(module.layer, module.kind);
        let earlier = match provenance.earlier.get(&index) {
            Some(Floats(values)) => Some(Tensor::new(values.as_slice(), &Device::Cpu)?),
            None => None,
        };
        let bytes = |bias: Option<&Tensor>| -> Result<Vec<u8>> {
            let sum = sum(earlier.as_ref(), bias, spec.hidden)?;
            Entry::bias_bytes(&sum, DType::F32)
        };
        let (is, becomes) = (bytes(was.biases.get(module))?, bytes(Some(bias))?);
        let offset = place(path, &file, *module, &is)?;
        patches.push(Patch {
            offset: offset + HEAD as u64,
            bytes: becomes[HEAD..].to_vec(),
        });
        biases.insert(index, becomes);
    }
    let header = file.header_with(told.restated(path, &metadata, &biases)?)?;
    patches.push(Patch {
        offset: 0,
        bytes: header,
    });
    Ok((patches, steered.coeff))
}

/// Where the bias of `module` stands in the file, which must be `expected`.
fn place(path: &Path, file: &TensorFile, module: TargetModule, expected: &[u8]) -> Result<u64> {
    let name = uqff::index(module.layer, module.kind).to_string();
    let tail = file.tail(&name, expected.len())?;
    match file.place(&name) {
        Some((offset, length)) if tail == expected => Ok(offset + (length - expected.len()) as u64),
        _ => Err(Error::model(
            path,
            format!("bias of `{module}`"),
            "the one that its provenance tells of",
            "another, or none",
            "the file was changed after it was baked; bake it anew",
        )),
    }
}
