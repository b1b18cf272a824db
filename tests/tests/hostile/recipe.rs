//! Recipes.

use super::change::{changed, changes, odd, replaced};
use super::{config, reads};
use proptest::prelude::*;
use proptest::sample::Index;
use reptune_recipes::Recipe;
use reptune_recipes::data::Items;
use serde_json::Value;
use std::path::{Path, PathBuf};

fn recipes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes")
}

fn text(name: &str) -> String {
    std::fs::read_to_string(recipes().join(name)).expect("a recipe")
}

/// Reads `text` as a recipe, and the items it asks for.
fn read(text: &[u8]) -> Result<(), String> {
    let room = tempfile::tempdir().expect("room");
    let path = room.path().join("r.toml");
    std::fs::write(&path, text).expect("write");
    let recipe = reads(room.path(), || Recipe::read(&path))?;
    // the shipped files may be named, and what a value leads to is told by its name
    let _ = Items::read(&recipe);
    Ok(())
}

#[test]
fn the_recipe_that_is_changed_below_is_good() {
    assert_eq!(read(text("honesty-mini.toml").as_bytes()), Ok(()));
}

proptest! {
    #![proptest_config(config(160))]

    #[test]
    fn a_changed_value_is_no_panic_and_named(at in any::<Index>(), odd in odd()) {
        let good: toml::Table = toml::from_str(&text("honesty-mini.toml")).expect("TOML");
        let good = serde_json::to_value(good).expect("values");
        let (bad, place) = replaced(&good, at, odd);
        let Value::Object(_) = &bad else { return Ok(()) };
        // what TOML cannot say
        let Ok(bad) = toml::to_string(&bad) else { return Ok(()) };
        if let Err(message) = read(bad.as_bytes()) {
            let named = message.starts_with("[DIR]/r.toml: key `") || message.starts_with("[DIR]/r.toml: line ");
            prop_assert!(named, "{place}: {message}");
        }
    }

    #[test]
    fn changed_bytes_are_no_panic(changes in changes(), wide in "\\PC{0,3}") {
        let mut bytes = changed(text("honesty-mini.toml").as_bytes(), usize::MAX, &changes);
        let middle = bytes.len() / 2;
        bytes.splice(middle..middle, wide.bytes());
        if let Err(message) = read(&bytes) {
            prop_assert!(message.starts_with("[DIR]/r.toml: "), "{message}");
        }
    }
}
