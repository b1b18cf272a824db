//! Arrows between crates, and who may name the runtime.

use super::{Kind, ROOMS, libraries, none, root, shown};
use crate::architecture::source::{Crate, mentions};
use anyhow::{Context, Result};
use std::collections::BTreeSet;

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
fn crates_import_as_drawn() -> Result<()> {
    let members: BTreeSet<String> = manifest(".")?["workspace"]["members"]
        .as_array()
        .context("workspace.members is an array")?
        .iter()
        .filter_map(|m| Some(m.as_str()?.to_owned()))
        .collect();
    let expected: BTreeSet<String> = ROOMS.iter().map(|r| r.directory.to_owned()).collect();
    assert_eq!(members, expected, "members of the workspace");
    let mut findings = Vec::new();
    for room in &ROOMS {
        let manifest = manifest(room.directory)?;
        let place = format!("{}/Cargo.toml", room.directory);
        let package = manifest["package"]["name"].as_str();
        assert_eq!(package, Some(room.package), "{place}: name");
        let all = dependencies(&manifest);
        let ours: Vec<&str> = (all.iter().map(String::as_str))
            .filter(|d| d.starts_with("reptune"))
            .collect();
        println!("{} -> {}", room.package, ours.join(", "));
        for arrow in ours.iter().filter(|d| !room.may_import.contains(d)) {
            findings.push(format!("{place}: {} -> {arrow}", room.package));
        }
        if room.kind == Kind::Library {
            let foreign = |d: &&String| d.starts_with("mistralrs") || d.as_str() == "anyhow";
            for name in all.iter().filter(foreign) {
                findings.push(format!("{place}: a library that depends on {name}"));
            }
        }
        if room.kind != Kind::Outside {
            let lints = manifest.get("lints").and_then(|l| l.get("workspace"));
            if lints.and_then(|l| l.as_bool()) != Some(true) {
                findings.push(format!("{place}: without the lints of the workspace"));
            }
        }
    }
    none("arrows that are not drawn", &findings);
    Ok(())
}

#[test]
fn only_plugin_names_the_runtime_and_only_its_program_names_anyhow() -> Result<()> {
    let mut findings = Vec::new();
    for room in libraries() {
        for module in &Crate::read(room.directory)?.modules {
            let program = matches!(
                module.path.first().map(String::as_str),
                Some("cli" | "main")
            );
            for name in mentions(&module.file)? {
                let runtime = name.starts_with("mistralrs") && room.kind == Kind::Library;
                if runtime || (name == "anyhow" && !module.test && !program) {
                    findings.push(format!("{}: {name}", shown(&module.file)));
                }
            }
        }
    }
    none("modules that name a crate they must not know", &findings);
    Ok(())
}

#[test]
fn lints_forbid_panics_in_libraries() -> Result<()> {
    let manifest = manifest(".")?;
    let lints = &manifest["workspace"]["lints"]["clippy"];
    for lint in ["unwrap_used", "todo", "unimplemented", "dbg_macro"] {
        let level = lints.get(lint).and_then(|l| l.as_str());
        assert!(matches!(level, Some("warn" | "deny")), "clippy::{lint}");
    }
    Ok(())
}
