//! Directions and adapters belong to a model, however its tokenizer is written down.

use super::{Copy, honest_mini};
use crate::python;
use anyhow::Result;
use reptune::model::{ModelConfig, model_spec};
use reptune_adapters::steering::direction::{Direction, DirectionSet, Provenance};
use reptune_adapters::{ModelSpec, files};
use std::path::Path;

fn spec(model: &Path) -> Result<ModelSpec> {
    Ok(model_spec(&ModelConfig::read(model)?, model)?)
}

/// Whether directions that say `fingerprint` are taken for `model`.
fn fits(fingerprint: &str, model: &ModelSpec) -> bool {
    let unit = vec![1.; model.hidden];
    let set = DirectionSet {
        layers: [(0, Direction { unit, norm: 1. })].into(),
        provenance: Provenance {
            model_fingerprint: fingerprint.to_owned(),
            model_layers: model.layers,
            ..Provenance::default()
        },
    };
    set.check_model(Path::new("d"), model).is_ok()
}

#[test]
fn directions_fit_the_same_tokenizer_in_another_layout_and_no_other() -> Result<()> {
    let plain = spec(&honest_mini())?;
    let copy = Copy::of(&honest_mini())?.change("tokenizer.json", |tokenizer| {
        tokenizer.sort_keys();
        tokenizer["post_processor"] = serde_json::Value::Null;
    })?;
    let again = spec(copy.path())?;
    assert!(fits(&plain.fingerprint, &again) && fits(&again.fingerprint, &plain));
    assert_ne!(plain.former_fingerprint, again.former_fingerprint);
    let other = Copy::of(&honest_mini())?.change("tokenizer.json", |tokenizer| {
        tokenizer["added_tokens"][2]["content"] = "[ASK]".into();
    })?;
    assert!(!fits(&plain.fingerprint, &spec(other.path())?));
    assert!(!fits("", &plain));
    Ok(())
}

/// How versions before computed it: sizes, and the bytes of the tokenizer.
#[test]
fn directions_made_before_are_taken_for_an_unchanged_tokenizer() -> Result<()> {
    let bytes = std::fs::read(honest_mini().join("tokenizer.json"))?;
    let sizes = b"llama 128 352 755 6 4 4 0.00001";
    let before = files::sha256([&sizes[..], &bytes]);
    assert!(fits(&before, &spec(&honest_mini())?));
    let copy =
        Copy::of(&honest_mini())?.change("tokenizer.json", |tokenizer| tokenizer.sort_keys())?;
    assert!(!fits(&before, &spec(copy.path())?), "its bytes are others");
    Ok(())
}

#[test]
#[cfg_attr(not(oracle), ignore = "needs REPTUNE_PYTHON, see tests/README.md")]
fn a_tokenizer_that_transformers_saved_anew_is_the_same() -> Result<()> {
    for model in ["tiny-llama2", "tiny-llama32", "../../models/honest-mini"] {
        let model = reptune_tests::fixture(model);
        let copy = Copy::of(&model)?;
        python::run("oracle/save_tokenizer.py", [copy.path()])?;
        let name = "tokenizer.json";
        let bytes = |at: &Path| std::fs::read(at.join(name));
        assert_ne!(bytes(&model)?, bytes(copy.path())?, "it is written anew");
        assert_eq!(spec(&model)?.fingerprint, spec(copy.path())?.fingerprint);
    }
    Ok(())
}
