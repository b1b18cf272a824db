//! Files of other programs: control vectors, `.svec` files and adapters, damaged and hostile.
//! The good ones that are not ours were written by repeng, and as llama.cpp's generator does.

use super::change::{changed, changes, odd, replaced};
use super::{config, reads};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use reptune::model::{ModelConfig, model_spec};
use reptune_adapters::lora::gguf as lora;
use reptune_adapters::steering::direction::{Direction, Provenance};
use reptune_adapters::steering::exchange::control_vector::{self, Length};
use reptune_adapters::steering::exchange::svec;
use reptune_adapters::{Adapter, DirectionSet, ModelSpec, open_directions};
use reptune_tests::fixture;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn spec() -> ModelSpec {
    let model = fixture("tiny-llama2");
    let config = ModelConfig::read(&model).expect("a config");
    model_spec(&config, &model).expect("a model")
}

fn theirs(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("interop/fixtures/llama_cpp").join(name)
}

fn directions() -> DirectionSet {
    let direction = |l: usize| {
        let v: Vec<f64> = (0..32).map(|i| ((i * (l + 2)) as f64).sin()).collect();
        (l, Direction::new(&v).expect("a direction"))
    };
    DirectionSet {
        layers: (1..4).map(direction).collect(),
        provenance: Provenance {
            model: "tiny".into(),
            model_fingerprint: "f".into(),
            model_layers: 4,
            residual_norms: (0..4).map(|l| (l, 1.5)).collect(),
            ..Provenance::default()
        },
    }
}

/// Directions that were taken are usable: unit vectors of one width, finite norms.
fn sound(set: &DirectionSet) {
    let width = set.layers.values().next().expect("a layer").unit.len();
    for (layer, d) in &set.layers {
        let square: f64 = d.unit.iter().map(|x| f64::from(*x).powi(2)).sum();
        assert_eq!(d.unit.len(), width, "layer {layer}");
        assert!((square - 1.).abs() < 1e-3, "layer {layer}: {square}");
        assert!(
            d.norm.is_finite() && d.norm > 0.,
            "layer {layer}: {}",
            d.norm
        );
    }
}

fn open(path: &Path) -> Result<DirectionSet, String> {
    let set = reads(path.parent().expect("a directory"), || {
        open_directions(path)
    })?;
    sound(&set);
    // What is steered with is checked against the model; that is no panic either.
    let _ = set.check_model(path, &spec());
    Ok(set)
}

fn adapter(path: &Path) -> Result<Adapter, String> {
    let update = reads(path.parent().expect("a directory"), || {
        lora::read(path, &spec())
    })?;
    for (module, l) in &update.modules {
        let (o, i) = module.kind.shape(&spec());
        assert_eq!((l.a.dims()[1], l.b.dims()[0]), (i, o), "{module}");
        assert_eq!(l.a.dims()[0], l.b.dims()[1], "{module}");
        assert!(l.scale.is_finite(), "{module}: {}", l.scale);
    }
    Ok(update)
}

fn changed_file(
    name: &str,
    good: &[u8],
    changes: &[super::change::Change],
    near: bool,
) -> (tempfile::TempDir, PathBuf) {
    let room = tempfile::tempdir().expect("room");
    let path = room.path().join(name);
    let reach = if near { 700 } else { usize::MAX };
    std::fs::write(&path, changed(good, reach, changes)).expect("write");
    (room, path)
}

proptest! {
    #![proptest_config(config(256))]

    #[test]
    fn damaged_control_vectors_are_refused_or_sound(changes in changes(), near: bool, which in 0usize..2) {
        let name = ["repeng.gguf", "cvector.gguf"][which];
        let good = std::fs::read(theirs(name)).expect("bytes");
        let (_room, path) = changed_file(name, &good, &changes, near);
        let _ = open(&path);
    }

    #[test]
    fn damage_to_a_control_vector_of_ours_is_noticed(changes in changes(), near: bool) {
        let room = tempfile::tempdir().expect("room");
        let path = room.path().join("ours.gguf");
        let set = directions();
        control_vector::write(&path, &set, &[1, 2, 3], Length::Unit).expect("write");
        let good = std::fs::read(&path).expect("bytes");
        let reach = if near { 1500 } else { usize::MAX };
        std::fs::write(&path, changed(&good, reach, &changes)).expect("write");
        if let Ok(found) = open(&path) {
            let vectors = |s: &DirectionSet| s.layers.values().map(|d| d.unit.clone()).collect::<Vec<_>>();
            prop_assert!(vectors(&found) == vectors(&set), "damage was not noticed");
        }
    }

    #[test]
    fn damaged_adapters_are_refused_or_sound(changes in changes(), near: bool) {
        let good = std::fs::read(theirs("lora.gguf")).expect("bytes");
        let (_room, path) = changed_file("lora.gguf", &good, &changes, near);
        let _ = adapter(&path);
    }

    #[test]
    fn damaged_svec_files_are_refused_or_sound(changes in changes()) {
        let room = tempfile::tempdir().expect("room");
        let path = room.path().join("x.svec");
        svec::write(&path, &directions(), &[1, 2, 3]).expect("write");
        let good = std::fs::read(&path).expect("bytes");
        std::fs::write(&path, changed(&good, usize::MAX, &changes)).expect("write");
        let _ = open(&path);
    }

    #[test]
    fn odd_values_in_an_svec_file_are_refused_or_sound(at in any::<Index>(), odd in odd()) {
        let room = tempfile::tempdir().expect("room");
        let path = room.path().join("x.svec");
        let good = json!({"model_type": "llama", "directions": {"1": [1, -2], "3": [[0.5, 2]]},
            "explained_variances": {"1": 0.5}, "num_heads": 2, "head_dim": 2, "probe_accuracies": {"1:0": 0.9}});
        let (bad, place) = replaced(&good, at, odd);
        std::fs::write(&path, bad.to_string()).expect("write");
        if let Err(message) = open(&path) {
            prop_assert!(message.starts_with("[DIR]/x.svec: "), "{place}: {message}");
        }
    }

    #[test]
    fn arbitrary_files_are_no_directions(start in 0usize..4, rest in vec(any::<u8>(), 0..100)) {
        let starts: [&[u8]; 4] = [b"", b"{", b"GGUF\x03\0\0\0", b"{\"directions\": "];
        let room = tempfile::tempdir().expect("room");
        for name in ["x.gguf", "x.svec", "x.safetensors", "x"] {
            let path = room.path().join(name);
            std::fs::write(&path, [starts[start], &rest].concat()).expect("write");
            let start = format!("[DIR]/{name}: ");
            for message in [open(&path).err(), adapter(&path).err()] {
                prop_assert!(message.as_ref().is_some_and(|m| m.starts_with(&start)), "{message:?}");
            }
        }
    }
}

#[test]
fn the_good_files_are_good() {
    for name in ["repeng.gguf", "cvector.gguf"] {
        let room = tempfile::tempdir().expect("room");
        let path = room.path().join(name);
        std::fs::copy(theirs(name), &path).expect("copy");
        let set = open(&path).expect(name);
        assert_eq!(
            set.layers.keys().copied().collect::<Vec<_>>(),
            [1, 2, 3],
            "{name}"
        );
    }
    let room = tempfile::tempdir().expect("room");
    let path = room.path().join("lora.gguf");
    std::fs::copy(theirs("lora.gguf"), &path).expect("copy");
    assert_eq!(adapter(&path).expect("an adapter").modules.len(), 14);
}

#[test]
fn an_svec_file_that_is_deep_or_long_is_refused() {
    let room = tempfile::tempdir().expect("room");
    let path = room.path().join("x.svec");
    let deep = format!("{{\"directions\": {{\"1\": {}", "[".repeat(200_000));
    let many: serde_json::Map<String, Value> =
        (0..3000).map(|l| (l.to_string(), json!([1, 2]))).collect();
    let cases = [
        (deep, "EOF while parsing a list"),
        (
            json!({"directions": {"4294967296": [1, 2]}}).to_string(),
            "`directions.4294967296`",
        ),
        (
            json!({"directions": {"-1": [1, 2]}}).to_string(),
            "`directions.-1`",
        ),
        (
            json!({"directions": {"1": [1e39, 2]}}).to_string(),
            "non-zero, finite vector",
        ),
        (
            json!({"directions": {"1": [0, 0]}}).to_string(),
            "at least one that is not zero",
        ),
    ];
    for (text, said) in cases {
        std::fs::write(&path, text).expect("write");
        let message = open(&path).expect_err(said);
        assert!(message.contains(said), "{said}: {message}");
    }
    std::fs::write(&path, json!({"directions": many}).to_string()).expect("write");
    let set = open(&path).expect("as many layers as one likes");
    let message = set
        .check_model(&path, &spec())
        .expect_err("of another model")
        .to_string();
    assert!(
        message.contains("width") || message.contains("layer"),
        "{message}"
    );
}
