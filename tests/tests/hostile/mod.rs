//! What readers do with bytes that nobody meant well: truncated, changed, claiming more than
//! is there, of the wrong type. They refuse and name the place; they neither panic nor
//! allocate what a header claims; and what they take is what was written.
//!
//! The cases are the same in every run. `REPTUNE_FUZZ=100` tries a hundred times as many,
//! other ones each time.

mod adapter;
mod allocated;
mod artefact;
mod change;
mod chat;
mod exchange;
mod gguf;
mod items;
mod model;
mod recipe;
mod tensors;
mod uqff;

use allocated::largest;
use proptest::test_runner::{Config, RngSeed};
use std::fmt::Display;
use std::path::Path;

/// More than any reader needs for the small files of these tests.
const MOST: usize = 16 << 20;

/// How many cases a property is tried on, and from which seed.
fn config(cases: u32) -> Config {
    let more = std::env::var("REPTUNE_FUZZ").ok();
    let more = more.and_then(|n| n.parse::<u32>().ok());
    let usual = Config {
        failure_persistence: None,
        max_shrink_iters: 256,
        ..Config::default()
    };
    match more {
        Some(times) => Config {
            cases: cases.saturating_mul(times),
            ..usual
        },
        None => Config {
            cases,
            rng_seed: RngSeed::Fixed(4),
            ..usual
        },
    }
}

/// Reads with `read`, which must not allocate much, and must name a place in `directory`
/// where it refuses.
fn reads<T, E: Display>(
    directory: &Path,
    read: impl FnOnce() -> Result<T, E>,
) -> Result<T, String> {
    let (read, bytes) = largest(read);
    assert!(bytes <= MOST, "{bytes} bytes were allocated at once");
    read.map_err(|e| {
        let message = e.to_string();
        let name = directory.display().to_string();
        assert!(message.contains(&name), "no file is named: {message}");
        message.replace(&name, "[DIR]")
    })
}

/// A copy of a directory, to be spoilt.
fn copy(from: &Path) -> anyhow::Result<tempfile::TempDir> {
    let room = tempfile::tempdir()?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        std::fs::copy(entry.path(), room.path().join(entry.file_name()))?;
    }
    Ok(room)
}
