//! `reptune convert` as it is typed, and steering with a file of another program.

use crate::program::{json, printed, refusal, reptune, root};
use reptune_adapters::lora::peft;
use reptune_adapters::open_directions;
use reptune_adapters::steering::direction::{Direction, DirectionSet, Provenance};
use std::path::{Path, PathBuf};

fn model() -> PathBuf {
    root().join("tests/fixtures/tiny-llama2")
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// A file that repeng wrote, or one as llama.cpp's generator lays it out.
fn theirs(name: &str) -> String {
    shown(&root().join("tests/interop/fixtures/llama_cpp").join(name))
}

fn spec() -> reptune_adapters::ModelSpec {
    let config = reptune::model::ModelConfig::read(&model()).expect("a Llama");
    reptune::model::model_spec(&config, &model()).expect("a tokenizer")
}

/// Directions of the model at every layer, as `d.safetensors`.
fn directions(room: &Path) -> DirectionSet {
    let spec = spec();
    let direction = |l: usize| {
        let v: Vec<f64> = (0..spec.hidden)
            .map(|i| ((i * (l + 2)) as f64).sin())
            .collect();
        (l, Direction::new(&v).expect("not zero"))
    };
    let set = DirectionSet {
        layers: (0..spec.layers).map(direction).collect(),
        provenance: Provenance {
            model: spec.name.clone(),
            model_fingerprint: spec.fingerprint.clone(),
            model_layers: spec.layers,
            recipe: "r".into(),
            method: "mean_difference".into(),
            rows: "answer".into(),
            pairs: 7,
            pairs_captured: 9,
            residual_norms: (0..spec.layers).map(|l| (l, 0.1 + l as f64)).collect(),
            ..Provenance::default()
        },
    };
    set.save(&room.join("d.safetensors")).expect("saved");
    set
}

#[test]
fn directions_go_to_llama_cpp_and_back_bit_for_bit() {
    let room = tempfile::tempdir().expect("room");
    let mut set = directions(room.path());
    let told = printed(
        room.path(),
        &["convert", "d.safetensors", "--out", "d.gguf"],
    );
    assert!(
        told.contains("d.gguf") && told.contains("layer 0 is left out"),
        "{told}"
    );
    assert!(told.contains("llama.cpp cannot steer block 0"), "{told}");
    printed(
        room.path(),
        &["convert", "d.gguf", "--out", "back.safetensors"],
    );
    let back = DirectionSet::load(&room.path().join("back.safetensors")).expect("ours");
    set.layers.remove(&0);
    assert_eq!(back, set);
}

#[test]
fn a_dose_is_told_and_an_offset_is_on_record() {
    let room = tempfile::tempdir().expect("room");
    directions(room.path());
    let dose = [
        "convert",
        "d.safetensors",
        "--layers",
        "1-2",
        "--total",
        "6",
        "--out",
        "x.gguf",
    ];
    let told = printed(room.path(), &dose);
    assert!(
        told.contains("strength 1 in llama.cpp is total 6 here"),
        "{told}"
    );
    let dosed = open_directions(&room.path().join("x.gguf")).expect("a control vector");
    let norms: Vec<(usize, f64)> = dosed.layers.iter().map(|(l, d)| (*l, d.norm)).collect();
    assert_eq!(norms.len(), 2);
    for (layer, norm) in norms {
        assert!((norm - 3.).abs() < 1e-6, "layer {layer}: {norm}");
    }

    let moved = [
        "convert",
        &theirs("cvector.gguf"),
        "--layer-offset",
        "-1",
        "--out",
        "m.safetensors",
    ];
    let told = json(room.path(), &moved);
    assert_eq!(told["layer_convention"], "block_output_0");
    assert!(told["notes"].to_string().contains("block N -1"), "{told}");
    let set = DirectionSet::load(&room.path().join("m.safetensors")).expect("ours");
    assert_eq!(set.layers.keys().copied().collect::<Vec<_>>(), [0, 1, 2]);
    assert!(
        set.provenance.origin.contains("moved by -1"),
        "{}",
        set.provenance.origin
    );
}

#[test]
fn svec_files_go_both_ways_and_what_they_cannot_hold_is_told() {
    let room = tempfile::tempdir().expect("room");
    let set = directions(room.path());
    let told = printed(
        room.path(),
        &["convert", "d.safetensors", "--out", "d.svec"],
    );
    assert!(told.contains("left out"), "{told}");
    printed(
        room.path(),
        &["convert", "d.svec", "--out", "back.safetensors"],
    );
    let back = DirectionSet::load(&room.path().join("back.safetensors")).expect("ours");
    assert!(back.layers.keys().eq(set.layers.keys()));
    for (layer, d) in &back.layers {
        let there = &set.layers[layer];
        let off = d.unit.iter().zip(&there.unit).map(|(a, b)| (a - b).abs());
        assert!(off.fold(0., f32::max) < 1e-6, "layer {layer}");
        assert!((d.norm / there.norm - 1.).abs() < 1e-6, "layer {layer}");
    }
}

#[test]
fn an_adapter_goes_to_llama_cpp_and_back() {
    let room = tempfile::tempdir().expect("room");
    let adapter = root().join("tests/interop/fixtures/peft/plain");
    let model = shown(&model());
    let there = [
        "convert",
        &shown(&adapter),
        "--model",
        &model,
        "--out",
        "a.gguf",
    ];
    let told = printed(room.path(), &there);
    assert!(told.contains("14 weights"), "{told}");
    printed(
        room.path(),
        &["convert", "a.gguf", "--model", &model, "--out", "back"],
    );
    let spec = spec();
    let load = |path: &Path| {
        peft::load(path, &spec)
            .expect("an adapter")
            .content_hash()
            .expect("factors")
    };
    assert_eq!(load(&room.path().join("back")), load(&adapter));
}

#[test]
fn a_file_of_repeng_steers() {
    let room = tempfile::tempdir().expect("room");
    let (model, file) = (shown(&model()), theirs("repeng.gguf"));
    let base = [
        "generate",
        "--model",
        &model,
        "--prompt",
        "Is it true?",
        "--max-new-tokens",
        "6",
    ];
    let steered = |more: &[&str]| {
        let with = ["--directions", file.as_str(), "--layers", "1-3"];
        printed(room.path(), &[&base[..], &with[..], more].concat())
    };
    let coeff = steered(&["--total", "900"]);
    assert_ne!(coeff, printed(room.path(), &base), "it does something");
    assert_ne!(steered(&["--strength", "900"]), "");
    let told = refusal(
        room.path(),
        &[
            &base[..],
            &[
                "--directions",
                file.as_str(),
                "--layers",
                "0",
                "--coeff",
                "3",
            ],
        ]
        .concat(),
    );
    assert!(
        told.contains("[1, 2, 3]") && told.contains("layer 0"),
        "{told}"
    );
    let told = refusal(
        room.path(),
        &[
            &base[..],
            &[
                "--directions",
                file.as_str(),
                "--layers",
                "1",
                "--fraction",
                "0.5",
            ],
        ]
        .concat(),
    );
    assert!(told.contains("reference norm"), "{told}");
}

#[test]
fn what_cannot_be_converted_is_refused_with_what_to_do() {
    let room = tempfile::tempdir().expect("room");
    directions(room.path());
    let adapter = shown(&root().join("tests/interop/fixtures/peft/plain"));
    let foreign = theirs("cvector.gguf");
    let cases: [(&[&str], &[&str]); 7] = [
        (
            &["d.safetensors", "--out", "x.txt"],
            &["--out", ".safetensors, .gguf or .svec"],
        ),
        (&["none", "--out", "x.gguf"], &["none", "check the path"]),
        (&[&adapter, "--out", "x.gguf"], &["--model", "heads"]),
        (
            &["d.safetensors", "--layers", "0-1", "--out", "x.gguf"],
            &["layer 0", "leave layer 0 out"],
        ),
        (
            &["d.safetensors", "--layer-offset", "1", "--out", "x.gguf"],
            &["layer offset", "leave it out"],
        ),
        (
            &[&foreign, "--layer-offset", "-2", "--out", "x.safetensors"],
            &["layer 1 with offset -2"],
        ),
        (
            &["d.safetensors", "--coeff", "3", "--out", "x.svec"],
            &["dose", ".gguf"],
        ),
    ];
    for (arguments, parts) in cases {
        let told = refusal(room.path(), &[&["convert"], arguments].concat());
        for part in parts {
            assert!(told.contains(part), "{arguments:?}: `{part}`: {told}");
        }
    }
    let left: Vec<_> = std::fs::read_dir(room.path())
        .expect("a directory")
        .collect();
    assert_eq!(left.len(), 1, "nothing was written: {left:?}");
}

#[test]
fn an_adapter_is_merged_once_unless_more_is_asked_for() {
    let room = tempfile::tempdir().expect("room");
    let adapter = shown(&root().join("tests/interop/fixtures/peft/plain"));
    let base = shown(&model());
    let merge = |model: &str, out: &str, more: &[&str]| -> Vec<String> {
        let from = ["merge", "-m", model, "--adapter", &adapter, "-o", out];
        from.iter().chain(more).map(|a| (*a).to_owned()).collect()
    };
    let done = |all: Vec<String>| {
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        printed(room.path(), &all)
    };
    let refused = |all: Vec<String>| {
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        refusal(room.path(), &all)
    };
    done(merge(&base, "once", &[]));
    done(merge(&base, "quantized", &["--quantize", "q8_0"]));
    // From full to full, from full to quantized, and from quantized to quantized.
    for (model, more) in [
        ("once", &[][..]),
        ("once", &["--quantize", "q8_0"]),
        ("quantized", &[]),
    ] {
        let told = refused(merge(model, "twice", more));
        for said in ["merged adapters", "--again", model] {
            assert!(told.contains(said), "{said}: {told}");
        }
        assert!(!room.path().join("twice").exists());
    }
    done(merge("once", "twice", &["--again"]));
    done(merge("quantized", "quantized twice", &["--again"]));
    done(merge("once", "mixed", &["--again", "--quantize", "q8_0"]));
    for (name, updates) in [
        ("once", 1),
        ("twice", 2),
        ("quantized twice", 2),
        ("mixed", 2),
    ] {
        let found = json(room.path(), &["inspect", name]);
        let merged = found["facts"]["merged updates"]
            .as_str()
            .unwrap_or_default();
        assert_eq!(merged.split(", ").count(), updates, "{name}: {merged}");
    }
}

#[test]
fn a_control_vector_with_a_layer_too_many_steers_where_the_model_has_layers() {
    let room = tempfile::tempdir().expect("room");
    let (model, file) = (shown(&model()), theirs("types.gguf"));
    let run = |layers: &str| {
        let from = ["generate", "--model", &model, "--prompt", "Is it true?"];
        let how = ["--directions", &file, "--strength", "9", "--layers", layers];
        let all = [&from[..], &how[..], &["--max-new-tokens", "4"]].concat();
        reptune(room.path(), &all)
    };
    let output = run("1-3");
    let notes = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{notes}");
    for said in ["layer 4 is left out", "made for `llama-3.1`"] {
        assert!(notes.contains(said), "{said}: {notes}");
    }
    for layers in ["1-4", "4"] {
        let output = run(layers);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains("layers 0 to 3"), "{message}");
    }
}
