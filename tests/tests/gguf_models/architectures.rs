//! Every architecture: a directory, the GGUF that is written from it and a LoRA for llama.cpp
//! compute the same, here and in unmodified mistral.rs.

use super::written::Written;
use super::{import, load};
use crate::python;
use anyhow::{Context, Result};
use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use reptune::Llama;
use reptune::runtime::Engine;
use reptune_adapters::lora::gguf as lora;
use reptune_adapters::model::{ModuleKind, llama_cpp};
use reptune_adapters::{Adapter, ForwardOptions, HookedModel, PrefixTree};
use reptune_tests::{
    DECODERS, ModelFixture, Oracle, Walk, fixture, flat, logits, random_update, whole,
};
use serde_json::{Value as Json, json};
use std::fs::File;
use std::path::Path;

/// Logits (T, V) of a prompt.
fn said(llama: &Llama, prompt: &[u32], adapter: Option<&Adapter>) -> Result<Tensor> {
    let (tree, _) = PrefixTree::pack(&[prompt]);
    let request = ForwardOptions {
        adapter,
        ..ForwardOptions::default()
    };
    Ok(logits(&whole(llama, &tree, request)?).clone())
}

fn prompts() -> Result<Vec<Vec<u32>>> {
    Oracle::read("oracle-llama2.safetensors")?.prompts()
}

/// Imports `gguf`, which was written from the directory `from`, and compares.
fn check(model: &str, from: &Path, gguf: &Path) -> Result<()> {
    let imported = import(gguf)?;
    let (theirs, ours) = (load(from)?, load(&imported)?);
    let (sizes, expected) = (ours.spec(), theirs.spec());
    assert_eq!(sizes.architecture, expected.architecture, "{model}");
    assert_eq!(sizes.head_dim, expected.head_dim, "{model}");
    let engine = Engine::load(&imported, None)?;
    let mut walk = Walk::default();
    for (i, prompt) in prompts()?.iter().enumerate() {
        let expected = said(&theirs, prompt, None)?;
        let ours = said(&ours, prompt, None)?;
        walk.check(&format!("{model}: prompt.{i}"), &ours, &expected);
        let served = engine.logits(prompt)?;
        walk.check(&format!("{model}, engine: prompt.{i}"), &served, &expected);
    }
    walk.finish(model);
    Ok(())
}

#[test]
fn a_gguf_of_every_architecture_computes_what_its_directory_does() -> Result<()> {
    for model in DECODERS {
        let room = tempfile::tempdir()?;
        let from = ModelFixture::of(model)?;
        let gguf = Written::of(&from.path)?.write(room.path(), |_| GgmlDType::F32)?;
        check(model, &from.path, &gguf)?;
    }
    Ok(())
}

/// Names and order are those of the gguf package and of `tests/interop/llama_cpp_model.py`.
#[test]
#[cfg_attr(not(oracle), ignore = "needs REPTUNE_PYTHON, see tests/README.md")]
fn a_gguf_of_the_gguf_package_computes_what_its_directory_does() -> Result<()> {
    for model in DECODERS {
        let room = tempfile::tempdir()?;
        let (from, gguf) = (ModelFixture::of(model)?, room.path().join("model.gguf"));
        python::run("interop/llama_cpp_model.py", [&from.path, &gguf])?;
        check(model, &from.path, &gguf)?;
    }
    Ok(())
}

/// llama.cpp adds `alpha / rank * B A` to the weights in its own order; so does this test.
#[test]
fn a_lora_for_llama_cpp_is_the_update_in_every_architecture() -> Result<()> {
    for model in DECODERS {
        let room = tempfile::tempdir()?;
        let from = ModelFixture::of(model)?;
        let llama = load(&from.path)?;
        let spec = llama.spec();
        let update = random_update(spec, &[0, spec.layers - 1], &ModuleKind::ALL, 17)?;
        let path = room.path().join("lora.gguf");
        lora::write(&path, &update, spec)?;
        let back = lora::read(&path, spec)?;
        assert_eq!(back.content_hash()?, update.content_hash()?, "{model}");

        let mut written = Written::of(&from.path)?;
        let mut file = File::open(&path)?;
        let content = Content::read(&mut file)?;
        let architecture = content.metadata["general.architecture"].to_string()?;
        assert_eq!(architecture, llama_cpp::architecture(spec.architecture));
        let alpha = f64::from(content.metadata["adapter.lora.alpha"].to_f32()?);
        let weights = content.tensor_infos.keys();
        for name in weights.filter_map(|name| name.strip_suffix(".lora_a")) {
            let mut factor = |which: &str| -> Result<Tensor> {
                let name = format!("{name}.{which}");
                let stored: QTensor = content.tensor(&mut file, &name, &Device::Cpu)?;
                Ok(stored.dequantize(&Device::Cpu)?)
            };
            let (a, b) = (factor("lora_a")?, factor("lora_b")?);
            let delta = (b.matmul(&a)? * (alpha / a.dim(0)? as f64))?;
            let weight = written.tensors.get_mut(name).context(name.to_owned())?;
            *weight = (&*weight + delta)?;
        }
        let merged = load(&import(&written.write(room.path(), |_| GgmlDType::F32)?)?)?;
        let mut walk = Walk::default();
        for (i, prompt) in prompts()?.iter().enumerate() {
            let expected = said(&llama, prompt, Some(&update))?;
            let plain = flat(&said(&llama, prompt, None)?);
            let moved = flat(&expected)
                .iter()
                .zip(&plain)
                .any(|(x, y)| (x - y).abs() > 0.1);
            assert!(moved, "{model}: the update does something");
            let ours = said(&merged, prompt, None)?;
            walk.check(&format!("{model}: prompt.{i}"), &ours, &expected);
        }
        walk.finish(&format!("{model}, tuned"));
    }
    Ok(())
}

/// llama.cpp calls a Mistral a llama; its name says what it is, as transformers reads it.
#[test]
fn a_llama_that_is_called_mistral_is_one() -> Result<()> {
    let room = tempfile::tempdir()?;
    let directory = room.path().join("directory");
    std::fs::create_dir(&directory)?;
    for file in std::fs::read_dir(fixture("tiny-llama2"))? {
        let file = file?;
        std::fs::copy(file.path(), directory.join(file.file_name()))?;
    }
    let path = directory.join("config.json");
    let mut config: Json = serde_json::from_slice(&std::fs::read(&path)?)?;
    config["architectures"] = json!(["MistralForCausalLM"]);
    config["model_type"] = json!("mistral");
    config["sliding_window"] = Json::Null;
    std::fs::write(&path, config.to_string())?;
    let mut written = Written::of(&directory)?;
    assert_eq!(
        architecture(&import(&written.write(room.path(), |_| GgmlDType::F32)?)?)?,
        "llama"
    );
    let name = Value::String("Mistral 7B Instruct".into());
    written.fields.insert("general.name".into(), name);
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(directory.join(name), room.path().join(name))?;
    }
    std::fs::remove_dir_all(room.path().join("model.imported"))?;
    let imported = import(&written.write(room.path(), |_| GgmlDType::F32)?)?;
    assert_eq!(architecture(&imported)?, "mistral");
    let (ours, theirs) = (load(&imported)?, load(&directory)?);
    assert_eq!(ours.spec().fingerprint, theirs.spec().fingerprint);
    Ok(())
}

fn architecture(directory: &Path) -> Result<String> {
    Ok(load(directory)?.spec().architecture.to_string())
}
