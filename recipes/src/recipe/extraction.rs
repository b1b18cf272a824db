//! How the direction is found.

use super::{Place, Rows, Wrong};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Which prompts make a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pairing {
    /// The positive persona gives a letter to one claim, the negative persona the
    /// same letter to the opposite claim: the letter cancels.
    #[default]
    SameAnswer,
    /// Both personas are asked the same claim and give different letters.
    SameClaim,
}

/// Which pairs are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keep {
    /// Those where the model itself, greedily, answers as both personas ask.
    #[default]
    Correct,
    /// All.
    All,
}

/// How captured rows become a direction.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// The mean over pairs of (positive - negative).
    #[default]
    MeanDifference,
    /// A principal component.
    Pca(Pca),
    /// The weights of a logistic probe.
    Probe(Probe),
}

/// What principal components are taken of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum On {
    /// Positive and negative rows, about their common mean.
    Raw,
    /// Differences of pairs, about zero.
    #[default]
    Differences,
}

/// Settings of a principal component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pca {
    /// Of what.
    pub on: On,
    /// Which: 0 is that of the largest variance.
    pub component: usize,
}

/// Settings of a logistic probe.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Probe {
    /// Weight of the squared weights, in units of rows of mean square length one.
    pub l2: f64,
}

impl Default for Probe {
    fn default() -> Self {
        Self { l2: 1. }
    }
}

/// A nuisance that is projected out of the direction: `letter`, or a direction file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Without {
    /// Rows of the first label minus rows of the second, within a persona.
    Letter,
    /// The directions of a file, layer by layer.
    File(PathBuf),
}

impl From<String> for Without {
    fn from(text: String) -> Self {
        match text.as_str() {
            "letter" => Self::Letter,
            _ => Self::File(text.into()),
        }
    }
}

impl From<Without> for String {
    fn from(without: Without) -> Self {
        match without {
            Without::Letter => "letter".into(),
            Without::File(path) => path.display().to_string(),
        }
    }
}

/// How the direction is found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Extraction {
    /// Which prompts make a pair.
    pub pairing: Pairing,
    /// Which pairs are kept.
    pub keep: Keep,
    /// Row that is captured, counted back from the last prompt token (0); -1 is
    /// the answer letter after it.
    pub offset: i64,
    /// At most this many pairs.
    pub pairs: usize,
    // What follows is left out where it says nothing, so that recipes without it
    // keep their hash.
    /// Instead of `offset`: several offsets, a direction set for each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub offsets: Vec<i64>,
    /// Instead of `offset`: rows by a rule or by the name of a marker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<Rows>,
    /// What is projected out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub without: Option<Without>,
    /// How captured rows become a direction.
    #[serde(skip_serializing_if = "is_default")]
    pub method: Method,
}

fn is_default(method: &Method) -> bool {
    *method == Method::default()
}

impl Default for Extraction {
    fn default() -> Self {
        Self {
            pairing: Pairing::default(),
            keep: Keep::default(),
            offset: 0,
            pairs: 400,
            offsets: Vec::new(),
            rows: None,
            without: None,
            method: Method::default(),
        }
    }
}

impl Extraction {
    /// The places that are captured: those of `rows`, `offsets` or `offset`.
    pub fn places(&self) -> Vec<Place> {
        match (&self.rows, self.offsets.as_slice()) {
            (Some(rows), _) => rows.places(),
            (None, []) => vec![Place::Offset(self.offset)],
            (None, offsets) => offsets.iter().copied().map(Place::Offset).collect(),
        }
    }

    pub(super) fn check(&self, markers: &[String]) -> Result<(), Wrong> {
        let given = [
            ("offset", self.offset != 0),
            ("offsets", !self.offsets.is_empty()),
            ("rows", self.rows.is_some()),
        ];
        let given: Vec<&str> = given.iter().filter(|g| g.1).map(|g| g.0).collect();
        if given.len() > 1 {
            let expected = "one of `offset`, `offsets` and `rows`";
            return Wrong::key("extraction", expected, given.join(" and "));
        }
        let mut sorted = self.offsets.clone();
        sorted.sort_unstable();
        sorted.dedup();
        if sorted.len() < self.offsets.len() || sorted.first().is_some_and(|o| *o < -1) {
            let found = format!("{:?}", self.offsets);
            return Wrong::key("extraction.offsets", "different offsets from -1 up", found);
        }
        if let Some(rows) = &self.rows {
            rows.check(markers)?;
        }
        match &self.method {
            Method::Probe(probe) if !super::positive(probe.l2) => Wrong::key(
                "extraction.method.probe.l2",
                "a positive number",
                probe.l2.to_string(),
            ),
            _ => Ok(()),
        }
    }

    /// Makes the path of a nuisance's file relative to `base`.
    pub(super) fn resolve(&mut self, base: &Path) {
        if let Some(Without::File(path)) = &mut self.without {
            *path = base.join(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toy::recipe;

    #[test]
    fn a_recipe_without_the_new_keys_says_what_it_said() {
        let written = toml::to_string(&recipe("pairs = 9")).expect("text");
        let table = written.split("[extraction]\n").nth(1).expect("a table");
        let table = table.split("\n\n").next().expect("a table");
        assert_eq!(
            table,
            "pairing = \"same-answer\"\nkeep = \"all\"\noffset = 0\npairs = 9"
        );
        assert!(!written.contains("selection"));
    }

    #[test]
    fn settings_are_read_as_they_are_written() {
        for extraction in [
            "method = \"mean-difference\"\nwithout = \"letter\"",
            "method = { pca = { on = \"raw\", component = 1 } }\nrows = \"last:4\"",
            "method = { probe = {} }\noffsets = [0, 7, -1]\nwithout = \"x.safetensors\"",
            "rows = \"mean:0..3\"\n[selection]\nfractions = [0.5]\nkl = 0.2",
        ] {
            let read = recipe(extraction);
            read.check().map_err(|w| w.place).expect(extraction);
            let written = toml::to_string(&read).expect("text");
            assert_eq!(
                toml::from_str::<crate::Recipe>(&written).expect(&written),
                read
            );
        }
    }

    #[test]
    fn keys_that_say_it_twice_or_nothing_are_refused() {
        for (extraction, place) in [
            ("offset = 3\noffsets = [1]", "extraction"),
            ("offsets = [1]\nrows = \"answer\"", "extraction"),
            ("offsets = [1, 1]", "extraction.offsets"),
            ("offsets = [-2]", "extraction.offsets"),
            ("rows = \"nowhere\"", "extraction.rows"),
            (
                "method = { probe = { l2 = 0 } }",
                "extraction.method.probe.l2",
            ),
            ("[selection]\nfractions = [-1.0]", "selection.fractions"),
            ("[selection]\nkl = 0.0", "selection.kl"),
        ] {
            let wrong = recipe(extraction).check().expect_err(extraction);
            assert_eq!(wrong.place, place, "{extraction}");
        }
        let unknown: Result<Extraction, _> = toml::from_str("method = { pca = { of = \"raw\" } }");
        let message = unknown.expect_err("an unknown key").to_string();
        assert!(message.contains("unknown field `of`"), "{message}");
    }
}
