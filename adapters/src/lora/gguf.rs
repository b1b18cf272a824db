//! Adapters for llama.cpp: a GGUF file with `lora_a` (R, I) and `lora_b` (O, R) of every
//! weight.
//!
//! llama.cpp applies `alpha / rank * B A`, with one alpha for the file and the rank of each
//! B. Where scales differ, B is scaled. Rows of B of q and k are in llama.cpp's order.

use crate::error::{Error, Result};
use crate::formats::gguf::{GgmlDType, Gguf, GgufWriter, Value};
use crate::lora::adapter::{Adapter, WeightDelta};
use crate::model::ModelSpec;
use crate::model::llama_cpp as llama;
use candle_core::{DType, Device, Tensor};
use std::collections::BTreeMap;
use std::path::Path;

const ALPHA: &str = "adapter.lora.alpha";

/// Writes `adapter`, which belongs to `model`.
///
/// # Errors
/// When a module has a full delta, `adapter` is empty or for another model, or the file
/// cannot be written.
pub fn write(path: &Path, adapter: &Adapter, model: &ModelSpec) -> Result<()> {
    adapter.check_model(path, model)?;
    if let Some((module, _)) = adapter
        .modules
        .iter()
        .find(|(_, delta)| delta.full.is_some())
    {
        return Err(Error::Unsupported {
            what: format!("{module}, a full delta, in a GGUF adapter"),
            reason: "llama.cpp has only factors; merge it instead".into(),
        });
    }
    if adapter.modules.is_empty() {
        let hint = "tune some modules first";
        return Err(Error::value("adapter", "at least one module", "none", hint));
    }
    // There an alpha of 0 means a scale of 1; scales of 0 go into B.
    let alphas = adapter
        .modules
        .values()
        .map(|delta| delta.scale * delta.rank() as f64);
    let alpha = alphas.map(|a| a as f32).find(|a| *a != 0.).unwrap_or(1.);
    let mut file = GgufWriter::new("llama");
    file.text("general.type", "adapter");
    file.text("adapter.type", "lora");
    file.set(ALPHA, Value::F32(alpha));
    for (module, delta) in &adapter.modules {
        let numbers = |t: &Tensor| -> Result<Vec<f32>> {
            Ok(t.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
        };
        let (a, mut b) = (numbers(&delta.a)?, numbers(&delta.b)?);
        let (o, i) = module.kind.shape(model);
        // 1 where all scales are equal
        let factor = (delta.scale / (f64::from(alpha) / delta.rank() as f64)) as f32;
        if factor != 1. {
            b.iter_mut().for_each(|x| *x *= factor);
        }
        if let Some(heads) = llama::heads(module.kind, model) {
            b = llama::to_llama_cpp(&b, o, heads);
        }
        let name = llama::name(*module);
        file.floats(&format!("{name}.lora_a"), &[delta.rank(), i], &a)?;
        file.floats(&format!("{name}.lora_b"), &[o, delta.rank()], &b)?;
    }
    file.write(path)?;
    Ok(())
}

/// Reads an adapter of llama.cpp for `model`.
///
/// # Errors
/// When it is not a plain LoRA adapter (errors say what it is), or does not fit the model.
pub fn read(path: &Path, model: &ModelSpec) -> Result<Adapter> {
    let file = Gguf::open(path)?;
    let wrong = |place: String, expected: String, found: String| {
        let hint = "only plain LoRA on q, k, v, o, gate, up and down of a Llama is supported";
        Error::content(path, place, expected, found, hint)
    };
    for (key, expected) in [
        ("general.type", "adapter"),
        ("general.architecture", "llama"),
        ("adapter.type", "lora"),
    ] {
        let found = file.text(key)?.unwrap_or("nothing");
        if found != expected {
            return Err(wrong(
                format!("`{key}`"),
                format!("`{expected}`"),
                format!("`{found}`"),
            ));
        }
    }
    if file.value("adapter.alora.invocation_tokens").is_some() {
        return Err(Error::Unsupported {
            what: format!("{}: an activated LoRA", path.display()),
            reason: "tokens switch it on; only plain LoRA is supported".into(),
        });
    }
    let alpha = file.number(ALPHA)?.unwrap_or(0.);
    let mut modules = BTreeMap::new();
    for name in file.tensors().keys() {
        let place = || format!("tensor `{name}`");
        let weight = name
            .strip_suffix(".lora_a")
            .or(name.strip_suffix(".lora_b"));
        let module = weight
            .and_then(llama::module)
            .filter(|s| s.layer < model.layers);
        let Some(module) = module else {
            let expected = format!("a factor of a weight of blocks 0 to {}", model.layers - 1);
            return Err(wrong(place(), expected, format!("`{name}`")));
        };
        if let Some(weight) = name.strip_suffix(".lora_b") {
            let a = format!("{weight}.lora_a");
            match file.tensor(&a) {
                Some(_) => continue,
                None => {
                    return Err(wrong(
                        format!("tensor `{a}`"),
                        "a tensor".into(),
                        "nothing".into(),
                    ));
                }
            }
        }
        let (o, i) = module.kind.shape(model);
        let rank = file
            .tensor(name)
            .and_then(|t| t.shape.first())
            .copied()
            .unwrap_or(0);
        let take = |suffix: &str, shape: [usize; 2]| -> Result<Vec<f32>> {
            let name = format!("{}.{suffix}", llama::name(module));
            match file.tensor(&name) {
                Some(t) if t.shape == shape && rank > 0 => numbers(&file, &name),
                other => Err(wrong(
                    format!("tensor `{name}`"),
                    format!("shape {shape:?}, of rank 1 or more"),
                    other.map_or("nothing".into(), |t| format!("{:?}", t.shape)),
                )),
            }
        };
        let a = take("lora_a", [rank, i])?;
        let mut b = take("lora_b", [o, rank])?;
        if let Some(heads) = llama::heads(module.kind, model) {
            b = llama::from_llama_cpp(&b, o, heads);
        }
        let delta = WeightDelta {
            a: Tensor::from_vec(a, (rank, i), &Device::Cpu)?,
            b: Tensor::from_vec(b, (o, rank), &Device::Cpu)?,
            scale: match alpha {
                0. => 1.,
                alpha => alpha / rank as f64,
            },
            full: None,
        };
        modules.insert(module, delta);
    }
    match modules.is_empty() {
        true => Err(wrong(
            "tensors".into(),
            "at least one `lora_a`".into(),
            "none".into(),
        )),
        false => Ok(Adapter { modules }),
    }
}

/// A factor in f32; llama.cpp's converter writes it in 16 bits too.
fn numbers(file: &Gguf, name: &str) -> Result<Vec<f32>> {
    let dtype = file.tensor(name).map(|t| t.dtype);
    let data: Vec<f32> = match dtype {
        Some(GgmlDType::F16 | GgmlDType::BF16) => {
            let tensor = file.quantized(name, &Device::Cpu)?;
            tensor.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1()?
        }
        _ => file.floats(name)?,
    };
    match data.iter().find(|x| !x.is_finite()) {
        Some(x) => Err(file.wrong(format!("tensor `{name}`"), "finite numbers", x.to_string())),
        None => Ok(data),
    }
}

#[cfg(test)]
mod tests;
