//! The command line as a user meets it: results, and what it says to bad input.

use reptune_adapters::steering::direction::{Direction, DirectionSet, Provenance};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use typed::{printed, root};

mod typed;

fn fixture(name: &str) -> PathBuf {
    root().join("tests/fixtures").join(name)
}

fn reptune(directory: &Path, arguments: &[&str]) -> Output {
    output(
        Command::new(env!("CARGO_BIN_EXE_reptune")).args(arguments),
        directory,
    )
}

fn output(command: &mut Command, directory: &Path) -> Output {
    command
        .current_dir(directory)
        .env("HF_HUB_OFFLINE", "1")
        .env("HF_HOME", directory)
        .output()
        .expect("reptune runs")
}

/// A directory with a copy of a tiny model in `model` and a prompt file.
fn workplace() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    copy(&fixture("tiny-llama2"), &directory.path().join("model"));
    write(
        directory.path(),
        "prompts.jsonl",
        "{\"prompt\": \"Is it true?\"}\n",
    );
    directory
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("writable");
    for file in std::fs::read_dir(from).expect("a fixture") {
        let file = file.expect("readable").path();
        std::fs::copy(&file, to.join(file.file_name().expect("named"))).expect("copied");
    }
}

fn write(directory: &Path, name: &str, text: &str) {
    std::fs::write(directory.join(name), text).expect("writable");
}

fn directions(path: &Path, width: usize, model_fingerprint: String) {
    let mut v = vec![0f64; width];
    v[1] = 1.;
    let layers = (0..4)
        .map(|l| (l, Direction::new(&v).expect("not zero")))
        .collect();
    let provenance = Provenance {
        model: "another".into(),
        model_fingerprint,
        model_layers: 4,
        ..Provenance::default()
    };
    DirectionSet { layers, provenance }
        .save(path)
        .expect("saved");
}

/// `d.safetensors`, made for the model of the workplace.
fn directions_of_the_model(directory: &Path) {
    let model = directory.join("model");
    let config = reptune::model::LlamaConfig::read(&model).expect("a Llama");
    let spec = reptune::model::model_spec(&config, &model).expect("a tokenizer");
    let file = directory.join("d.safetensors");
    directions(&file, spec.hidden, spec.fingerprint);
}

const RECIPE: &str = r#"
name = "tiny"
model = "model"
[behaviour]
name = "honesty"
positive = ["Be honest."]
negative = ["Lie."]
[prompt]
claim = "{claim} A or B?"
[data]
claims = { file = "claims.csv" }
[steering]
layers = [1]
coeff = 3.0
[tuning]
modes = ["in-"]
layers = [1]
learning_rate = 1e-3
rank = 2
"#;

/// Runs a command that must fail: exit code 2, one message, and nothing new on disk.
fn refusal(directory: &Path, arguments: &[&str]) -> String {
    refusal_of(
        Command::new(env!("CARGO_BIN_EXE_reptune")).args(arguments),
        directory,
    )
}

fn refusal_of(command: &mut Command, directory: &Path) -> String {
    let listing = || -> Vec<PathBuf> {
        let mut files: Vec<_> = std::fs::read_dir(directory)
            .expect("readable")
            .map(|f| f.expect("readable").path())
            .collect();
        files.sort();
        files
    };
    let before = listing();
    let output = output(command, directory);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{command:?}: {message}");
    assert_eq!(listing(), before, "{command:?} left something behind");
    message.replace(&directory.display().to_string(), "[dir]")
}

/// A write that fails half-way, as on a full disk: files may not grow past some KiB.
#[cfg(unix)]
#[test]
fn a_write_that_fails_leaves_nothing() {
    let directory = workplace();
    directions_of_the_model(directory.path());
    copy(&fixture("peft-adapter"), &directory.path().join("adapter"));
    let refused = |arguments: &str| {
        let limited = format!("trap '' XFSZ; ulimit -f 16; exec \"$0\" {arguments}");
        let mut shell = Command::new("bash");
        shell.args(["-c", &limited, env!("CARGO_BIN_EXE_reptune")]);
        refusal_of(&mut shell, directory.path())
    };
    for (name, arguments) in [
        (
            "full_capture",
            "capture --model model --prompts prompts.jsonl --logits --out c.safetensors",
        ),
        (
            "full_merge",
            "merge --model model --adapter adapter --out merged",
        ),
        (
            "full_bake",
            "bake --model model --directions d.safetensors --layers 1 --coeff 3 --out baked",
        ),
    ] {
        insta::assert_snapshot!(name, refused(arguments));
    }
}

macro_rules! refuse {
    ($name:ident, $prepare:expr, $($argument:expr),+) => {
        #[test]
        fn $name() {
            let directory = workplace();
            let prepare: fn(&Path) = $prepare;
            prepare(directory.path());
            insta::assert_snapshot!(refusal(directory.path(), &[$($argument),+]));
        }
    };
}

const GENERATE: [&str; 5] = ["generate", "--model", "model", "--prompts", "prompts.jsonl"];

refuse!(
    no_such_model,
    |_| {},
    "generate",
    "--model",
    "nowhere",
    "--prompt",
    "x"
);
refuse!(
    not_in_the_hub_cache,
    |_| {},
    "generate",
    "--model",
    "owner/name",
    "--prompt",
    "x"
);
refuse!(
    not_a_llama,
    |d| {
        let text = std::fs::read_to_string(d.join("model/config.json")).expect("readable");
        write(
            d,
            "model/config.json",
            &text.replace("LlamaForCausalLM", "GemmaForCausalLM"),
        );
    },
    "generate",
    "--model",
    "model",
    "--prompt",
    "x"
);
refuse!(
    truncated_weights,
    |d| {
        let bytes = std::fs::read(d.join("model/model.safetensors")).expect("readable");
        std::fs::write(d.join("model/model.safetensors"), &bytes[..bytes.len() - 9])
            .expect("writable");
    },
    "generate",
    "--model",
    "model",
    "--prompt",
    "x"
);
refuse!(
    directions_of_another_width,
    |d| directions(&d.join("d.safetensors"), 48, String::new()),
    GENERATE[0],
    GENERATE[1],
    GENERATE[2],
    GENERATE[3],
    GENERATE[4],
    "--directions",
    "d.safetensors",
    "--layers",
    "1",
    "--coeff",
    "3"
);
refuse!(
    directions_of_another_model,
    |d| directions(&d.join("d.safetensors"), 32, String::new()),
    GENERATE[0],
    GENERATE[1],
    GENERATE[2],
    GENERATE[3],
    GENERATE[4],
    "--directions",
    "d.safetensors",
    "--layers",
    "1",
    "--coeff",
    "3"
);
refuse!(
    layer_out_of_range,
    |_| {},
    "capture",
    "--model",
    "model",
    "--prompts",
    "prompts.jsonl",
    "--layers",
    "2-4",
    "--out",
    "c.safetensors"
);
refuse!(
    coeff_nan,
    |_| {},
    "generate",
    "--model",
    "model",
    "--prompt",
    "x",
    "--coeff",
    "abc",
    "--directions",
    "d",
    "--layers",
    "1"
);
refuse!(
    unknown_rows,
    |_| {},
    "generate",
    "--model",
    "model",
    "--prompt",
    "x",
    "--rows",
    "some"
);
refuse!(
    prompt_longer_than_context,
    |d| write(
        d,
        "prompts.jsonl",
        &format!("{{\"prompt\": \"{}\"}}\n", "x".repeat(300))
    ),
    GENERATE[0],
    GENERATE[1],
    GENERATE[2],
    GENERATE[3],
    GENERATE[4]
);
refuse!(
    not_a_prompt,
    |d| write(d, "prompts.jsonl", "{\"prompt\": \"x\"}\n{\"text\": 1}\n"),
    GENERATE[0],
    GENERATE[1],
    GENERATE[2],
    GENERATE[3],
    GENERATE[4]
);
refuse!(
    template_that_drops_the_prompt,
    |d| {
        write(
            d,
            "model/tokenizer_config.json",
            "{\"chat_template\": \"hello\"}",
        );
        write(
            d,
            "prompts.jsonl",
            "{\"messages\": [{\"role\": \"user\", \"content\": \"Is it true?\"}]}\n",
        );
    },
    GENERATE[0],
    GENERATE[1],
    GENERATE[2],
    GENERATE[3],
    GENERATE[4]
);
refuse!(
    dora_adapter,
    |d| {
        copy(&fixture("peft-adapter"), &d.join("adapter"));
        let text =
            std::fs::read_to_string(d.join("adapter/adapter_config.json")).expect("readable");
        write(
            d,
            "adapter/adapter_config.json",
            &text.replace("\"use_dora\": false", "\"use_dora\": true"),
        );
    },
    "merge",
    "--model",
    "model",
    "--adapter",
    "adapter",
    "--out",
    "merged"
);
refuse!(
    output_directory_not_empty,
    |d| {
        copy(&fixture("peft-adapter"), &d.join("adapter"));
        std::fs::create_dir(d.join("merged")).expect("writable");
        write(d, "merged/thesis.txt", "x");
    },
    "merge",
    "--model",
    "model",
    "--adapter",
    "adapter",
    "--out",
    "merged"
);
refuse!(
    unknown_key,
    |d| write(
        d,
        "r.toml",
        &RECIPE.replace("learning_rate", "lerning_rate")
    ),
    "run",
    "r.toml"
);
refuse!(
    rank_zero,
    |d| write(d, "r.toml", &RECIPE.replace("rank = 2", "rank = 0")),
    "run",
    "r.toml"
);
refuse!(
    nan_in_a_recipe,
    |d| write(d, "r.toml", &RECIPE.replace("3.0", "nan")),
    "run",
    "r.toml"
);
refuse!(
    empty_data,
    |d| {
        write(d, "r.toml", RECIPE);
        write(d, "claims.csv", "claim,label\n");
    },
    "run",
    "r.toml"
);
refuse!(
    column_missing,
    |d| {
        write(d, "r.toml", RECIPE);
        write(d, "claims.csv", "statement,label\nsnow is white,true\n");
    },
    "run",
    "r.toml"
);
refuse!(
    label_that_is_no_truth,
    |d| {
        write(d, "r.toml", RECIPE);
        write(
            d,
            "claims.csv",
            "claim,label\nsnow is white,true\nsnow is red,perhaps\n",
        );
    },
    "run",
    "r.toml"
);

#[test]
fn label_that_is_more_than_a_token() {
    let directory = workplace();
    write(
        directory.path(),
        "r.toml",
        &RECIPE.replace("[data]", "labels = [\"Yes\", \"No\"]\n[data]"),
    );
    let claims: String = (0..40)
        .map(|i| format!("claim {i},{}\n", i % 2 == 0))
        .collect();
    write(
        directory.path(),
        "claims.csv",
        &format!("claim,label\n{claims}"),
    );
    let output = reptune(directory.path(), &["extract", "r.toml"]);
    assert_eq!(output.status.code(), Some(2));
    insta::assert_snapshot!(String::from_utf8_lossy(&output.stderr));
    assert!(
        !directory
            .path()
            .join("runs/tiny/directions.safetensors")
            .exists()
    );
}

#[test]
fn capture_writes_what_it_promises() {
    let directory = workplace();
    let typed =
        "capture --model model --prompts prompts.jsonl --layers 0,2-3 --logits --out c.safetensors";
    let arguments: Vec<&str> = typed.split(' ').collect();
    printed(directory.path(), &arguments);
    let bytes = std::fs::read(directory.path().join("c.safetensors")).expect("written");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let mut found: Vec<String> = file
        .tensors()
        .iter()
        .map(|(n, t)| format!("{n} {:?} {:?}", t.dtype(), t.shape()))
        .collect();
    found.sort();
    insta::assert_snapshot!(found.join("\n"));
}

#[test]
fn the_same_seed_draws_the_same_tokens() {
    let directory = workplace();
    let draw = |seed: &str| {
        let arguments = [
            "generate",
            "--model",
            "model",
            "--prompt",
            "Is it true?",
            "--max-new-tokens",
            "12",
            "--temperature",
            "1.0",
            "--seed",
            seed,
            "--json",
        ];
        printed(directory.path(), &arguments)
    };
    assert_eq!(draw("1"), draw("1"));
    assert_ne!(draw("1"), draw("2"));
}

#[test]
fn steering_that_changes_nothing_is_refused_unless_it_is_asked_for() {
    let directory = workplace();
    directions_of_the_model(directory.path());
    let steer = "--directions d.safetensors --layers 1 --coeff 3".split(' ');
    let nowhere = ["--rows", "positions:90", "--max-new-tokens", "2"];
    let mut arguments: Vec<&str> = GENERATE.into_iter().chain(steer).chain(nowhere).collect();
    insta::assert_snapshot!(refusal(directory.path(), &arguments));
    arguments.push("--allow-no-effect");
    printed(directory.path(), &arguments);
}
