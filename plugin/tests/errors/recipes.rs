//! Recipes and their data.

use super::{directions, messages, nothing};
use crate::program::write;
use std::path::Path;

const RECIPE: &str = r#"name = "tiny"
model = "model"
[behaviour]
name = "honesty"
positive = ["Be honest."]
negative = ["Lie."]
[prompt]
claim = "{claim} A or B?"
[data]
claims = { file = "claims.csv" }
[steering]
layers = [1]
coeff = 3.0
[tuning]
modes = ["in-"]
layers = [1]
learning_rate = 1e-3
rank = 2
"#;

/// The recipe with another text at one place, and claims.
fn recipe(directory: &Path, from: &str, to: &str) {
    assert!(RECIPE.contains(from), "no `{from}` in the recipe");
    write(directory, "r.toml", &RECIPE.replace(from, to));
    let claim = |i: usize| format!("claim {i},{}\n", i.is_multiple_of(2));
    let claims: String = (0..40).map(claim).collect();
    write(directory, "claims.csv", &format!("claim,label\n{claims}"));
}

fn more(directory: &Path, more: &str) {
    recipe(directory, "rank = 2\n", &format!("rank = 2\n{more}"));
}

#[test]
fn keys() {
    let text = messages(&[
        (nothing, "run r.toml"),
        (|d| write(d, "r.toml", "name = \"x"), "run r.toml"),
        (|d| recipe(d, "learning_rate", "lerning_rate"), "run r.toml"),
        (|d| recipe(d, "[steering]", "[stearing]"), "run r.toml"),
        (
            |d| recipe(d, "modes = [\"in-\"]", "modes = [\"lies\"]"),
            "run r.toml",
        ),
        (|d| recipe(d, "rank = 2", "rank = 0"), "run r.toml"),
        (|d| recipe(d, "rank = 2", "rank = \"two\""), "run r.toml"),
        (|d| recipe(d, "3.0", "nan"), "run r.toml"),
        (|d| recipe(d, "coeff = 3.0\n", ""), "run r.toml"),
        (
            |d| recipe(d, "layers = [1]\ncoeff", "layers = []\ncoeff"),
            "run r.toml",
        ),
        (|d| recipe(d, "{claim} A or B?", "A or B?"), "run r.toml"),
        (
            |d| more(d, "[selection]\nkl = 0\n"),
            "sweep r.toml --select",
        ),
        (|d| more(d, ""), "tune r.toml --search"),
        (
            |d| more(d, "[search]\nm = [1, 2]\nruns = 1\n"),
            "tune r.toml --search",
        ),
        (
            |d| more(d, "[search]\npositions = [\"last:2\"]\n"),
            "tune r.toml --search",
        ),
        (
            |d| more(d, "[extraction]\npositions = \"last:2\"\n"),
            "sweep r.toml --layers 1 --coeffs 3",
        ),
        (
            |d| recipe(d, "coeff = 3.0", "coeff = 3.0\npositions = \"generated\""),
            "sweep r.toml --layers 1 --coeffs 3",
        ),
        (
            |d| {
                recipe(
                    d,
                    "coeff = 3.0",
                    "coeff = 3.0\npositions = \"answer\"\n[selection]",
                )
            },
            "run r.toml",
        ),
    ]);
    insta::assert_snapshot!(text);
}

#[test]
fn data() {
    let text = messages(&[
        (|d| write(d, "r.toml", RECIPE), "run r.toml"),
        (
            |d| {
                write(d, "r.toml", RECIPE);
                write(d, "claims.csv", "claim,label\n");
            },
            "run r.toml",
        ),
        (
            |d| {
                write(d, "r.toml", RECIPE);
                write(d, "claims.csv", "sentence,label\nsnow is white,true\n");
            },
            "run r.toml",
        ),
        (
            |d| {
                write(d, "r.toml", RECIPE);
                write(
                    d,
                    "claims.csv",
                    "claim,label\nsnow is white,true\nsnow is red,perhaps\n",
                );
            },
            "run r.toml",
        ),
        (
            |d| {
                write(d, "r.toml", RECIPE);
                write(d, "claims.csv", "claim;label\nsnow is white;true\n");
            },
            "run r.toml",
        ),
        (
            |d| {
                write(d, "r.toml", RECIPE);
                write(
                    d,
                    "claims.csv",
                    "claim,label\nsnow is white,true\nnan,false\n",
                );
            },
            "run r.toml",
        ),
        (
            |d| {
                recipe(d, "claims.csv\"", "claims.csv\", format = \"caa\"");
                write(d, "claims.csv", "claim,label\nsnow is white,true\n");
            },
            "run r.toml",
        ),
    ]);
    insta::assert_snapshot!(text);
}

#[test]
fn recipe_and_model() {
    let text = messages(&[
        (|d| more(d, ""), "run r.toml -m nowhere"),
        (
            |d| {
                more(d, "");
                write(d, "thesis.txt", "x");
            },
            "extract r.toml -o .",
        ),
        (
            |d| recipe(d, "[1]\nlearning", "[9]\nlearning"),
            "tune r.toml --plan",
        ),
        (|d| more(d, ""), "tune r.toml --plan -m nowhere"),
        (|d| more(d, ""), "sweep r.toml --layers '1;4-6' --coeffs 3"),
        (|d| more(d, ""), "sweep r.toml --layers '1;' --coeffs 3"),
        (
            |d| more(d, ""),
            "sweep r.toml --layers 1 --coeffs 3 --directions none.safetensors",
        ),
        (
            |d| {
                more(d, "");
                directions(&d.join("d.safetensors"), 48, String::new());
            },
            "sweep r.toml --layers 1 --coeffs 3 --directions d.safetensors",
        ),
    ]);
    insta::assert_snapshot!(text);
}
