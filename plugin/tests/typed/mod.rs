//! The program as it is typed, for tests of its commands.
#![allow(dead_code)] // no test types all of it

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

pub fn model() -> String {
    root().join("models/honest-mini").display().to_string()
}

pub fn reptune(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_reptune"))
        .args(arguments)
        .current_dir(directory)
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .expect("reptune runs")
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

/// What a command that must fail says: exit code 2, and nothing on stdout.
pub fn refusal(directory: &Path, arguments: &[&str]) -> String {
    let output = reptune(directory, arguments);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
    assert_eq!(output.stdout, b"", "{arguments:?}");
    message.replace(&model(), "[model]")
}

/// Numbers, and what their lengths do to the columns, are for the asserts.
pub fn masked(text: &str, check: impl FnOnce(&str)) {
    let filters = [(r"[+-]?\d+\.\d+", "#"), (r"-{3,}", "---"), (r" {2,}", "  ")];
    insta::with_settings!({filters => filters}, { check(text) });
}
