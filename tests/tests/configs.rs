//! The same model in every spelling of its `config.json` computes the same, to the bit.

use anyhow::Result;
use reptune::{Llama, LoadOptions};
use reptune_adapters::{ForwardOptions, PrefixTree};
use reptune_tests::{bits, fixture, logits, whole};
use serde_json::{Value, json};

/// The bits of the logits of tiny-llama32 with a changed configuration.
fn computed(change: impl Fn(&mut serde_json::Map<String, Value>)) -> Result<Vec<u32>> {
    let directory = tempfile::tempdir()?;
    for entry in std::fs::read_dir(fixture("tiny-llama32"))? {
        let entry = entry?;
        std::fs::copy(entry.path(), directory.path().join(entry.file_name()))?;
    }
    let file = directory.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
    change(config.as_object_mut().expect("an object"));
    std::fs::write(&file, config.to_string())?;
    let llama = Llama::load(directory.path(), LoadOptions::default())?;
    let (tree, _) = PrefixTree::pack(&[(0..200).collect::<Vec<u32>>()]);
    Ok(bits(logits(&whole(
        &llama,
        &tree,
        ForwardOptions::default(),
    )?)))
}

#[test]
fn the_rotary_embedding_is_read_in_the_spelling_of_transformers_4_and_5() -> Result<()> {
    let plain = computed(|_| ())?;
    let of_5 = computed(|config| {
        let mut rope = config.remove("rope_scaling").expect("a scaling");
        rope["rope_theta"] = config.remove("rope_theta").expect("theta");
        config.insert("rope_parameters".into(), rope);
        let kind = config.remove("torch_dtype").expect("a type");
        config.insert("dtype".into(), kind);
    })?;
    assert!(plain == of_5, "transformers 5");
    let unscaled = computed(|config| {
        config.remove("rope_scaling");
    })?;
    assert!(plain != unscaled, "the scaling has an effect");
    for none in [
        json!({"rope_type": "default"}),
        json!({"type": "default"}),
        json!(null),
    ] {
        let same = computed(|config| {
            config.insert("rope_scaling".into(), none.clone());
        })?;
        assert!(unscaled == same, "{none}");
    }
    let linear = |scaling: Value| {
        computed(move |config| {
            config.insert("rope_scaling".into(), scaling.clone());
        })
    };
    let new = linear(json!({"rope_type": "linear", "factor": 4.0}))?;
    assert!(
        new == linear(json!({"type": "linear", "factor": 4}))?,
        "type and rope_type"
    );
    assert!(new != unscaled, "linear scaling has an effect");
    for (scaling, found) in [
        (json!({"type": "dynamic", "factor": 4.0}), "\"dynamic\""),
        (json!({"rope_type": "yarn", "factor": 4.0}), "\"yarn\""),
        (json!({"factor": 4.0}), "a factor without a type"),
    ] {
        let message = linear(scaling).expect_err(found).to_string();
        assert!(
            message.contains("key `rope_scaling`") && message.contains(found),
            "{message}"
        );
    }
    Ok(())
}

#[test]
fn what_old_or_merged_configurations_leave_out_or_leave_behind_changes_nothing() -> Result<()> {
    let plain = computed(|_| ())?;
    let less = computed(|config| {
        for key in [
            "architectures",
            "hidden_act",
            "attention_bias",
            "mlp_bias",
            "torch_dtype",
        ] {
            config.remove(key);
        }
        let quantization = json!({"quant_method": "bitsandbytes", "load_in_4bit": true});
        config.insert("quantization_config".into(), quantization);
    })?;
    assert!(plain == less);
    let null = computed(|config| {
        config.insert("architectures".into(), json!(null));
    })?;
    assert!(plain == null);
    Ok(())
}
