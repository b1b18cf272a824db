//! `merge` into quantized weights, `bake` and `inspect` as a user meets them,
//! on the honest mini-Llama.

use crate::program::{json, masked, model, printed, refusal, root};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// An adapter that makes the mini-Llama lie, and the direction of honesty, once for all
/// tests; a test directory of its own.
fn workplace() -> (tempfile::TempDir, PathBuf) {
    use std::sync::OnceLock;
    static MADE: OnceLock<tempfile::TempDir> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let room = tempfile::tempdir().expect("room");
        let recipe = root()
            .join("tests/parity/recipe.toml")
            .display()
            .to_string();
        let mode = ["tune", &recipe, "--mode", "in- & lie", "--out", "run"];
        printed(room.path(), &mode);
        room
    });
    let room = tempfile::tempdir().expect("room");
    (room, made.path().join("run"))
}

fn recipe() -> String {
    root()
        .join("tests/parity/recipe.toml")
        .display()
        .to_string()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Temporary directories by name.
fn named(text: &str, room: &Path, run: &Path) -> String {
    let text = text.replace(&run.display().to_string(), "RUN");
    let text = text.replace(&room.display().to_string(), "ROOM");
    text.replace(&root().display().to_string(), "ROOT")
}

#[test]
fn a_merge_into_quantized_weights_tells_what_survives() {
    let (room, run) = workplace();
    let adapter = text(&run.join("tuned/in_minus_lie"));
    let model = model();
    let plain = [
        "merge",
        "--model",
        &model,
        "--adapter",
        &adapter,
        "--quantize",
        "q4_0",
    ];
    let told = printed(room.path(), &[&plain[..], &["--out", "nearest"]].concat());
    masked(&told, |t| insta::assert_snapshot!("merged_nearest", t));

    let recipe = recipe();
    let measured = ["--recipe", &recipe, "--out", "measured"];
    let told = json(room.path(), &[&plain[..], &measured].concat());
    assert_eq!(told["rounding"], "gptq");
    let rows = told["models"].as_array().expect("rows");
    let names: Vec<&str> = rows.iter().filter_map(|r| r["model"].as_str()).collect();
    assert_eq!(names, ["base", "tuned", "base", "tuned"]);
    let balance = |i: usize| rows[i]["balance"].as_f64().expect("balance");
    assert!(balance(0) > 0.5 && balance(1) < -0.9, "{rows:?}");
    assert!(balance(2) > 0.5 && balance(3) < -0.9, "{rows:?}");
    let module = &told["modules"][0];
    for key in ["delta_norm", "step_norm", "cosine", "share", "noise"] {
        let value = module[key].as_f64().unwrap_or(f64::NAN);
        assert!(value > 0. && value.is_finite(), "{key}: {value}");
    }
    let found = json(room.path(), &["inspect", "measured"]);
    assert_eq!(found["kind"], "UQFF");
    assert_eq!(
        found["facts"]["merged updates"].as_str().map(str::len),
        Some(64)
    );
}

#[test]
fn auto_takes_the_smallest_file_or_none() {
    let (room, run) = workplace();
    let (adapter, model, recipe) = (text(&run.join("tuned/in_minus_lie")), model(), recipe());
    let auto = [
        "merge",
        "--model",
        &model,
        "--adapter",
        &adapter,
        "--quantize",
        "auto",
        "--recipe",
        &recipe,
        "--rounding",
        "nearest",
    ];
    let told = json(room.path(), &[&auto[..], &["--out", "small"]].concat());
    let tried = told["tried"].as_array().expect("tried");
    let kept = tried.last().expect("one")["effect_retained"]
        .as_f64()
        .expect("kept");
    assert!(kept >= 0.95, "{tried:?}");
    let bytes = std::fs::metadata(room.path().join("small/model.uqff"));
    assert_eq!(told["bytes"].as_u64(), bytes.ok().map(|m| m.len()));

    let without = refusal(room.path(), &[&auto[..7], &["--out", "x"]].concat());
    insta::assert_snapshot!("auto_without_recipe", without);
    assert!(!room.path().join("x").exists());
}

#[test]
fn steering_is_baked_and_inspected() {
    let (room, run) = workplace();
    let (directions, model) = (text(&run.join("directions.safetensors")), model());
    let bake = ["bake", "--model", &model, "--directions", &directions];
    let here = |more: &[&'static str]| {
        let all: Vec<&str> = bake.iter().copied().chain(more.iter().copied()).collect();
        all.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let run_it = |more: &[&'static str]| {
        let arguments = here(more);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        printed(room.path(), &arguments)
    };
    let refused = |more: &[&'static str]| {
        let arguments = here(more);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        named(&refusal(room.path(), &arguments), room.path(), &run)
    };
    let doses = run_it(&[
        "--layers",
        "3",
        "--coeffs",
        "12,-22.5,0",
        "--quantize",
        "q8_0",
        "--out",
        "doses",
    ]);
    insta::assert_snapshot!("baked_doses", doses);
    let dose = json(room.path(), &["inspect", "doses/plus_12.uqff"]);
    assert_eq!(
        dose["facts"]["steering"],
        "add at resid_post: coeff 12 at layer 3"
    );
    let everywhere = [
        "--layers",
        "3",
        "--operator",
        "ablate",
        "--hook",
        "everywhere",
        "--out",
        "without",
    ];
    let told = run_it(&everywhere);
    masked(&told, |t| insta::assert_snapshot!("baked_everywhere", t));
    let found = json(room.path(), &["inspect", "without"]);
    assert_eq!(found["facts"]["steering"], "ablate everywhere");

    insta::assert_snapshot!(
        "bake_without_prompts",
        refused(&[
            "--layers",
            "3",
            "--operator",
            "ablate",
            "--approximate",
            "--out",
            "x"
        ])
    );
    insta::assert_snapshot!(
        "bake_a_dose_twice",
        refused(&["--layers", "3", "--coeffs", "2,2.0", "--out", "x"])
    );
    insta::assert_snapshot!(
        "bake_two_layers_everywhere",
        refused(&[
            "--layers",
            "2,3",
            "--operator",
            "ablate",
            "--hook",
            "everywhere",
            "--out",
            "x"
        ])
    );
    assert!(!room.path().join("x").exists(), "nothing is left");
}

#[test]
fn an_artefact_is_told_and_a_broken_one_refused() {
    let (room, run) = workplace();
    let see = |path: &Path| {
        named(
            &printed(room.path(), &["inspect", &text(path)]),
            room.path(),
            &run,
        )
    };
    let filtered = |name: &str, shown: String| {
        insta::with_settings!({filters => vec![
            (r"[0-9a-f]{64}", "[sha256]"), (r"[0-9a-f]{12}\b", "[sha]"), (r"\d+\.\d{4}", "#.####"),
        ]}, { insta::assert_snapshot!(name, shown) });
    };
    filtered(
        "inspect_directions",
        see(&run.join("directions.safetensors")),
    );
    filtered("inspect_adapter", see(&run.join("tuned/in_minus_lie")));
    filtered("inspect_run", see(&run));
    let (adapter, model) = (text(&run.join("tuned/in_minus_lie")), model());
    let merge = [
        "merge",
        "--model",
        &model,
        "--adapter",
        &adapter,
        "--out",
        "merged",
    ];
    printed(room.path(), &merge);
    filtered("inspect_merged", see(&room.path().join("merged")));

    // One bit of a direction, and of a merged weight.
    let flip = |path: &Path, from_end: usize| {
        let mut bytes = std::fs::read(path).expect("file");
        let at = bytes.len() - from_end;
        bytes[at] ^= 1;
        std::fs::write(room.path().join("broken.safetensors"), &bytes).expect("written");
        bytes
    };
    flip(&run.join("directions.safetensors"), 3);
    let message = refusal(room.path(), &["inspect", "broken.safetensors"]);
    assert!(message.contains("content_sha256"), "{message}");
    let told: Value = json(room.path(), &["inspect", "merged"]);
    let changed = told["parts"][1][0].as_str().expect("a tensor");
    let file = room.path().join("merged/model.safetensors");
    let open = reptune_adapters::formats::safetensors::TensorFile::open(&file).expect("open");
    let (offset, _) = open.place(changed).expect("there");
    let length = std::fs::metadata(&file).expect("file").len();
    let bytes = flip(&file, (length - offset) as usize);
    std::fs::write(&file, bytes).expect("written");
    let message = refusal(room.path(), &["inspect", "merged"]);
    assert!(
        message.contains(changed) && message.contains("SHA-256"),
        "{message}"
    );

    let nothing = refusal(room.path(), &["inspect", "nothing"]);
    insta::assert_snapshot!("inspect_nothing", nothing);
    let empty = refusal(room.path(), &["inspect", "."]);
    insta::assert_snapshot!("inspect_no_artefact", empty);
}
