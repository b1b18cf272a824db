//! The recipe: one TOML file that says what is found, tuned and measured.
//!
//! `recipes/README.md` shows the schema as tables; the fields here are its source.
//! Each table of the file is a module.

mod data;
mod evaluation;
mod extraction;
mod group;
mod place;
mod prompt;
mod schedule;
mod search;
mod selection;
mod steering;
mod study;
mod survival;
mod tuning;

pub use data::{Choices, Claims, Data};
pub use evaluation::{Evaluation, JudgeSettings, OpenEnded, Texts};
pub use extraction::{Extraction, Keep, Method, On, Pairing, Pca, Probe, Without};
pub use group::{Group, UpdateKind};
pub use place::{Place, Rows};
pub use prompt::{Behaviour, Prompt, Worded};
pub use schedule::Schedule;
pub use search::Search;
pub use selection::Selection;
pub use steering::{Compose, Condition, Steering};
pub use study::Study;
pub use survival::{MergeRounding, Survival};
pub use tuning::{EarlyStop, Tuning};

use crate::error::{Error, Result};
use reptune_adapters::{Operator, files};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A whole recipe. Unknown keys are errors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name, for reports.
    pub name: String,
    /// Model: a directory (relative to the recipe file) or a hub id. `--model` overrides it.
    pub model: String,
    /// Seed of every random choice.
    #[serde(default)]
    pub seed: u64,
    /// What is looked for.
    pub behaviour: Behaviour,
    /// How items become prompts.
    pub prompt: Prompt,
    /// Where items come from.
    pub data: Data,
    /// How the direction is found.
    #[serde(default)]
    pub extraction: Extraction,
    /// How layer, place and dose are chosen on the validation claims.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selection: Option<Selection>,
    /// How the direction is added while the model runs.
    pub steering: Steering,
    /// How it is tuned into the weights.
    pub tuning: Tuning,
    /// What is measured.
    #[serde(default)]
    pub evaluation: Evaluation,
    /// Which settings of the tuning a search tries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search: Option<Search>,
    /// Repeats and controls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub study: Option<Study>,
    /// What survives in quantized weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub survival: Option<Survival>,
    /// Directory of the recipe file, as it was named: what relative paths start with.
    #[serde(skip)]
    base: PathBuf,
}

/// A key with a value that cannot be.
struct Wrong {
    place: String,
    expected: String,
    found: String,
}

impl Wrong {
    fn key(
        place: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> std::result::Result<(), Self> {
        Err(Self {
            place: place.into(),
            expected: expected.into(),
            found: found.into(),
        })
    }
}

fn positive(x: f64) -> bool {
    x.is_finite() && x > 0.
}

impl Recipe {
    /// Reads a recipe file; relative paths in it become relative to its directory.
    ///
    /// # Errors
    /// Names the line, and for an unknown key the nearest one that exists.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = files::read(path)?;
        let text = String::from_utf8_lossy(&bytes);
        let mut recipe: Self = toml::from_str(&text).map_err(|e| misread(path, &text, &e))?;
        recipe.check().map_err(|wrong| {
            Error::input(
                path,
                format!("key `{}`", wrong.place),
                wrong.expected,
                wrong.found,
                "see recipes/README.md",
            )
        })?;
        let base = path.parent().unwrap_or(Path::new("."));
        recipe.base = base.to_owned();
        recipe.data.resolve(base);
        recipe.steering.resolve(base);
        recipe.evaluation.resolve(base);
        recipe.extraction.resolve(base);
        recipe.study.iter_mut().for_each(|s| s.resolve(base));
        if base.join(&recipe.model).is_dir() {
            recipe.model = base.join(&recipe.model).display().to_string();
        }
        Ok(recipe)
    }

    /// The recipe as a file that can stand anywhere: its paths are absolute.
    ///
    /// # Errors
    /// When the directory that relative paths start from is gone.
    pub fn to_toml(&self) -> Result<String> {
        let here = std::path::absolute(".").map_err(|e| reptune_adapters::Error::read(".", e))?;
        let mut recipe = self.clone();
        recipe.data.resolve(&here);
        recipe.steering.resolve(&here);
        recipe.evaluation.resolve(&here);
        recipe.extraction.resolve(&here);
        recipe.study.iter_mut().for_each(|s| s.resolve(&here));
        if here.join(&recipe.model).is_dir() {
            recipe.model = here.join(&recipe.model).display().to_string();
        }
        toml::to_string(&recipe).map_err(|e| {
            Error::input(
                &self.name,
                "recipe",
                "what TOML can say",
                e.to_string(),
                "see recipes/README.md",
            )
        })
    }

    /// SHA-256 of what the recipe says, wherever it stands.
    pub fn hash(&self) -> String {
        let mut text = toml::to_string(self).unwrap_or_default();
        if !self.base.as_os_str().is_empty() {
            text = text.replace(&format!("{}/", self.base.display()), "");
        }
        files::sha256([text.as_bytes()])
    }

    fn check(&self) -> std::result::Result<(), Wrong> {
        self.behaviour.check()?;
        self.prompt.check()?;
        self.data.check()?;
        self.extraction.check(&self.prompt.markers())?;
        self.selection.iter().try_for_each(Selection::check)?;
        self.study.iter().try_for_each(Study::check)?;
        self.survival.iter().try_for_each(Survival::check)?;
        self.tuning.check()?;
        self.evaluation.check()?;
        if let Some(search) = &self.search {
            search.check(self)?;
        }
        self.steering.check()?;
        let s = &self.steering;
        if self.selection.is_some()
            && (s.operator != Operator::Add || s.gate.is_some() || s.directions.is_some())
        {
            return Wrong::key(
                "selection",
                "steering that adds the extracted direction: doses are measured with it",
                "steering with `operator`, `gate` or `directions`",
            );
        }
        Ok(())
    }
}

/// A TOML error with its line, what was found there and the nearest valid key.
fn misread(path: &Path, text: &str, error: &toml::de::Error) -> Error {
    let line = error.span().map_or(0, |s| {
        text[..s.start.min(text.len())].matches('\n').count() + 1
    });
    let message = error.message().to_owned();
    let mut quoted = message.split('`').skip(1).step_by(2);
    let hint = match (message.starts_with("unknown"), quoted.next()) {
        (true, Some(unknown)) => quoted
            .max_by(|a, b| {
                strsim::jaro_winkler(a, unknown).total_cmp(&strsim::jaro_winkler(b, unknown))
            })
            .map(|nearest| format!("did you mean `{nearest}`?")),
        _ => None,
    };
    let (expected, found) = match message.split_once(", expected ") {
        Some((found, expected)) => (expected.to_owned(), found.to_owned()),
        None => ("a valid recipe".to_owned(), message.clone()),
    };
    Error::input(
        path,
        format!("line {line}"),
        expected,
        found,
        hint.unwrap_or_else(|| "see recipes/README.md".into()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toy::directory;

    #[test]
    fn a_recipe_has_one_hash_wherever_it_stands() -> Result<()> {
        let shipped = directory("recipes/honesty-llama2-13b-chat.toml");
        let text = files::read(&shipped)?;
        let hash = |folder: &str| -> Result<String> {
            let room = tempfile::tempdir().expect("a directory");
            let folder = room.path().join(folder);
            std::fs::create_dir_all(folder.join("claims")).expect("a directory");
            std::fs::write(folder.join("r.toml"), &text).expect("a file");
            let recipe = Recipe::read(&folder.join("r.toml"))?;
            assert!(recipe.data.claims.file.starts_with(&folder));
            Ok(Recipe::read(&folder.join("r.toml"))?.hash())
        };
        assert_eq!(hash("a")?, hash("b/c")?);
        let mut other = Recipe::read(&shipped)?;
        other.seed += 1;
        assert_ne!(other.hash(), Recipe::read(&shipped)?.hash());
        Ok(())
    }
}
