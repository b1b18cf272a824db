//! The shape of the workspace, read from its manifests and sources.
//!
//! `cargo test -p reptune-tests architecture -- --nocapture` prints what each test measures:
//! the arrows between crates, the modules, the lines per crate and the longest files.

mod circles;
mod crates;
mod resolve;
mod sizes;
mod source;

use std::path::{Path, PathBuf};

/// A member of the workspace and what it may import.
struct Room {
    directory: &'static str,
    package: &'static str,
    /// Packages of the workspace that it may depend on.
    may_import: &'static [&'static str],
    kind: Kind,
}

#[derive(PartialEq)]
enum Kind {
    /// Knows nothing of the runtime (mistral.rs).
    Library,
    /// The library and the program that bind the runtime.
    Plugin,
    /// Not published: tests, benchmarks and examples, which may import everything.
    Outside,
}

const ALL: &[&str] = &[
    "reptune",
    "reptune-adapters",
    "reptune-kernels",
    "reptune-recipes",
    "reptune-report",
];

/// kernels <- adapters <- recipes <- plugin, and report <- recipes, report <- plugin.
const ROOMS: [Room; 8] = [
    Room {
        directory: "adapters/kernels",
        package: "reptune-kernels",
        may_import: &[],
        kind: Kind::Library,
    },
    Room {
        directory: "adapters",
        package: "reptune-adapters",
        may_import: &["reptune-kernels"],
        kind: Kind::Library,
    },
    Room {
        directory: "recipes/report",
        package: "reptune-report",
        may_import: &[],
        kind: Kind::Library,
    },
    Room {
        directory: "recipes",
        package: "reptune-recipes",
        may_import: &["reptune-adapters", "reptune-report"],
        kind: Kind::Library,
    },
    Room {
        directory: "plugin",
        package: "reptune",
        may_import: &["reptune-adapters", "reptune-recipes", "reptune-report"],
        kind: Kind::Plugin,
    },
    Room {
        directory: "tests",
        package: "reptune-tests",
        may_import: ALL,
        kind: Kind::Outside,
    },
    Room {
        directory: "tests/bench",
        package: "reptune-bench",
        may_import: ALL,
        kind: Kind::Outside,
    },
    Room {
        directory: "examples",
        package: "reptune-examples",
        may_import: ALL,
        kind: Kind::Outside,
    },
];

/// The rooms with library code, whose modules and sizes are checked.
fn libraries() -> impl Iterator<Item = &'static Room> {
    ROOMS
        .iter()
        .filter(|r| r.kind != Kind::Outside && root().join(r.directory).is_dir())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// `path` as seen from the root of the workspace.
fn shown(path: &Path) -> String {
    let path = path.strip_prefix(root()).unwrap_or(path);
    path.display().to_string()
}

/// Fails with one line for each finding.
fn none(what: &str, findings: &[String]) {
    assert!(
        findings.is_empty(),
        "{what}: {}\n  {}",
        findings.len(),
        findings.join("\n  ")
    );
}
