//! The messages that a user meets first, as a reviewer reads them: each snapshot is a list of
//! commands, each with its whole message and its exit code.

use crate::program::{command, copy, fixture, model, root, workplace, write};
use reptune_adapters::steering::direction::{Direction, DirectionSet, Provenance};
use std::path::{Path, PathBuf};

mod files;
mod recipes;
mod usage;

pub const GENERATE: &str = "generate --model model --prompts prompts.jsonl";

/// What is done to the workplace first, and what is typed; `'..'` keeps blanks.
type Case = (fn(&Path), &'static str);

fn nothing(_: &Path) {}

/// Types every command in a workplace of its own. It must fail and leave nothing behind.
fn messages(cases: &[Case]) -> String {
    let mut all = String::new();
    for (prepare, typed) in cases {
        let directory = workplace();
        let place = directory.path();
        prepare(place);
        let before = listing(place);
        let output = command(place).args(words(typed)).output();
        let output = output.expect("reptune runs");
        let message = String::from_utf8_lossy(&output.stderr);
        let code = output.status.code().unwrap_or(-1);
        assert!(matches!(code, 1 | 2), "{typed}: {code}: {message}");
        assert_eq!(output.stdout, b"", "{typed}");
        assert_eq!(listing(place), before, "{typed} left something behind");
        let message = message
            .replace(&place.display().to_string(), "[dir]")
            .replace(&model(), "[honest-mini]")
            .replace(&root().display().to_string(), "[root]");
        all += &format!(
            "$ reptune {typed}\n{}\n[exit code {code}]\n\n",
            message.trim()
        );
    }
    all
}

fn words(typed: &str) -> Vec<String> {
    let pieces = typed.split('\'').enumerate();
    let words = pieces.flat_map(|(i, piece)| match i % 2 {
        1 => vec![piece.to_owned()],
        _ => piece.split_whitespace().map(str::to_owned).collect(),
    });
    words.collect()
}

fn listing(directory: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(directory).expect("readable");
    let paths = files.map(|f| f.expect("readable").path());
    let caches = |p: &PathBuf| !p.ends_with(".cache") && !p.ends_with(".hub");
    let mut paths: Vec<PathBuf> = paths.filter(caches).collect();
    paths.sort();
    paths
}

/// Replaces text in a file of the workplace.
fn replace(directory: &Path, file: &str, from: &str, to: &str) {
    let text = std::fs::read_to_string(directory.join(file)).expect("readable");
    assert!(text.contains(from), "no `{from}` in {file}");
    write(directory, file, &text.replace(from, to));
}

/// Directions of four layers with entries for a hidden size of `width`.
fn directions(path: &Path, width: usize, model_fingerprint: String) {
    let mut v = vec![0f64; width];
    v[1] = 1.;
    let layers = (0..4).map(|l| (l, Direction::new(&v).expect("not zero")));
    let provenance = Provenance {
        model: "another".into(),
        model_fingerprint,
        model_layers: 4,
        ..Provenance::default()
    };
    let set = DirectionSet {
        layers: layers.collect(),
        provenance,
    };
    set.save(path).expect("saved");
}

/// `d.safetensors`, made for the model of the workplace.
pub fn directions_of_the_model(directory: &Path) {
    let model = directory.join("model");
    let config = reptune::model::ModelConfig::read(&model).expect("a Llama");
    let spec = reptune::model::model_spec(&config, &model).expect("a tokenizer");
    let file = directory.join("d.safetensors");
    directions(&file, spec.hidden, spec.fingerprint);
}

/// `adapter`, a PEFT directory for the model of the workplace.
fn adapter(directory: &Path) {
    copy(&fixture("peft-adapter"), &directory.join("adapter"));
}
