//! `reptune bench` and `reptune plan` as they are typed.

mod typed;

use serde_json::Value;
use std::path::Path;
use typed::{printed, refusal, root};

/// What a benchmark printed.
fn json(room: &Path, arguments: &str) -> Value {
    let arguments: Vec<&str> = arguments.split_whitespace().collect();
    serde_json::from_str(&printed(room, &arguments)).expect("one JSON object")
}

const MODEL: &str = "bench make-model --out model --hidden 32 --layers 3 --heads 4 --kv-heads 2 \
                     --intermediate 48 --vocab 64 --context 64";

/// Workloads are made once, and give the same again.
#[test]
fn workloads_are_kept_and_give_the_same_again() {
    let room = tempfile::tempdir().expect("room");
    let room = room.path();
    let made = json(room, MODEL);
    assert_eq!(
        made["parameters"],
        64 * 32 * 2 + 32 + 3 * (2 * 32 + 32 * 32 * 3 + 32 * 48 * 3)
    );
    for (work, kept, arguments) in [
        (
            "tune",
            "losses",
            "--prompts 4 --steps 4 --layers 1 --rank 2",
        ),
        (
            "tune",
            "validation",
            "--claims 5 --epochs 2 --validation 3 --layers 1-2 --mode out",
        ),
        ("capture", "digest", "--pairs 3 --last 5"),
        ("sweep", "log_odds", "--questions 4 --coeffs 2"),
        ("sweep", "tokens", "--questions 4 --coeffs 1 --generate 3"),
        ("generate", "tokens", "--prompts 2 --new 4 --repeats 1"),
    ] {
        let place = format!("{work}-{kept}");
        let once = format!(
            "bench {work} --model model --work {place} --tokens 20-24 --shared 8 {arguments}"
        );
        let (first, again) = (json(room, &once), json(room, &once));
        assert_eq!(first[kept], again[kept], "{once}");
        let entries = first[kept].as_array().map_or(0, Vec::len);
        assert!(entries > 1, "{once}: {}", first[kept]);
        assert!(first["seconds"].as_f64().is_some_and(|s| s > 0.));
        assert!(first["peak_bytes"].as_u64().is_some_and(|b| b > 1 << 20));
    }
    let merged = json(room, "bench merge --model model --work merged --rank 2");
    assert!(
        merged["bytes"].as_u64().is_some_and(|b| b > 60_000),
        "{merged}"
    );
    let other = [
        "bench",
        "sweep",
        "--model",
        "model",
        "--work",
        "capture-digest",
    ];
    insta::assert_snapshot!(refusal(room, &other));
}

#[test]
fn a_plan_counts_from_sizes_alone() {
    let arguments = ["plan", "recipes/honesty-mini.toml", "--gflops", "50"];
    insta::assert_snapshot!(printed(&root(), &arguments));
}
