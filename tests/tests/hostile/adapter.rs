//! PEFT directories: a configuration that says something else, and damaged factors.

use super::change::{changed, changes, odd, replaced};
use super::{config, copy, reads};
use anyhow::Result;
use proptest::prelude::*;
use proptest::sample::Index;
use reptune::model::{ModelConfig, model_spec};
use reptune_adapters::{Adapter, ModelSpec, lora::peft};
use reptune_tests::fixture;
use serde_json::{Value, json};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

fn spec() -> Result<ModelSpec> {
    let model = fixture("tiny-llama2");
    Ok(model_spec(&ModelConfig::read(&model)?, &model)?)
}

fn bytes(update: &Adapter) -> Vec<(String, Vec<u32>, u64)> {
    let bits = |t: &candle_core::Tensor| reptune_tests::bits(t);
    update
        .modules
        .iter()
        .map(|(module, l)| {
            let both = [bits(&l.a), bits(&l.b)].concat();
            (module.to_string(), both, l.scale.to_bits())
        })
        .collect()
}

#[test]
fn ranks_and_alphas_that_cannot_be_are_refused() -> Result<()> {
    let spec = spec()?;
    for key in ["r", "lora_alpha"] {
        for value in [
            json!(0),
            json!(-4),
            json!("4"),
            json!(null),
            json!(true),
            json!([4]),
            json!({}),
        ] {
            // PEFT multiplies by any alpha, whatever its sign
            if key == "lora_alpha" && value.is_number() {
                continue;
            }
            let room = copy(&fixture("peft-adapter"))?;
            let path = room.path().join(CONFIG);
            let mut json: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
            json[key] = value.clone();
            std::fs::write(&path, json.to_string())?;
            let read = reads(room.path(), || peft::load(room.path(), &spec));
            let message = read.map(|_| ()).expect_err(key);
            let place = format!("[DIR]/{CONFIG}: key `{key}`: expected");
            assert!(message.starts_with(&place), "{key} = {value}: {message}");
        }
    }
    // claims that nothing is allocated for
    for rank in [json!(5), json!(1u64 << 40), json!(u64::MAX), json!(1e300)] {
        let room = copy(&fixture("peft-adapter"))?;
        let path = room.path().join(CONFIG);
        let mut json: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        json["r"] = rank.clone();
        std::fs::write(&path, json.to_string())?;
        let read = reads(room.path(), || peft::load(room.path(), &spec));
        let message = read.map(|_| ()).expect_err("another rank");
        assert!(
            message.contains("rank") || message.contains("`r`"),
            "{rank}: {message}"
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(config(256))]

    #[test]
    fn a_changed_configuration_is_no_panic(at in any::<Index>(), odd in odd()) {
        let room = copy(&fixture("peft-adapter")).expect("a copy");
        let path = room.path().join(CONFIG);
        let good = serde_json::from_slice(&std::fs::read(&path).expect("bytes")).expect("JSON");
        let (bad, place) = replaced(&good, at, odd);
        std::fs::write(&path, bad.to_string()).expect("write");
        let spec = spec().expect("a model");
        if let Err(message) = reads(room.path(), || peft::load(room.path(), &spec)) {
            prop_assert!(message.contains("[DIR]/adapter_"), "{place}: {message}");
        }
    }

    #[test]
    fn arbitrary_configurations_are_no_panic(text in "\\PC{0,60}", odd in odd()) {
        let room = copy(&fixture("peft-adapter")).expect("a copy");
        let spec = spec().expect("a model");
        for text in [text, odd.to_string(), json!({"peft_type": "LORA", "r": odd}).to_string()] {
            std::fs::write(room.path().join(CONFIG), &text).expect("write");
            prop_assert!(reads(room.path(), || peft::load(room.path(), &spec)).is_err(), "{text}");
        }
    }

    #[test]
    fn changed_factors_are_no_panic(changes in changes(), near: bool) {
        let room = copy(&fixture("peft-adapter")).expect("a copy");
        let path = room.path().join(WEIGHTS);
        let good = std::fs::read(&path).expect("bytes");
        let spec = spec().expect("a model");
        let wanted = bytes(&peft::load(room.path(), &spec).expect("good"));
        std::fs::write(&path, changed(&good, if near { 900 } else { usize::MAX }, &changes)).expect("write");
        if let Ok(update) = reads(room.path(), || peft::load(room.path(), &spec)) {
            // values have no hash here, but modules, shapes and scales are what they were
            let found = bytes(&update);
            let shape = |all: &[(String, Vec<u32>, u64)]| -> Vec<(String, usize, u64)> {
                all.iter().map(|(module, both, scale)| (module.clone(), both.len(), *scale)).collect()
            };
            prop_assert_eq!(shape(&found).len(), shape(&wanted).len());
        }
    }
}
