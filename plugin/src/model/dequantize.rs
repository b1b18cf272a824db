//! A quantized model written as a full checkpoint, for programs and commands that need one.

use super::checkpoint::{Checkpoint, embeddings_and_norms};
use super::companions::Companions;
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
    let others: Vec<String> = embeddings_and_norms(spec).map(|(name, _)| name).collect();
    let modules =
        (0..spec.layers).flat_map(|layer| ModuleKind::ALL.map(|kind| TargetModule { layer, kind }));
    let modules: Vec<TargetModule> = modules.collect();
    let head = source.linear(None)?.weight;
    let is_tied = config.tie_word_embeddings && is_equal(&head, &source.other(EMBEDDINGS)?)?;
    let file = staging.path().join("model.safetensors");
    let weights = modules.iter().map(|m| config.weight_name(Some(*m)));
    let biases = modules.iter().filter_map(|m| config.bias_name(*m));
    let names: Vec<String> = weights.chain(biases).chain([HEAD.to_owned()]).collect();
    let names = others.iter().chain(&names).map(String::as_str);
    let (mut done, total) = (0, others.len() + modules.len());
    let mut file = TensorFileWriter::create((&file, &staging.shown(&file)), names, 64)?;
    let mut write = |name: &str, tensor: Tensor| -> Result<()> {
        let (kind, mut bytes) = (stored(dtype), Vec::new());
        tensor.to_dtype(dtype)?.write_bytes(&mut bytes)?;
        Ok(file.push(name, kind, tensor.dims(), &bytes)?)
    };
    let mut step = || {
        done += 1;
        progress(done, total);
    };
    for name in &others {
        write(name, source.other(name)?)?;
        step();
    }
    for module in modules {
        let linear = source.linear(Some(module))?;
        write(&config.weight_name(Some(module)), linear.weight)?;
        if let Some(bias) = linear.bias {
            let name = config.bias_name(module).ok_or_else(|| {
                let (place, expected) = (module.to_string(), "a weight without a bias");
                let hint = "steering is baked into this file; dequantize what it was made from";
                Error::model(&source.directory, place, expected, "a bias", hint)
            })?;
            write(&name, bias)?;
        }
        step();
    }
    if !is_tied {
        write(HEAD, head)?;
    }
    file.finish(BTreeMap::from([("format".into(), "pt".into())]))?;
    let mut config = config.clone();
    let name = match dtype {
        DType::BF16 => "bfloat16",
        DType::F16 => "float16",
        _ => "float32",
    };
    config.tie_word_embeddings = is_tied;
    for (key, value) in [
        ("torch_dtype", json!(name)),
        ("dtype", json!(name)),
        ("tie_word_embeddings", json!(is_tied)),
    ] {
        config.json[key] = value;
    }
    Companions::of(&source.directory, &config)?.write(&staging)?;
    Checkpoint::full(staging.path(), &config, spec)?;
    Ok(staging.commit()?)
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
