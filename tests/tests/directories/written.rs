//! What is written is complete: the engine loads it as it lies there, with the same answers.

use super::{Copy, computed, honest_mini, questions, said_as_it_lies};
use anyhow::Result;
use reptune::bake::{Baker, Exactness};
use reptune::model::{Source, uqff::WeightType};
use reptune::runtime::Engine;
use reptune_adapters::Adapter;
use reptune_adapters::model::ModuleKind;
use reptune_tests::{fixture, random_update};
use serde_json::{Value, json};
use std::path::Path;

/// A model in which everything is spelt as engines do not read it, and its twin.
fn odd(model: &Path) -> Result<Copy> {
    let copy = Copy::of(model)?
        .spelt_by_transformers_5()?
        .change("config.json", |config| {
            for key in ["architectures", "hidden_act", "attention_bias", "mlp_bias"] {
                config.remove(key);
            }
            let left = json!({"quant_method": "bitsandbytes", "load_in_4bit": true});
            config.insert("quantization_config".into(), left);
        })?;
    let mut template = String::new();
    let copy = copy.change("tokenizer_config.json", |config| {
        let text = config.remove("chat_template").expect("a template");
        text.as_str().expect("a text").clone_into(&mut template);
        let token = json!({"content": "[INST]", "special": true});
        config.insert("additional_special_tokens".into(), json!([token]));
        config.insert("sp_model_kwargs".into(), json!({"alpha": 0.1}));
        config.insert("eos_token".into(), json!(""));
    })?;
    std::fs::write(copy.path().join("chat_template.jinja"), template)?;
    std::fs::remove_file(copy.path().join("generation_config.json"))?;
    copy.change("tokenizer.json", |tokenizer| {
        let truncation =
            json!({"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0});
        tokenizer.insert("truncation".into(), truncation);
    })
}

fn update(source: &Source) -> Result<Adapter> {
    random_update(&source.spec, &[1, 3], &ModuleKind::ALL, 3)
}

/// Writes the same from the fixture and from its odd twin.
fn both(
    model: &Path,
    write: impl Fn(&Source, &Path) -> Result<()>,
) -> Result<(tempfile::TempDir, Copy)> {
    let (room, odd) = (tempfile::tempdir()?, odd(model)?);
    write(&Source::open(model)?, &room.path().join("plain"))?;
    write(&Source::open(odd.path())?, &room.path().join("odd"))?;
    Ok((room, odd))
}

#[test]
fn a_merged_checkpoint_is_complete() -> Result<()> {
    let (room, _odd) = both(&honest_mini(), |source, out| {
        source.merge(&update(source)?, out, &mut |_, _, _| {})?;
        Ok(())
    })?;
    let (plain, odd) = (room.path().join("plain"), room.path().join("odd"));
    assert!(computed(&plain)? == computed(&odd)?);
    let said = said_as_it_lies(&odd, None)?;
    assert_eq!(said, said_as_it_lies(&plain, None)?);
    assert_eq!(said, Engine::load(&plain, None)?.interview(&questions())?);
    let config: Value = serde_json::from_slice(&std::fs::read(odd.join("config.json"))?)?;
    assert_eq!(config["rope_theta"], json!(10000.));
    assert_eq!(
        config["rope_parameters"],
        json!({"rope_type": "default", "rope_theta": 10000.})
    );
    assert_eq!(config["architectures"], json!(["LlamaForCausalLM"]));
    assert_eq!(config.get("quantization_config"), None);
    Ok(())
}

#[test]
fn a_uqff_directory_is_complete() -> Result<()> {
    let (room, _odd) = both(&honest_mini(), |source, out| {
        let baker = Baker {
            source,
            quantize: Some(WeightType::parse("q8_0")?),
            exactness: Exactness::Exact,
        };
        baker.write(&[], out, &mut |_, _| {})?;
        Ok(())
    })?;
    let (plain, odd) = (room.path().join("plain"), room.path().join("odd"));
    assert!(computed(&plain)? == computed(&odd)?);
    let said = said_as_it_lies(&odd, Some("model.uqff"))?;
    assert_eq!(said, said_as_it_lies(&plain, Some("model.uqff"))?);
    Ok(())
}

#[test]
fn shards_without_an_index_are_merged_into_a_checkpoint_with_one() -> Result<()> {
    let copy = Copy::of(&fixture("tiny-llama32"))?;
    let index = "model.safetensors.index.json";
    std::fs::remove_file(copy.path().join(index))?;
    let (room, source) = (tempfile::tempdir()?, Source::open(copy.path())?);
    let (merged, twin) = (room.path().join("merged"), room.path().join("twin"));
    source.merge(&update(&source)?, &merged, &mut |_, _, _| {})?;
    let given = Source::open(&fixture("tiny-llama32"))?;
    given.merge(&update(&given)?, &twin, &mut |_, _, _| {})?;
    let map = |at: &Path| -> Result<Value> {
        let json: Value = serde_json::from_slice(&std::fs::read(at.join(index))?)?;
        Ok(json["weight_map"].clone())
    };
    assert_eq!(map(&merged)?, map(&twin)?);
    assert!(computed(&merged)? == computed(&twin)?);
    Ok(())
}

#[test]
fn what_cannot_be_opened_again_is_not_written() -> Result<()> {
    let copy = Copy::of(&honest_mini())?.change("tokenizer_config.json", |config| {
        config.insert("eos_token".into(), json!(["a", "b"]));
    })?;
    let (room, source) = (tempfile::tempdir()?, Source::open(copy.path())?);
    let out = room.path().join("out");
    let refused = source.merge(&update(&source)?, &out, &mut |_, _, _| {});
    assert!(copy.refusal(refused).contains("key `eos_token`"));
    assert_eq!(
        std::fs::read_dir(room.path())?.count(),
        0,
        "nothing is left"
    );
    Ok(())
}
