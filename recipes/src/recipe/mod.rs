//! The recipe: one TOML file that says what is found, tuned and measured.
//!
//! `recipes/README.md` shows the schema as tables; the fields here are its source.
//! Each table of the file is a module.

mod data;
mod evaluation;
mod extraction;
mod group;
mod mode;
mod prompt;
mod retention;
mod schedule;
mod search;
mod selection;
mod steering;
mod study;
mod tuning;

pub use data::{ChoiceFile, ClaimFile, Data};
pub use evaluation::{Evaluation, JudgeSettings, OpenEnded, Texts};
pub use extraction::{
    Extraction, ExtractionMethod, PairFilter, Pairing, Pca, PcaRows, Probe, Without,
};
pub use group::{ParameterGroup, UpdateKind};
pub use mode::Mode;
pub use prompt::{Personas, PromptTemplates, WordedClaim};
pub use retention::{MergeRounding, Retention};
pub use schedule::Schedule;
pub use search::Search;
pub use selection::Selection;
pub use steering::{Compose, Condition, SteeringSettings};
pub use study::Study;
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
    pub behaviour: Personas,
    /// How items become prompts.
    pub prompt: PromptTemplates,
    /// Where items come from.
    pub data: Data,
    /// How the direction is found.
    #[serde(default)]
    pub extraction: Extraction,
    /// How layer, position and dose are chosen on the validation claims.
    pub selection: Option<Selection>,
    /// How the direction is added while the model runs.
    pub steering: SteeringSettings,
    /// How it is tuned into the weights.
    pub tuning: Tuning,
    /// What is measured.
    #[serde(default)]
    pub evaluation: Evaluation,
    /// Which settings of the tuning a search tries.
    pub search: Option<Search>,
    /// Repeats and controls.
    pub study: Option<Study>,
    /// Quantized merges whose retained effect is measured.
    pub retention: Option<Retention>,
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

    /// The error of a value that was refused, at its key.
    fn from_value(
        place: &str,
        checked: std::result::Result<(), reptune_adapters::Error>,
    ) -> std::result::Result<(), Self> {
        match checked {
            Err(reptune_adapters::Error::Value {
                expected, found, ..
            }) => Self::key(place, expected, found),
            Err(other) => Self::key(place, "a valid value", other.to_string()),
            Ok(()) => Ok(()),
        }
    }
}

/// Keys and values that were renamed.
const RENAMED: [(&str, &str); 14] = [
    ("projections", "target_modules"),
    ("rows", "positions"),
    ("offset", "positions"),
    ("offsets", "positions"),
    ("survival", "retention"),
    ("ways", "rounding"),
    ("low-rank", "lora"),
    ("weight-delta", "lora"),
    ("direct", "full"),
    ("corrected", "bias-corrected"),
    ("calibrated", "gptq"),
    ("kept", "mixed"),
    ("grafted", "unquantized"),
    ("turn", "add-norm-preserving"),
];

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
        recipe.map_paths(|path| base.join(path));
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
        recipe.map_paths(|path| here.join(path));
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

    /// The files that the recipe reads: data, texts and directions.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut recipe = self.clone();
        recipe.study = None; // its one file is written
        recipe
            .paths()
            .into_iter()
            .map(|path| path.clone())
            .collect()
    }

    /// SHA-256 of the parsed recipe, wherever it stands, and of the files that it reads.
    pub fn hash(&self) -> String {
        let mut parsed = self.clone();
        let stripped = |path: &Path| match path.strip_prefix(&self.base) {
            Ok(relative) => relative.to_owned(),
            Err(_) => path.to_owned(),
        };
        parsed.map_paths(stripped);
        parsed.model = stripped(Path::new(&parsed.model)).display().to_string();
        let mut parts = vec![toml::to_string(&parsed).unwrap_or_default().into_bytes()];
        for file in self.files() {
            parts.push(files::read(&file).unwrap_or_default());
        }
        let hashes = parts.iter().map(|part| files::sha256([part.as_slice()]));
        let hashes: Vec<String> = hashes.collect();
        files::sha256(hashes.iter().map(String::as_bytes))
    }

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        let mut paths = self.data.paths();
        paths.extend(self.extraction.paths());
        paths.extend(self.steering.paths());
        paths.extend(self.evaluation.paths());
        paths.extend(self.study.iter_mut().flat_map(|s| s.results.iter_mut()));
        paths
    }

    fn map_paths(&mut self, change: impl Fn(&Path) -> PathBuf) {
        for path in self.paths() {
            *path = change(path);
        }
    }

    fn check(&self) -> std::result::Result<(), Wrong> {
        self.behaviour.check()?;
        self.prompt.check()?;
        self.data.check()?;
        self.extraction.check(&self.prompt.markers())?;
        self.selection.iter().try_for_each(Selection::check)?;
        self.study.iter().try_for_each(Study::check)?;
        self.retention.iter().try_for_each(Retention::check)?;
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
        (true, Some(unknown)) => RENAMED
            .iter()
            .find(|(old, _)| *old == unknown)
            .map(|(_, new)| *new)
            .filter(|new| message.contains(&format!("`{new}`")))
            .or_else(|| {
                quoted.max_by(|a, b| {
                    strsim::jaro_winkler(a, unknown).total_cmp(&strsim::jaro_winkler(b, unknown))
                })
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
mod tests;
