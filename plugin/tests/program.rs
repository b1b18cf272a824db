//! Runs the program, with a cache of its own.

use serde_json::{Value, json as value};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

pub fn fixture(name: &str) -> PathBuf {
    root().join("tests/fixtures").join(name)
}

pub fn model() -> String {
    root().join("models/honest-mini").display().to_string()
}

/// The program in `directory`, where its cache and that of the hub are too.
pub fn command(directory: &Path) -> Command {
    static ELSEWHERE: OnceLock<tempfile::TempDir> = OnceLock::new();
    let room = || tempfile::tempdir().expect("a temporary directory");
    let cache = match directory == root() {
        true => ELSEWHERE.get_or_init(room).path(),
        false => directory,
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_reptune"));
    command
        .current_dir(directory)
        .env_remove("HF_HUB_CACHE")
        .env_remove("HUGGINGFACE_HUB_CACHE")
        .env("HF_HUB_OFFLINE", "1")
        .env("HF_HOME", cache.join(".hub"))
        .env("REPTUNE_CACHE", cache.join(".cache"));
    command
}

pub fn reptune(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = command(directory);
    command.args(arguments).output().expect("reptune runs")
}

pub fn printed(directory: &Path, arguments: &[&str]) -> String {
    let output = reptune(directory, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).expect("text")
}

pub fn json(directory: &Path, arguments: &[&str]) -> Value {
    let arguments = [arguments, &["--json"]].concat();
    serde_json::from_str(&printed(directory, &arguments)).expect("JSON")
}

/// The message of a command that must fail: exit code 1, and nothing on stdout.
pub fn refusal(directory: &Path, arguments: &[&str]) -> String {
    let output = reptune(directory, arguments);
    let message = String::from_utf8_lossy(&output.stderr);
    // without progress, which depends on the time
    let is_progress =
        |line: &&str| line.trim_end().ends_with(" elapsed") || line.contains(" elapsed, ");
    let lines = message
        .split_inclusive('\n')
        .filter(|line| !is_progress(line));
    let message: String = lines.collect();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {message}");
    assert_eq!(output.stdout, b"", "{arguments:?}");
    message.replace(&model(), "[model]")
}

/// Numbers, and what their lengths do to the columns, are for the asserts.
pub fn masked(text: &str, check: impl FnOnce(&str)) {
    let filters = [(r"[+-]?\d+\.\d+", "#"), (r"-{3,}", "---"), (r" {2,}", "  ")];
    insta::with_settings!({filters => filters}, { check(text) });
}

/// Copies the files of the directory `from` to the new directory `to`.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("writable");
    for file in std::fs::read_dir(from).expect("a fixture") {
        let file = file.expect("readable").path();
        std::fs::copy(&file, to.join(file.file_name().expect("named"))).expect("copied");
    }
}

pub fn write(directory: &Path, name: &str, text: &str) {
    std::fs::write(directory.join(name), text).expect("writable");
}

/// A directory with a copy of a tiny model in `model`, and a prompt file.
pub fn workplace() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    copy(&fixture("tiny-llama2"), &directory.path().join("model"));
    let prompts = "{\"prompt\": \"Is it true?\"}\n";
    write(directory.path(), "prompts.jsonl", prompts);
    directory
}

/// Chats and what transformers makes of them: plain `cases`, or bodies of `requests`.
pub fn chats(kind: &str) -> Vec<Value> {
    let file = std::fs::read(fixture("chats.json")).expect("a fixture");
    let file: Value = serde_json::from_slice(&file).expect("JSON");
    file[kind].as_array().expect("a list").clone()
}

/// The random Llama with room for long prompts, `template`, and other `settings` of the tokenizer.
pub fn templated(template: &Value, settings: &Value) -> tempfile::TempDir {
    let room = tempfile::tempdir().expect("a temporary directory");
    let change = |name: &str, change: &dyn Fn(&mut Value)| {
        let file = std::fs::read(fixture("tiny-llama2").join(name)).expect("a fixture");
        let mut file = serde_json::from_slice(&file).expect("JSON");
        change(&mut file);
        write(room.path(), name, &file.to_string());
    };
    change("config.json", &|config| {
        config["max_position_embeddings"] = value!(2048);
    });
    change("tokenizer_config.json", &|config| {
        config["chat_template"] = template.clone();
        for (key, value) in settings.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
    });
    for name in [
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
    ] {
        let from = fixture("tiny-llama2").join(name);
        std::fs::copy(from, room.path().join(name)).expect("copied");
    }
    room
}
