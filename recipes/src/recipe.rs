//! The recipe: one TOML file that says what is found, tuned and measured.
//!
//! `recipes/README.md` shows the schema as tables; the fields here are its source.

use crate::error::{Error, Result};
use reptune_adapters::loss::Mode;
use reptune_adapters::low_rank::Projection;
use reptune_adapters::{RowRule, artefact};
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
    /// How the direction is added while the model runs.
    pub steering: Steering,
    /// How it is tuned into the weights.
    pub tuning: Tuning,
    /// What is measured.
    #[serde(default)]
    pub evaluation: Evaluation,
}

/// The behaviour, as two personas worded in several ways.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Behaviour {
    /// Its name, such as honesty.
    pub name: String,
    /// System prompts of the persona that shows it; pairs take them in turn.
    pub positive: Vec<String>,
    /// System prompts of the persona that shows its opposite.
    pub negative: Vec<String>,
}

/// Templates of user messages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prompt {
    /// System prompt without a persona: of the base, of tuning and of evaluation.
    /// Empty: none.
    #[serde(default)]
    pub system: String,
    /// Message of a claim; `{claim}` is replaced.
    pub claim: String,
    /// Message of a two-choice question; `{question}`, `{a}` and `{b}` are replaced.
    #[serde(default = "default_choice")]
    pub choice: String,
    /// The two answers: for a true claim, and for a false one.
    #[serde(default = "default_labels")]
    pub labels: [String; 2],
}

/// Items.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Claims that are true or false.
    pub claims: Claims,
    /// Two-choice questions, for evaluation only.
    pub choices: Option<Choices>,
    /// Shares of the claims, by group, for training and validation; the rest is for testing.
    #[serde(default = "default_split")]
    pub split: [f64; 2],
}

/// Where claims come from: a file, or what is built in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// `world`: the invented world of the honest mini-Llama.
    pub builtin: Option<String>,
    /// A .csv or .jsonl file (relative to the recipe file).
    pub file: Option<PathBuf>,
    /// Column of the claim.
    #[serde(default = "claim_column")]
    pub claim: String,
    /// Column of its truth: true or false, 1 or 0, yes or no.
    #[serde(default = "label_column")]
    pub label: String,
    /// Column that names what a claim is about: claims of one group stay on one
    /// side of the split. Without it every claim is a group.
    pub group: Option<String>,
}

/// Where two-choice questions come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choices {
    /// `world`: the invented world of the honest mini-Llama.
    pub builtin: Option<String>,
    /// A .csv or .jsonl file (relative to the recipe file).
    pub file: Option<PathBuf>,
    /// Column of the question.
    #[serde(default = "question_column")]
    pub question: String,
    /// Column of option A.
    #[serde(default = "a_column")]
    pub a: String,
    /// Column of option B.
    #[serde(default = "b_column")]
    pub b: String,
    /// Column of the right option: A or B.
    #[serde(default = "right_column")]
    pub right: String,
    /// Column that names what a question is about; questions about groups that
    /// claims were trained or validated on are left out.
    pub group: Option<String>,
}

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

/// How the direction is found: the mean over pairs of (positive - negative).
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
}

/// How the direction is added.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Steering {
    /// Layers (output of block i, 0-based).
    pub layers: Vec<usize>,
    /// Multiplier of the unit direction, divided by the number of layers.
    pub coeff: Option<f64>,
    /// Instead of `coeff`: fractions of the mean residual norm; the one that does
    /// most on the validation claims is taken, for each sign.
    #[serde(default)]
    pub fractions: Vec<f64>,
    /// Rows.
    #[serde(default)]
    pub rows: RowRule,
}

/// When tuning ends before its last epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarlyStop {
    /// Validations without improvement.
    pub patience: usize,
    /// Steps before which it does not stop.
    #[serde(default)]
    pub min_steps: usize,
}

/// How the direction is tuned into the weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuning {
    /// What to train: any of `truth`, `lie`, `in+`, `in-`, `in+ & truth`, `in- & lie`, `out`.
    pub modes: Vec<Mode>,
    /// Layers that carry low-rank updates and the representation loss.
    pub layers: Vec<usize>,
    /// Weights that are updated.
    #[serde(default = "default_projections")]
    pub projections: Vec<Projection>,
    /// Rank of the updates.
    #[serde(default = "default_rank")]
    pub rank: usize,
    /// Scale of the updates times the rank.
    #[serde(default = "default_alpha")]
    pub alpha: f64,
    /// Row of the representation loss, counted back from the last prompt token.
    #[serde(default)]
    pub offset: usize,
    /// How far in: factor of the representation loss of the `in` modes.
    #[serde(default = "one")]
    pub m: f64,
    /// Weight of the token loss beside a representation loss.
    #[serde(default = "default_token_weight")]
    pub token_weight: f64,
    /// Prompts in a batch.
    #[serde(default = "default_batch")]
    pub batch: usize,
    /// Passes over the training claims.
    #[serde(default = "default_epochs")]
    pub epochs: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Steps of linear warm-up, after which the rate falls linearly to zero.
    #[serde(default = "default_warmup")]
    pub warmup: usize,
    /// AdamW's weight decay.
    #[serde(default = "default_weight_decay")]
    pub weight_decay: f64,
    /// AdamW's epsilon.
    #[serde(default = "default_epsilon")]
    pub epsilon: f64,
    /// Steps between validations; 0: one an epoch.
    #[serde(default)]
    pub validate_every: usize,
    /// Early stop on the validation loss; without it every epoch is run.
    pub early_stop: Option<EarlyStop>,
}

/// What is measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Evaluation {
    /// At most this many test claims.
    pub claims: usize,
    /// At most this many two-choice questions.
    pub choices: usize,
    /// Tokens generated for an answer.
    pub max_new_tokens: usize,
}

fn default_choice() -> String {
    "{question} A) {a} B) {b}".into()
}
fn default_labels() -> [String; 2] {
    ["A".into(), "B".into()]
}
fn default_split() -> [f64; 2] {
    [0.6, 0.2]
}
fn claim_column() -> String {
    "claim".into()
}
fn label_column() -> String {
    "label".into()
}
fn question_column() -> String {
    "question".into()
}
fn a_column() -> String {
    "a".into()
}
fn b_column() -> String {
    "b".into()
}
fn right_column() -> String {
    "right".into()
}
fn default_projections() -> Vec<Projection> {
    vec![Projection::VProj, Projection::OProj]
}
fn default_rank() -> usize {
    8
}
fn default_alpha() -> f64 {
    16.
}
fn one() -> f64 {
    1.
}
fn default_token_weight() -> f64 {
    0.01
}
fn default_batch() -> usize {
    4
}
fn default_epochs() -> usize {
    3
}
fn default_warmup() -> usize {
    10
}
fn default_weight_decay() -> f64 {
    0.1
}
fn default_epsilon() -> f64 {
    1e-8
}

impl Default for Extraction {
    fn default() -> Self {
        Self {
            pairing: Pairing::default(),
            keep: Keep::default(),
            offset: 0,
            pairs: 400,
        }
    }
}

impl Default for Evaluation {
    fn default() -> Self {
        Self {
            claims: 200,
            choices: 200,
            max_new_tokens: 8,
        }
    }
}

impl Recipe {
    /// Reads a recipe file; relative paths in it become relative to its directory.
    ///
    /// # Errors
    /// Names the line, and for an unknown key the nearest one that exists.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = artefact::read(path)?;
        let text = String::from_utf8_lossy(&bytes);
        let mut recipe: Self = toml::from_str(&text).map_err(|e| misread(path, &text, &e))?;
        recipe.check(path)?;
        let base = path.parent().unwrap_or(Path::new("."));
        let claims = recipe.data.claims.file.as_mut();
        let choices = recipe.data.choices.as_mut().and_then(|c| c.file.as_mut());
        for file in claims.into_iter().chain(choices) {
            *file = base.join(&file);
        }
        if base.join(&recipe.model).is_dir() {
            recipe.model = base.join(&recipe.model).display().to_string();
        }
        Ok(recipe)
    }

    /// SHA-256 of what the recipe says.
    pub fn hash(&self) -> String {
        let text = toml::to_string(self).unwrap_or_default();
        artefact::sha256([text.as_bytes()])
    }

    fn check(&self, path: &Path) -> Result<()> {
        let wrong = |place: &str, expected: &str, found: String| {
            Err(Error::input(
                path,
                format!("key `{place}`"),
                expected,
                found,
                "see recipes/README.md",
            ))
        };
        let t = &self.tuning;
        let positive = |x: f64| x.is_finite() && x > 0.;
        if self.behaviour.positive.is_empty() || self.behaviour.negative.is_empty() {
            return wrong(
                "behaviour",
                "at least one positive and one negative wording",
                "none".into(),
            );
        }
        if !self.prompt.claim.contains("{claim}") {
            return wrong(
                "prompt.claim",
                "a template with {claim}",
                format!("`{}`", self.prompt.claim),
            );
        }
        for field in ["{question}", "{a}", "{b}"] {
            if !self.prompt.choice.contains(field) {
                return wrong(
                    "prompt.choice",
                    "a template with {question}, {a} and {b}",
                    format!("`{}`", self.prompt.choice),
                );
            }
        }
        if self.prompt.labels[0] == self.prompt.labels[1] {
            return wrong(
                "prompt.labels",
                "two different labels",
                format!("`{}` twice", self.prompt.labels[0]),
            );
        }
        let split = self.data.split;
        if split.iter().any(|s| !positive(*s)) || split[0] + split[1] >= 1. {
            return wrong(
                "data.split",
                "two positive shares with a sum below 1",
                format!("{split:?}"),
            );
        }
        if t.rank == 0 {
            return wrong("tuning.rank", "1 or more", "0".into());
        }
        for (name, value) in [
            ("alpha", t.alpha),
            ("learning_rate", t.learning_rate),
            ("m", t.m),
            ("epsilon", t.epsilon),
        ] {
            if !positive(value) {
                return wrong(
                    &format!("tuning.{name}"),
                    "a positive number",
                    value.to_string(),
                );
            }
        }
        if t.modes.is_empty()
            || t.layers.is_empty()
            || t.projections.is_empty()
            || t.batch == 0
            || t.epochs == 0
        {
            return wrong(
                "tuning",
                "at least one mode, layer, projection, prompt a batch and epoch",
                "an empty list or 0".into(),
            );
        }
        let s = &self.steering;
        if s.layers.is_empty() {
            return wrong("steering.layers", "at least one layer", "none".into());
        }
        if s.coeff.is_some() != s.fractions.is_empty() {
            return wrong(
                "steering",
                "either `coeff` or `fractions`",
                if s.coeff.is_some() { "both" } else { "neither" }.into(),
            );
        }
        if s.coeff.iter().chain(&s.fractions).any(|c| !c.is_finite()) {
            return wrong(
                "steering.coeff",
                "a finite number",
                format!("{:?}", s.coeff),
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
