//! A quantized model written as a full checkpoint, for programs and commands that need one.

use super::checkpoint::embeddings_and_norms;
use super::uqff;
use super::{EMBEDDINGS, Source};
use crate::error::{Error, Result};
use candle_core::{DType, Tensor};
use reptune_adapters::TargetModule;
use reptune_adapters::files::Staging;
use reptune_adapters::formats::safetensors::TensorFileWriter;
use reptune_adapters::model::ModuleKind;
use safetensors::Dtype;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;

/// Writes the weights of `source` in `dtype` (f32, f16 or bf16) as `model.safetensors` in the
/// directory `out`, with configuration and tokenizer. `progress` is called with the number of
/// tensors that are done, and of all.
///
/// The output head is a tensor of its own where its values differ from those of the embeddings,
/// as they do where only the head was quantized.
///
/// # Errors
/// When a tensor is missing or broken, or `out` holds files. Nothing is left at `out` then.
pub fn dequantize(
    source: &Source,
    out: &Path,
    dtype: DType,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<()> {
    let staging = Staging::new(out)?;
    let (config, spec) = (&source.config, &source.spec);
    let others = embeddings_and_norms(spec).map(|(name, _)| (name, None));
    let linears = (0..spec.layers).flat_map(|layer| {
        ModuleKind::ALL.map(|kind| {
            let module = TargetModule { layer, kind };
            (config.weight_name(Some(module)), Some(module))
        })
    });
    let tensors: Vec<_> = others.chain(linears).collect();
    let (head, _) = source.weight(None)?;
    let is_tied = config.tie_word_embeddings && is_equal(&head, &source.other(EMBEDDINGS)?)?;
    let file = staging.path().join("model.safetensors");
    let mut names: Vec<&str> = tensors.iter().map(|(name, _)| name.as_str()).collect();
    names.extend((!is_tied).then_some(HEAD));
    let total = names.len();
    let mut file = TensorFileWriter::create((&file, &staging.shown(&file)), names, 64)?;
    let mut write = |name: &str, tensor: Tensor| -> Result<()> {
        let (kind, mut bytes) = (stored(dtype), Vec::new());
        tensor.to_dtype(dtype)?.write_bytes(&mut bytes)?;
        Ok(file.push(name, kind, tensor.dims(), &bytes)?)
    };
    for (done, (name, module)) in tensors.iter().enumerate() {
        let tensor = match module {
            Some(module) => unbiased(source, *module)?,
            None => source.other(name)?,
        };
        write(name, tensor)?;
        progress(done + 1, total);
    }
    if !is_tied {
        write(HEAD, head)?;
        progress(total, total);
    }
    file.finish(BTreeMap::from([("format".into(), "pt".into())]))?;
    for companion in uqff::companions(&source.directory)? {
        staging.copy(&companion)?;
    }
    let mut json = config.json.clone();
    let name = match dtype {
        DType::BF16 => "bfloat16",
        DType::F16 => "float16",
        _ => "float32",
    };
    (json["torch_dtype"], json["dtype"]) = (json!(name), json!(name));
    json["tie_word_embeddings"] = json!(is_tied);
    let path = staging.path().join("config.json");
    let text = serde_json::to_vec_pretty(&json).unwrap_or_default();
    let written = std::fs::write(&path, text);
    written.map_err(|e| reptune_adapters::Error::write(staging.shown(&path), e))?;
    Ok(staging.commit()?)
}

/// The weight of a module that has no bias.
fn unbiased(source: &Source, module: TargetModule) -> Result<Tensor> {
    let (weight, entry) = source.weight(Some(module))?;
    if entry.is_some_and(|entry| entry.layout().bias.is_some()) {
        let (place, expected) = (module.to_string(), "a weight without a bias");
        let hint = "steering is baked into this file; dequantize the one that it was made from";
        return Err(Error::model(
            &source.directory,
            place,
            expected,
            "a bias",
            hint,
        ));
    }
    Ok(weight)
}

const HEAD: &str = "lm_head.weight";

fn stored(dtype: DType) -> Dtype {
    match dtype {
        DType::BF16 => Dtype::BF16,
        DType::F16 => Dtype::F16,
        _ => Dtype::F32,
    }
}

fn is_equal(left: &Tensor, right: &Tensor) -> Result<bool> {
    let differs = left.ne(right)?.flatten_all()?.max(0)?;
    Ok(differs.to_scalar::<u8>()? == 0)
}
