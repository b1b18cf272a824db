use super::*;
use crate::toy::recipe;

#[test]
fn settings_are_read_as_they_are_written() {
    for extraction in [
        "method = \"mean-difference\"\nwithout = \"answer-token\"",
        "method = { pca = { on = \"raw\", component = 1 } }\npositions = \"last:4\"",
        "method = { probe = {} }\npositions = \"at:-1,-8\"\nwithout = \"x.safetensors\"",
        "positions = \"mean:-3..0\"\n[selection]\nfractions = [0.5]\nkl = 0.2",
        "positions = \"<end>\"",
        "positions = \"answer\"",
    ] {
        let read = recipe(extraction);
        read.check().expect(extraction);
        let written = toml::to_string(&read).expect("text");
        assert_eq!(
            toml::from_str::<crate::Recipe>(&written).expect(&written),
            read
        );
    }
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    for (extraction, place) in [
        ("positions = \"at:-1,-1\"", "extraction.positions"),
        ("positions = \"all\"", "extraction.positions"),
        ("positions = \"window:0..2\"", "extraction.positions"),
        ("positions = \"<nowhere>\"", "extraction.positions"),
        ("without = \"letter\"", "extraction.without"),
        (
            "method = { probe = { l2 = 0 } }",
            "extraction.method.probe.l2",
        ),
        ("[selection]\nfractions = [-1.0]", "selection.fractions"),
        ("[selection]\nkl = 0.0", "selection.kl"),
    ] {
        let refused = recipe(extraction).check().expect_err(extraction);
        let message = refused.to_string();
        assert!(message.starts_with(&format!("{place}: ")), "{message}");
    }
    let unknown: Result<Extraction, _> = toml::from_str("method = { pca = { of = \"raw\" } }");
    let message = unknown.expect_err("an unknown key").to_string();
    assert!(message.contains("unknown field `of`"), "{message}");
}
