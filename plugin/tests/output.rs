//! What commands print and write, and how the program ends.

use crate::errors::{GENERATE, directions_of_the_model};
use crate::program::{command, printed, refusal, reptune, root, workplace};
use std::io::Read;
use std::process::Stdio;

#[test]
fn capture_writes_the_documented_tensors() {
    let directory = workplace();
    let typed =
        "capture --model model --prompts prompts.jsonl --layers 0,2-3 --logits --out c.safetensors";
    let arguments: Vec<&str> = typed.split(' ').collect();
    printed(directory.path(), &arguments);
    let bytes = std::fs::read(directory.path().join("c.safetensors")).expect("written");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let tensors = file.tensors();
    let shape = |(n, t): &(String, _)| {
        let t: &safetensors::tensor::TensorView = t;
        format!("{n} {:?} {:?}", t.dtype(), t.shape())
    };
    let mut found: Vec<String> = tensors.iter().map(shape).collect();
    found.sort();
    insta::assert_snapshot!(found.join("\n"));
}

#[test]
fn the_same_seed_draws_the_same_tokens_and_temperature_0_is_greedy() {
    let directory = workplace();
    let draw = |more: &[&str]| {
        let typed = "generate --model model --prompt true? --max-new-tokens 12 --json";
        let typed: Vec<&str> = typed.split(' ').chain(more.iter().copied()).collect();
        printed(directory.path(), &typed)
    };
    let seeded = |seed| draw(&["--temperature", "1.0", "--seed", seed]);
    assert_eq!(seeded("1"), seeded("1"));
    assert_ne!(seeded("1"), seeded("2"));
    assert_eq!(draw(&["--temperature", "0", "--seed", "3"]), draw(&[]));
}

#[test]
fn steering_without_effect_is_refused_unless_it_is_allowed() {
    let directory = workplace();
    directions_of_the_model(directory.path());
    let steer = "--directions d.safetensors --layers 1 --coeff 3".split(' ');
    let nowhere = ["--positions", "at:90", "--max-new-tokens", "2"];
    let mut arguments: Vec<&str> = GENERATE.split(' ').chain(steer).chain(nowhere).collect();
    insta::assert_snapshot!(refusal(directory.path(), &arguments));
    arguments.push("--allow-no-effect");
    printed(directory.path(), &arguments);
}

#[test]
fn a_closed_pipe_ends_every_command_quietly() {
    let directory = workplace();
    directions_of_the_model(directory.path());
    let generate = format!("{GENERATE} --max-new-tokens 1");
    for typed in [
        "--completions bash",
        "--help",
        "--version",
        "sweep --help",
        "cache ls",
        "cache gc --json",
        "inspect d.safetensors",
        "inspect d.safetensors --json",
        &generate,
        "capture --model model --prompts prompts.jsonl --layers 0 -o c.safetensors",
        "convert d.safetensors -o d.gguf",
        "bake -m model --directions d.safetensors --layers 1 --coeff 3 -o baked -q",
    ] {
        let mut child = command(directory.path())
            .args(typed.split(' '))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        drop(child.stdout.take());
        let mut said = String::new();
        let stderr = child.stderr.as_mut().expect("piped");
        stderr.read_to_string(&mut said).expect("text");
        assert_eq!(
            child.wait().expect("ends").code(),
            Some(0),
            "{typed}: {said}"
        );
        assert_eq!(said, "", "{typed}");
    }
}

#[test]
fn a_failure_whose_message_nobody_reads_is_one_too() {
    let mut child = command(&root())
        .args(["inspect", "nowhere"])
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    drop(child.stderr.take());
    assert_eq!(child.wait().expect("ends").code(), Some(1));
}

#[test]
fn completions_know_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let script = printed(&root(), &["--completions", shell]);
        for command in ["sweep", "cache", "inspect"] {
            assert!(script.contains(command), "{shell} lacks {command}");
        }
    }
}

#[test]
fn notes_are_shown_with_verbose_and_nothing_with_quiet() {
    let directory = workplace();
    directions_of_the_model(directory.path());
    let steer = " --directions d.safetensors --layers 1 --coeff 30 --max-new-tokens 2";
    let said = |flag: &str| {
        let typed = format!("{GENERATE}{steer} {flag}");
        let arguments: Vec<&str> = typed.split(' ').collect();
        let output = reptune(directory.path(), &arguments);
        assert!(output.status.success());
        String::from_utf8(output.stderr).expect("text")
    };
    assert_eq!(said("-q"), "");
    assert!(said("-v").contains("checking that the steering has an effect"));
}

#[test]
fn the_cache_is_listed_and_cleaned() {
    let directory = workplace();
    let listed = printed(directory.path(), &["cache", "ls"]);
    assert!(listed.contains("0 entries"), "{listed}");
    let removed = printed(directory.path(), &["cache", "gc", "--unused", "0"]);
    assert!(removed.contains("removed 0 entries"), "{removed}");
}
