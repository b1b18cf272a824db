//! Prompt files, claims and questions: rows that are no rows.

use super::{config, reads};
use anyhow::Result;
use proptest::collection::vec;
use proptest::prelude::*;
use reptune::prompts;
use reptune_recipes::Recipe;
use reptune_recipes::data::Items;
use std::path::Path;

/// A piece of a line, good or bad.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let texts = [
        "{",
        "}",
        "[",
        "]",
        "\"",
        ",",
        ":",
        "\n",
        "\r\n",
        "\\u0000",
        "\\ud800",
        "1e999",
        "null",
        "true",
        "{\"prompt\": \"a\"}\n",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"b\"}]}\n",
        "\"text\"\n",
        "{\"claim\": \"a\", \"label\": true}\n",
        "{\"claim\": \"b\", \"label\": \"no\"}\n",
        "claim,label\n",
        "a,true\n",
        "b,0\n",
        "\"a\"\"b\",no\n",
        ",,,\n",
        "\u{feff}",
        "\u{e9}\u{1f600}",
    ];
    prop_oneof![
        6 => prop::sample::select(texts.to_vec()).prop_map(|t| t.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 1..5),
    ]
}

/// A recipe whose claims are in the file `claims` beside it, without choices.
fn recipe(room: &Path, claims: &str) -> Result<Recipe> {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/honesty-mini.toml");
    let mut recipe = Recipe::read(&shipped)?;
    recipe.data.claims.file = room.join(claims);
    recipe.data.claims.group = None;
    recipe.data.choices = None;
    Ok(recipe)
}

#[test]
fn the_line_that_is_no_row_is_named() -> Result<()> {
    let room = tempfile::tempdir()?;
    let deep = format!("{{\"claim\": {}", "[".repeat(100_000));
    for (name, text, said) in [
        (
            "a.jsonl",
            "{\"claim\": \"a\", \"label\": true}\n{\"claim\": 7",
            "line 2",
        ),
        (
            "b.jsonl",
            "{\"claim\": \"a\", \"label\": \"perhaps\"}\n",
            "line 1, column `label`",
        ),
        ("c.jsonl", "[1, 2]\n", "line 1"),
        ("d.jsonl", deep.as_str(), "line 1"),
        ("e.jsonl", "\n \n", "at least one row"),
        ("f.csv", "claim,label\na\n", "line 2"),
        ("g.csv", "claim,truth\na,true\n", "line 2, column `label`"),
        ("h.csv", "", "at least one row"),
        ("i.txt", "a", ".csv or .jsonl"),
        ("../j.csv", "", "j.csv"),
    ] {
        let file = room.path().join(name);
        if !name.starts_with("..") {
            std::fs::write(file, text)?;
        }
        let recipe = recipe(room.path(), name)?;
        let message = reads(room.path(), || Items::read(&recipe)).map(|_| ());
        let message = message.expect_err(name);
        assert!(message.contains(said), "{name}: {message}");
    }
    let path = room.path().join("p.jsonl");
    let good = "{\"prompt\": \"a\"}\n";
    for bad in [
        "{\"prompt\": 7}",
        "{\"prompt\": \"a\", \"more\": 1}",
        "{}",
        "7",
        "{\"messages\": [{\"role\": \"user\"}]}",
    ] {
        std::fs::write(&path, format!("{good}\n{bad}\n{good}"))?;
        let message = reads(room.path(), || prompts::read(&path)).map(|_| ());
        let message = message.expect_err(bad);
        assert!(
            message.starts_with("[DIR]/p.jsonl: line 3: expected {\"prompt\""),
            "{message}"
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(config(256))]

    #[test]
    fn rows_of_any_kind_are_no_panic(pieces in vec(piece(), 0..12)) {
        let room = tempfile::tempdir().expect("room");
        for name in ["x.jsonl", "x.csv"] {
            std::fs::write(room.path().join(name), pieces.concat()).expect("write");
            let recipe = recipe(room.path(), name).expect("a recipe");
            if let Err(message) = reads(room.path(), || Items::read(&recipe)) {
                prop_assert!(message.starts_with(&format!("[DIR]/{name}: ")), "{message}");
            }
        }
        let path = room.path().join("x.jsonl");
        if let Err(message) = reads(room.path(), || prompts::read(&path)) {
            prop_assert!(message.starts_with("[DIR]/x.jsonl: "), "{message}");
        }
    }
}
