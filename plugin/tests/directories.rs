//! Models and files by the names that they are given: bare names, the hub's cache, and what
//! `reptune inspect` says of a model directory.

use crate::errors::directions_of_the_model;
use crate::program::{command, json, model, printed, refusal, root, workplace};
use serde_json::{Value, json};
use std::path::Path;

const FILES: [&str; 5] = [
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
];

/// Copies the mini-Llama to `directory`.
fn copy(directory: &Path) {
    std::fs::create_dir_all(directory).expect("made");
    for name in FILES {
        let from = root().join("models/honest-mini").join(name);
        std::fs::copy(from, directory.join(name)).expect("copied");
    }
}

fn change(file: &Path, change: impl FnOnce(&mut Value)) {
    let mut json = serde_json::from_slice(&std::fs::read(file).expect("read")).expect("JSON");
    change(&mut json);
    std::fs::write(file, json.to_string()).expect("written");
}

fn run(place: &Path, typed: &str) -> String {
    printed(place, &typed.split(' ').collect::<Vec<_>>())
}

#[test]
fn bare_names_are_taken_by_every_command() {
    let room = workplace();
    directions_of_the_model(room.path());
    let place = room.path();
    let steered = "--directions d.safetensors --layers 1 --coeff 3";
    run(
        place,
        &format!("bake -m model {steered} --quantize q8_0 -o baked"),
    );
    run(place, "convert d.safetensors -o d.gguf");
    let inside = place.join("baked");
    for name in ["d.safetensors", "d.gguf", "prompts.jsonl"] {
        std::fs::copy(place.join(name), inside.join(name)).expect("copied");
    }
    let say = "--prompts prompts.jsonl --max-new-tokens 4";
    let named = run(place, &format!("generate -m baked/model.uqff {say}"));
    assert_eq!(
        run(&inside, &format!("generate -m model.uqff {say}")),
        named
    );
    for (typed, made) in [
        (
            "capture -m model.uqff --prompts prompts.jsonl -o c.safetensors",
            "c.safetensors",
        ),
        ("convert d.gguf -o e.safetensors", "e.safetensors"),
        ("convert d.safetensors -o e.svec", "e.svec"),
        ("inspect model.uqff", "model.uqff"),
        ("inspect residual.safetensors", "residual.safetensors"),
        ("inspect d.gguf", "d.gguf"),
        ("inspect .", "model.uqff"),
    ] {
        run(&inside, typed);
        assert!(inside.join(made).is_file(), "{typed}");
    }
    let again = "generate -m model.uqff --directions d.safetensors --layers 1 --coeff 3";
    run(&inside, &format!("{again} {say}"));
}

#[test]
fn the_cache_of_the_hub_is_where_huggingface_hub_has_it() {
    let room = tempfile::tempdir().expect("a directory");
    let place = room.path();
    let hash = "0123456789abcdef0123456789abcdef01234567";
    let repository = "models--owner--mini";
    copy(
        &place
            .join("cache")
            .join(repository)
            .join("snapshots")
            .join(hash),
    );
    let refs = place.join("cache").join(repository).join("refs");
    std::fs::create_dir_all(&refs).expect("made");
    std::fs::write(refs.join("main"), hash).expect("written");
    std::fs::create_dir_all(place.join("home")).expect("made");
    std::os::unix::fs::symlink(place.join("cache"), place.join("home/hub")).expect("linked");
    let said = |environment: &[(&str, &Path)]| {
        let mut command = command(place);
        command.args([
            "generate",
            "-m",
            "owner/mini",
            "--prompt",
            "true?",
            "--max-new-tokens",
            "4",
        ]);
        command.envs(environment.iter().copied());
        command.output().expect("reptune runs")
    };
    let model = model();
    let expected = printed(
        place,
        &[
            "generate",
            "-m",
            &model,
            "--prompt",
            "true?",
            "--max-new-tokens",
            "4",
        ],
    );
    let (cache, home, none) = (place.join("cache"), place.join("home"), place.join("none"));
    for environment in [
        [("HF_HUB_CACHE", &*cache), ("HF_HOME", &*none)],
        [("HUGGINGFACE_HUB_CACHE", &cache), ("HF_HOME", &none)],
        [("HF_HUB_CACHE", Path::new("")), ("HF_HOME", &home)],
        [
            ("HF_HUB_OFFLINE", Path::new("true")),
            ("HF_HUB_CACHE", &cache),
        ],
    ] {
        let output = said(&environment);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            expected,
            "{environment:?}: {errors}"
        );
    }
    let missing = said(&[("HF_HUB_CACHE", &none), ("HF_HOME", &home)]);
    let errors = String::from_utf8_lossy(&missing.stderr);
    assert!(
        errors.contains("not in the cache, and HF_HUB_OFFLINE is set"),
        "{errors}"
    );
}

#[test]
fn inspect_says_what_a_directory_holds_and_which_engines_load_it() {
    let room = tempfile::tempdir().expect("a directory");
    let place = room.path();
    copy(&place.join("plain"));
    insta::assert_snapshot!("inspect_model", run(place, "inspect plain"));
    copy(&place.join("odd"));
    let odd = place.join("odd");
    change(&odd.join("config.json"), |config| {
        let config = config.as_object_mut().expect("an object");
        config.remove("rope_theta");
        config.remove("rope_scaling");
        config.remove("architectures");
        let rope = json!({"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0});
        config.insert("rope_parameters".into(), rope);
        let left = json!({"quant_method": "bitsandbytes", "load_in_4bit": true});
        config.insert("quantization_config".into(), left);
    });
    change(&odd.join("tokenizer_config.json"), |config| {
        config["eos_token"] = json!("<|end|>");
        config["sp_model_kwargs"] = json!({"alpha": 0.1});
    });
    std::fs::write(odd.join("model.safetensors.index.json"), "{}").expect("written");
    insta::assert_snapshot!("inspect_odd_model", run(place, "inspect odd"));
    let found = json(place, &["inspect", "odd"]);
    let verdict = found["facts"]["mistral.rs 0.8.1"]
        .as_str()
        .expect("a verdict");
    assert!(verdict.starts_with("not as it lies"), "{verdict}");
}

#[test]
fn a_fault_is_named_before_work_begins() {
    let room = workplace();
    directions_of_the_model(room.path());
    let place = room.path();
    copy(&place.join("faulty"));
    change(&place.join("faulty/tokenizer_config.json"), |config| {
        config["eos_token"] = json!(["</s>", "[INST]"]);
    });
    for typed in [
        "bake -m faulty --directions d.safetensors --layers 1 --coeff 3 -o out",
        "merge -m faulty --adapter none -o out",
        "merge -m faulty --adapter none --quantize q8_0 -o out",
        "serve -m faulty --port 0",
    ] {
        let message = refusal(place, &typed.split(' ').collect::<Vec<_>>());
        assert!(
            message.contains("faulty/tokenizer_config.json: key `eos_token`"),
            "{typed}: {message}"
        );
        assert!(!place.join("out").exists(), "{typed}");
    }
}
