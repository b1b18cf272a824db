//! A UQFF with other biases than the one it was made from.

use crate::error::{Error, Result};
use crate::model::uqff::{self, UQFF, UqffFile};
use candle_core::Tensor;
use reptune_adapters::formats::safetensors::TensorFileWriter;
use reptune_adapters::{Error as Fault, ModelSpec, TargetModule};
use safetensors::Dtype;
use std::collections::BTreeMap;
use std::path::Path;

/// Writes to the directory `out` a [`UQFF`] with the entries of the UQFF `from`, and with
/// `biases` at the `down_proj` of their blocks: what [`additions`](crate::bake::additions)
/// come to. The weights are copied as they are, one at a time.
///
/// Shapes: every bias (H,).
///
/// # Errors
/// When `from` is no UQFF of this Llama, a type takes no bias, or the disk is full.
pub(crate) fn write(
    from: &Path,
    spec: &ModelSpec,
    biases: &BTreeMap<TargetModule, Tensor>,
    out: &Path,
) -> Result<()> {
    let Some(file) = UqffFile::find(from)? else {
        let hint = "mistral.rs wrote none";
        return Err(Error::model(from, "*.uqff", "a UQFF", "none", hint));
    };
    std::fs::create_dir_all(out).map_err(|e| Fault::write(out, e))?;
    let names: Vec<String> = file.indices().map(|i| i.to_string()).collect();
    let shown = names.iter().map(String::as_str);
    let mut writer = TensorFileWriter::create(&out.join(UQFF), shown)?;
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
    writer.finish()?;
    Ok(())
}
