//! Fixtures are those of today's scripts and of the one lock of Python versions.

use anyhow::{Context, Result};
use reptune_adapters::files;
use safetensors::SafeTensors;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Takes transformers 5.24.0, and says so.
const ARCHITECTURES: &str = "tests/oracle/make_architectures.py";

/// Every fixture that says what it was made from, and how it is made anew.
const FIXTURES: [(&str, &str); 12] = [
    (
        "tests/fixtures/oracle-llama2.safetensors",
        "tests/oracle/make_fixtures.py",
    ),
    (
        "tests/fixtures/oracle-llama32.safetensors",
        "tests/oracle/make_fixtures.py",
    ),
    ("tests/fixtures/oracle-mistral.safetensors", ARCHITECTURES),
    ("tests/fixtures/oracle-qwen2.safetensors", ARCHITECTURES),
    ("tests/fixtures/oracle-qwen3.safetensors", ARCHITECTURES),
    (
        "tests/fixtures/oracle-llama-bias.safetensors",
        ARCHITECTURES,
    ),
    ("tests/fixtures/oracle-variants.safetensors", ARCHITECTURES),
    (
        "tests/interop/fixtures/peft/logits.safetensors",
        "tests/interop/peft_adapters.py",
    ),
    (
        "tests/interop/fixtures/peft_architectures/logits.safetensors",
        "tests/interop/peft_architectures.py",
    ),
    (
        "tests/interop/fixtures/llama_cpp/repeng.safetensors",
        "tests/interop/repeng_vector.py",
    ),
    (
        "tests/interop/fixtures/llama_cpp/types.safetensors",
        "tests/interop/control_vector_types.py",
    ),
    ("tests/parity/parity.safetensors", "tests/parity/make"),
];

/// Versions of `tests/oracle/requirements.txt`, by package.
fn lock(root: &Path) -> Result<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(root.join("tests/oracle/requirements.txt"))?;
    let lines = text.lines().filter(|l| !l.starts_with('#'));
    let pairs = lines.filter_map(|l| l.split_once("=="));
    Ok(pairs.map(|(p, v)| (p.to_owned(), v.to_owned())).collect())
}

#[test]
fn fixtures_are_of_todays_scripts_and_versions() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let lock = lock(&root)?;
    let mut old = Vec::new();
    for (fixture, script) in FIXTURES {
        let bytes = files::read(&root.join(fixture))?;
        let (_, metadata) = SafeTensors::read_metadata(&bytes)?;
        let made_from = metadata.metadata().as_ref().context(fixture)?;
        let made_from: Value = serde_json::from_str(&made_from["made_from"])?;
        let entries = |key: &str| -> Result<BTreeMap<String, String>> {
            Ok(serde_json::from_value(made_from[key].clone())?)
        };
        for (file, then) in entries("files")? {
            let now = files::sha256([files::read(&root.join(&file))?.as_slice()]);
            if then != now {
                old.push(format!("{fixture}: {file} has changed; run {script}"));
            }
        }
        for (package, then) in entries("versions")? {
            // torch is the system's
            if let Some(now) = lock.get(&package).filter(|now| **now != then) {
                old.push(format!(
                    "{fixture}: {package} {then}, now {now}; run {script}"
                ));
            }
        }
    }
    assert!(old.is_empty(), "{}", old.join("\n"));
    Ok(())
}
