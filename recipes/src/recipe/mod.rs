//! The recipe: one TOML file that says what is found, tuned and measured.
//!
//! `recipes/README.md` shows the schema as tables; the fields here are its source.
//! Each table of the file is a module.

mod check;
mod default;
mod evaluation;
mod extraction;
mod items;
mod mode;
mod search;
mod steering;
mod study;
#[cfg(test)]
mod tests;
mod tuning;

pub use evaluation::{Evaluation, JudgeSettings, OpenEnded, Texts};
pub use extraction::{
    Extraction, ExtractionMethod, PairFilter, Pairing, Pca, PcaRows, Probe, Without,
};
pub use items::{ChoiceFile, ClaimFile, Data, DataFormat, Personas, PromptTemplates, WordedClaim};
pub use mode::Mode;
pub use search::{Search, Selection};
pub use steering::{Compose, Condition, SteeringSettings};
pub use study::{MergeRounding, Retention, Study};
pub use tuning::{EarlyStop, ModuleSettings, ParameterGroup, Schedule, Tuning, UpdateKind};

use crate::error::{Error, Result};
use reptune_adapters::{Error as Refused, files};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Where the schema stands.
const SCHEMA: &str = "see recipes/README.md";

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

impl Recipe {
    /// Reads a recipe file; relative paths in it become relative to its directory.
    ///
    /// # Errors
    /// Names the line, and for an unknown key the nearest one that exists.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = files::read(path)?;
        let text = String::from_utf8_lossy(&bytes);
        let mut recipe: Self = toml::from_str(&text).map_err(|e| misread(path, &text, &e))?;
        recipe.check().map_err(|refused| match refused {
            Refused::Value {
                what,
                expected,
                found,
                ..
            } => Error::input(path, format!("key `{what}`"), expected, found, SCHEMA),
            other => other.into(),
        })?;
        let base = path.parent().unwrap_or(Path::new("."));
        recipe.base = base.to_owned();
        recipe.start_paths_from(base);
        Ok(recipe)
    }

    /// The recipe as a file that can stand anywhere: its paths are absolute.
    pub fn to_toml(&self) -> Result<String> {
        let here = std::path::absolute(".").map_err(|e| Refused::read(".", e))?;
        let mut recipe = self.clone();
        recipe.start_paths_from(&here);
        toml::to_string(&recipe).map_err(|e| {
            let (found, expected) = (e.to_string(), "what TOML can say");
            Error::input(&self.name, "recipe", expected, found, SCHEMA)
        })
    }

    /// The files that the recipe reads: data, texts and directions.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut recipe = self.clone();
        recipe.study = None; // its one file is written
        recipe.paths().into_iter().map(|p| p.clone()).collect()
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
        let mut paths = vec![&mut self.data.claims.file];
        paths.extend(self.data.choices.as_mut().map(|c| &mut c.file));
        if let Some(Without::File(path)) = &mut self.extraction.without {
            paths.push(path);
        }
        let gate = self.steering.gate.as_mut();
        paths.extend(gate.and_then(|g| g.directions.as_mut()));
        if let Some(c) = &mut self.steering.directions {
            let lists = c.plus.iter_mut().chain(&mut c.minus).chain(&mut c.without);
            paths.extend(c.base.iter_mut().chain(lists));
        }
        let e = &mut self.evaluation;
        let texts = e.perplexity.iter_mut().chain(&mut e.neutral);
        paths.extend(texts.map(|t| &mut t.file));
        paths.extend(e.open_ended.as_mut().map(|o| &mut o.file));
        paths.extend(self.study.as_mut().and_then(|s| s.results.as_mut()));
        paths
    }

    fn map_paths(&mut self, change: impl Fn(&Path) -> PathBuf) {
        for path in self.paths() {
            *path = change(path);
        }
    }

    /// Lets relative paths start from `base`, that of the model too if it is a directory there.
    fn start_paths_from(&mut self, base: &Path) {
        self.map_paths(|path| base.join(path));
        let model = base.join(&self.model);
        if model.is_dir() {
            self.model = model.display().to_string();
        }
    }
}

/// A TOML error with its line, what was found there and the nearest valid key.
fn misread(path: &Path, text: &str, error: &toml::de::Error) -> Error {
    let line = error.span().map_or(0, |s| {
        text[..s.start.min(text.len())].matches('\n').count() + 1
    });
    let message = error.message().to_owned();
    let mut quoted = message.split('`').skip(1).step_by(2);
    let hint = match quoted.next() {
        Some(unknown) if message.starts_with("unknown") => {
            let likeness = |known: &str| strsim::jaro_winkler(known, unknown);
            let renamed = RENAMED.iter().find(|(old, _)| *old == unknown);
            renamed
                .map(|(_, new)| *new)
                .filter(|new| message.contains(&format!("`{new}`")))
                .or_else(|| quoted.max_by(|a, b| likeness(a).total_cmp(&likeness(b))))
                .map(|nearest| format!("did you mean `{nearest}`?"))
        }
        _ => None,
    };
    let (expected, found) = match message.split_once(", expected ") {
        Some((found, "usize" | "u64" | "u32")) => ("a whole number".to_owned(), found.to_owned()),
        Some((found, "f64" | "f32")) => ("a number".to_owned(), found.to_owned()),
        Some((found, expected)) => (expected.to_owned(), found.to_owned()),
        None => ("a valid recipe".to_owned(), message.clone()),
    };
    let hint = hint.unwrap_or_else(|| SCHEMA.into());
    Error::input(path, format!("line {line}"), expected, found, hint)
}
