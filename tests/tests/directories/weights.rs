//! Which files of weights are read, and packed weights.

use super::{Copy, computed, engine_computed, honest_mini};
use anyhow::Result;
use candle_core::Tensor;
use reptune_adapters::formats::safetensors::TensorFileWriter;
use reptune_tests::fixture;
use safetensors::Dtype;
use serde_json::json;
use std::collections::HashMap;
use std::path::Path;

const INDEX: &str = "model.safetensors.index.json";

/// All tensors of a checkpoint.
fn tensors(model: &Path) -> Result<HashMap<String, Tensor>> {
    let mut all = HashMap::new();
    for file in reptune_adapters::formats::safetensors::shards(model)? {
        all.extend(candle_core::safetensors::load(
            file,
            &candle_core::Device::Cpu,
        )?);
    }
    Ok(all)
}

#[test]
fn shards_are_read_without_an_index_by_us_and_the_engine() -> Result<()> {
    let model = fixture("tiny-llama32");
    let copy = Copy::of(&model)?;
    std::fs::remove_file(copy.path().join(INDEX))?;
    assert!(computed(copy.path())? == computed(&model)?);
    assert!(engine_computed(copy.path())? == engine_computed(&model)?);
    std::fs::remove_file(copy.path().join("model-00002-of-00003.safetensors"))?;
    let message = copy.refusal(computed(copy.path()));
    assert!(
        message.contains("DIR: weights: expected shard 2 of 3, found no such file"),
        "{message}"
    );
    Ok(())
}

#[test]
fn a_single_file_counts_more_than_an_index_next_to_it_here_and_in_the_engine() -> Result<()> {
    let (model, copy) = (fixture("tiny-llama32"), Copy::of(&fixture("tiny-llama32"))?);
    // a later training: another output of the last block
    let mut newer = tensors(&model)?;
    let name = "model.layers.3.mlp.down_proj.weight";
    let changed = (newer[name].to_dtype(candle_core::DType::F32)? * 3.)?;
    newer.insert(name.into(), changed.to_dtype(newer[name].dtype())?);
    let twin = Copy::of(&model)?;
    for entry in std::fs::read_dir(twin.path())? {
        let path = entry?.path();
        if path.display().to_string().contains(".safetensors") {
            std::fs::remove_file(path)?;
        }
    }
    for room in [copy.path(), twin.path()] {
        candle_core::safetensors::save(&newer, room.join("model.safetensors"))?;
    }
    let expected = computed(twin.path())?;
    assert!(
        expected != computed(&model)?,
        "the newer file computes something else"
    );
    assert!(computed(copy.path())? == expected);
    assert!(engine_computed(copy.path())? == engine_computed(twin.path())?);
    Ok(())
}

#[test]
fn packed_weights_are_refused_by_the_name_of_their_method() -> Result<()> {
    for (suffix, dtype, method, named) in [
        ("qweight", Dtype::I32, "gptq", json!("gptq")),
        ("qweight", Dtype::I32, "awq", json!("awq")),
        (
            "weight.absmax",
            Dtype::U8,
            "bitsandbytes",
            json!("bitsandbytes"),
        ),
        (
            "weight_packed",
            Dtype::I32,
            "compressed-tensors",
            json!("compressed-tensors"),
        ),
        ("weight_scale", Dtype::F32, "fp8", json!("fp8")),
        ("qweight", Dtype::I32, "gptq or awq", json!(null)),
    ] {
        let copy = Copy::of(&honest_mini())?.change("config.json", |config| {
            config.insert(
                "quantization_config".into(),
                json!({"quant_method": named, "bits": 4}),
            );
        })?;
        let path = copy.path().join("model.safetensors");
        let name = format!("model.layers.0.mlp.up_proj.{suffix}");
        let length = if dtype == Dtype::U8 { 4 } else { 16 };
        let mut file = TensorFileWriter::create((&path, &path), [name.as_str()], 0)?;
        file.push(&name, dtype, &[4], &vec![0; length])?;
        file.finish(Default::default())?;
        let expected = format!(
            "DIR/model.safetensors: tensor `{name}`: expected full weights, found weights \
             quantized by {method}; give the full checkpoint"
        );
        assert_eq!(copy.refusal(computed(copy.path())), expected);
    }
    Ok(())
}
