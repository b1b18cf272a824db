//! The workspace's shape: adapters <- recipes <- plugin, and only plugin binds the runtime.

use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn manifest(directory: &str) -> Result<toml::Table> {
    let path = root().join(directory).join("Cargo.toml");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Ok(text.parse()?)
}

/// Names of everything a manifest depends on: normal, dev, build, and per target.
fn dependencies(table: &toml::Table) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (key, value) in table {
        match (key.as_str(), value.as_table()) {
            ("dependencies" | "dev-dependencies" | "build-dependencies", Some(entries)) => {
                for (name, entry) in entries {
                    // `x = { package = "y" }` depends on y
                    let package = entry.get("package").and_then(|p| p.as_str());
                    names.insert(package.unwrap_or(name).to_owned());
                }
            }
            ("target", Some(targets)) => {
                for target in targets.values().filter_map(|t| t.as_table()) {
                    names.extend(dependencies(target));
                }
            }
            _ => {}
        }
    }
    names
}

#[test]
fn edges_run_one_way() -> Result<()> {
    let members: BTreeSet<String> = manifest(".")?["workspace"]["members"]
        .as_array()
        .context("workspace.members is an array")?
        .iter()
        .filter_map(|m| Some(m.as_str()?.to_owned()))
        .collect();
    // Room, package, edges to other rooms, and whether it may bind the runtime.
    let rooms: [(&str, &str, &[&str], bool); 7] = [
        ("adapters", "reptune-adapters", &[], false),
        (
            "recipes",
            "reptune-recipes",
            &["reptune-adapters", "reptune-report"],
            false,
        ),
        ("recipes/report", "reptune-report", &[], false),
        (
            "plugin",
            "reptune",
            &["reptune-adapters", "reptune-recipes", "reptune-report"],
            true,
        ),
        (
            "tests",
            "reptune-tests",
            &[
                "reptune",
                "reptune-adapters",
                "reptune-recipes",
                "reptune-report",
            ],
            true,
        ),
        (
            "tests/bench",
            "reptune-bench",
            &["reptune", "reptune-adapters", "reptune-recipes"],
            false,
        ),
        (
            "examples",
            "reptune-examples",
            &["reptune", "reptune-adapters", "reptune-recipes"],
            true,
        ),
    ];
    let expected: BTreeSet<String> = rooms.iter().map(|r| r.0.to_owned()).collect();
    assert_eq!(members, expected, "members of the workspace");
    for (room, package, edges, binds) in rooms {
        let manifest = manifest(room)?;
        assert_eq!(
            manifest["package"]["name"].as_str(),
            Some(package),
            "{room}/Cargo.toml: name"
        );
        let found = dependencies(&manifest);
        let ours: Vec<&str> = found
            .iter()
            .map(String::as_str)
            .filter(|d| d.starts_with("reptune"))
            .collect();
        assert_eq!(ours, edges, "{room}/Cargo.toml: edges to other rooms");
        let runtime: Vec<&String> = found
            .iter()
            .filter(|d| d.starts_with("mistralrs"))
            .collect();
        assert!(
            binds || runtime.is_empty(),
            "{room}/Cargo.toml: binds the runtime with {runtime:?}"
        );
        assert!(
            !binds || !runtime.is_empty(),
            "{room}/Cargo.toml: does not bind the runtime"
        );
    }
    Ok(())
}

/// Every `.rs` below `directory`.
fn sources(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(sources(&path)?);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    Ok(found)
}

#[test]
fn adapters_and_recipes_do_not_name_the_runtimes_crates() -> Result<()> {
    for room in ["adapters", "recipes"] {
        let files = sources(&root().join(room))?;
        assert!(!files.is_empty(), "{room} has sources");
        for file in files {
            let text = std::fs::read_to_string(&file)?;
            for (number, line) in text.lines().enumerate() {
                assert!(
                    !line.contains("mistralrs"),
                    "{}:{}: only plugin names the runtime's crates: {line}",
                    file.display(),
                    number + 1
                );
            }
        }
    }
    Ok(())
}
