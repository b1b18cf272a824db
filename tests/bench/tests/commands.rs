//! Every command runs on a tiny model, and a workload gives the same result again.

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

fn bench(directory: &Path, arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_reptune-bench"))
        .args(arguments.split_whitespace())
        .current_dir(directory)
        .env("REPTUNE_CACHE", directory.join("cache"))
        .output()
        .expect("reptune-bench runs")
}

fn json(directory: &Path, arguments: &str) -> Value {
    let output = bench(directory, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments}: {errors}");
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

#[test]
fn every_command_runs_and_gives_the_same_again() {
    let directory = tempfile::tempdir().expect("directory");
    let directory = directory.path();
    let made = json(
        directory,
        "make-model --out model --hidden 32 --layers 3 --heads 4 --kv-heads 2 \
         --intermediate 48 --vocab 64 --context 64",
    );
    assert_eq!(
        made["parameters"],
        64 * 32 * 2 + 32 + 3 * (2 * 32 + 32 * 32 * 3 + 32 * 48 * 3)
    );
    for (name, output, arguments) in [
        (
            "steps",
            "losses",
            "tune --prompts 4 --steps 4 --layers 1 --rank 2",
        ),
        (
            "run",
            "validation",
            "tune --claims 5 --epochs 2 --validation 3 --layers 1-2 --mode out",
        ),
        ("rows", "digest", "capture --pairs 3 --last 5"),
        ("answers", "log_odds", "sweep --questions 4 --coeffs 2"),
        (
            "texts",
            "tokens",
            "sweep --questions 4 --coeffs 1 --generate 3",
        ),
        ("own", "tokens", "generate --prompts 2 --new 4 --repeats 1"),
        (
            "steered",
            "tokens",
            "generate --arm steered --prompts 2 --new 4 --repeats 1",
        ),
        (
            "engine",
            "texts",
            "generate --arm engine --prompts 2 --new 4 --repeats 1",
        ),
    ] {
        let once = format!("{arguments} --model model --work {name} --tokens 20-24 --shared 8");
        let (first, again) = (json(directory, &once), json(directory, &once));
        assert_eq!(first[output], again[output], "{once}");
        let entries = first[output].as_array().map_or(0, Vec::len);
        assert!(entries > 1, "{once}: {}", first[output]);
        assert!(first["seconds"].as_f64().is_some_and(|s| s > 0.));
        assert!(first["peak_bytes"].as_u64().is_some_and(|b| b > 1 << 20));
    }
    let served = "serve --model model --work served --tokens 8 --shared 2 --requests 2 --new 2";
    assert!(json(directory, served)["requests_per_second"].is_f64());
    let merged = json(directory, "merge --model model --work merged --rank 2");
    assert!(
        merged["bytes"].as_u64().is_some_and(|b| b > 60_000),
        "{merged}"
    );
    assert!(json(directory, "product --side 64")["gflops"].is_f64());
    for coeff in [0, 4] {
        let bake = format!("bake --model model --out baked{coeff} --layer 1 --coeff {coeff}");
        assert!(json(directory, &bake)["bytes"].is_object());
        let run = format!(
            "generate --arm engine --model baked{coeff}/model.uqff --work on{coeff} \
             --tokens 8 --shared 2 --new 2 --repeats 1"
        );
        assert!(json(directory, &run)["texts"].is_array());
    }
}

#[test]
fn a_workload_of_another_command_is_refused() {
    let directory = tempfile::tempdir().expect("directory");
    let directory = directory.path();
    json(
        directory,
        "make-model --out model --hidden 32 --layers 1 --heads 4 --vocab 64",
    );
    json(directory, "capture --model model --work work --pairs 1");
    let output = bench(directory, "sweep --model model --work work");
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(
        message.contains("work/work.json: not a workload of this command"),
        "{message}"
    );
}
