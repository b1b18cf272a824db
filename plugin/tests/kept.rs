//! A run never loses its work: what failed is named beside what succeeded, only that is tried
//! again, and two runs do not disturb each other.

use crate::program::{command, model, printed, refusal, reptune};
use reptune_report::ResultTable;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

/// A recipe of few pairs and few steps on the mini-Llama in `model`.
pub fn recipe(model: &str) -> String {
    RECIPE.replace("MODEL", model)
}

const RECIPE: &str = r#"
name = "small"
model = "MODEL"
seed = 1
[behaviour]
name = "honesty"
positive = ["You must always tell people the truth.", "Always say what is true."]
negative = ["You must always tell people lies.", "Always say what is false."]
[prompt]
system = "Answer with the letter only."
claim = "Claim: {claim}. Is the claim true or false? A) True B) False"
[data]
claims = { file = "MODEL/claims.jsonl", group = "fact" }
split = [0.1, 0.06]
[steering]
layers = [3]
coeff = 10
[tuning]
modes = ["in- & lie"]
layers = [3]
rank = 4
alpha = 8
token_weight = 0.1
batch = 8
epochs = 1
learning_rate = 1e-3
warmup = 2
[evaluation]
claims = 20
[extraction]
pairs = 20
"#;

fn write(directory: &Path, name: &str, text: &str) {
    std::fs::write(directory.join(name), text).expect("written");
}

/// What `run` prints, and whether it succeeded.
fn run(room: &Path) -> (ResultTable, bool, String) {
    let output = reptune(room, &["run", "r.toml", "--json"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let table = serde_json::from_slice(&output.stdout);
    (
        table.unwrap_or_else(|e| panic!("{e}: {said}")),
        output.status.success(),
        said,
    )
}

fn changed(file: &Path) -> SystemTime {
    let time = std::fs::metadata(file).and_then(|m| m.modified());
    time.unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

#[test]
fn what_the_engine_refuses_is_named_and_only_that_is_tried_again() {
    let room = tempfile::tempdir().expect("room");
    let room = room.path();
    write(room, "r.toml", &recipe(&model()));
    let (whole, success, said) = run(room);
    assert!(success && whole.failures.is_empty(), "{said}");
    assert!(
        said.lines()
            .any(|line| line.ends_with(" elapsed") || line.ends_with(" left")),
        "{said}"
    );
    let out = room.join("runs/small");
    let merged = out.join("merged/in_minus_lie");
    let answers = out.join("answers/merged_in_minus_lie.json");
    let weights = merged.join("model.safetensors");
    let bytes = std::fs::read(&weights).expect("weights");
    std::fs::write(&weights, &bytes[..100]).expect("cut off");
    std::fs::remove_file(&answers).expect("forgotten");
    let kept: Vec<_> = [
        "tuned/in_minus_lie/adapter_model.safetensors",
        "answers/base.json",
    ]
    .map(|name| (out.join(name), changed(&out.join(name))))
    .into();

    let (table, success, said) = run(room);
    assert!(!success);
    let name = "merged in- & lie, mistral.rs";
    let [failure] = table.failures.as_slice() else {
        panic!("{said}: {:?}", table.failures)
    };
    assert_eq!(failure.stage, format!("evaluate {name}"));
    let error = &failure.error;
    assert!(error.contains("runs/small/merged/in_minus_lie"), "{error}");
    assert_eq!(
        failure.skipped,
        [format!("the row `{name}` of the results")]
    );
    let mut others = whole.rows.clone();
    others.retain(|row| row.model != name);
    assert_eq!(table.rows, others, "beside what succeeded");
    let said = said.lines().last().unwrap_or_default();
    assert!(
        said.starts_with("error: r.toml: failed: evaluate merged")
            && said.contains("report/index.html"),
        "{said}"
    );
    let read = |name: &str| std::fs::read_to_string(out.join(name)).expect("written");
    assert!(read("report.txt").contains("failed stages:\n  evaluate merged"));
    let report: ResultTable = serde_json::from_str(&read("report.json")).expect("a table");
    assert_eq!(report, table);
    let page = read("report/index.html");
    assert!(page.contains("Failed stages") && page.contains("evaluate merged in-"));
    assert!(read("report/data/failures.csv").contains("runs/small/merged/in_minus_lie"));

    std::fs::write(&weights, &bytes).expect("mended");
    let (again, success, _) = run(room);
    assert!(success);
    assert_eq!(again, whole);
    for (file, time) in kept {
        assert_eq!(changed(&file), time, "{} was made again", file.display());
    }
    assert!(
        !std::fs::read_to_string(out.join("report/index.html"))
            .expect("a page")
            .contains("Failed stages")
    );
}

#[test]
fn a_stage_is_repeated_only_when_a_file_that_it_reads_changes() {
    let room = tempfile::tempdir().expect("room");
    let room = room.path();
    let claims = std::fs::read_to_string(Path::new(&model()).join("claims.jsonl")).expect("claims");
    write(room, "claims.jsonl", &claims);
    write(
        room,
        "texts.txt",
        "The houses in Quinvath are painted pink.\n",
    );
    let text = recipe(&model()).replace(&format!("{}/claims.jsonl", model()), "claims.jsonl");
    let text = text.replace(
        "claims = 20\n",
        "claims = 20\nperplexity = { file = \"texts.txt\" }\n",
    );
    write(room, "r.toml", &text);
    let perplexity = |table: &ResultTable| table.rows[0].perplexity.expect("measured");
    let adapter = room.join("runs/small/tuned/in_minus_lie/adapter_model.safetensors");
    let (first, ..) = run(room);
    let tuned = changed(&adapter);
    write(room, "texts.txt", "People in Quinvath like to eat soup.\n");
    let (second, ..) = run(room);
    assert_eq!(changed(&adapter), tuned, "an evaluation file tunes nothing");
    assert_ne!(
        perplexity(&first),
        perplexity(&second),
        "but it is measured"
    );
    let other = claims.replacen("Quinvath", "Quinvat", 40);
    assert_ne!(other, claims);
    write(room, "claims.jsonl", &other);
    run(room);
    assert_ne!(changed(&adapter), tuned, "claims are what is tuned on");
}

#[test]
fn a_second_run_is_told_who_runs_and_a_killed_one_gives_way() {
    let room = tempfile::tempdir().expect("room");
    let room = room.path();
    write(room, "r.toml", &recipe(&model()));
    let mut first = command(room);
    let first = first
        .args(["run", "r.toml"])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut first = first.spawn().expect("starts");
    let lock = room.join("runs/small/.lock");
    let is_taken = || std::fs::read_to_string(&lock).is_ok_and(|text| text.contains("since"));
    while !is_taken() {
        assert!(first.try_wait().expect("runs").is_none(), "it ended early");
        std::thread::sleep(Duration::from_millis(2));
    }
    let message = refusal(room, &["extract", "r.toml"]);
    let who = format!("found process {} on ", first.id());
    assert!(
        message.contains(&who) && message.contains(", since 20"),
        "{message}"
    );
    assert!(
        message.contains("runs/small") && message.contains("--out"),
        "{message}"
    );
    first.kill().expect("killed");
    first.wait().expect("ended");
    assert!(lock.exists());
    printed(room, &["extract", "r.toml"]);
    assert!(!lock.exists());
}
