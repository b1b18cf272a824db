//! `[behaviour]`, `[data]` and `[prompt]`: what is looked for, where items come from, and how
//! they become prompts.

use reptune_report::Poles;
use serde::{Deserialize, Deserializer, Serialize};
use std::{collections::BTreeMap, fmt, path::PathBuf};

/// The behaviour, as two personas in several wordings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Personas {
    /// Its name, such as honesty.
    pub name: String,
    /// System prompts of the persona that shows it; pairs take them in turn.
    pub positive: Vec<String>,
    /// System prompts of the persona that shows its opposite.
    pub negative: Vec<String>,
    /// What tables call an answer that shows the behaviour, and one that shows its opposite.
    #[serde(default)]
    pub poles: Poles,
}

/// Templates of user messages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptTemplates {
    /// System prompt without a persona: of the base, of tuning and of evaluation.
    /// Empty: none.
    #[serde(default)]
    pub system: String,
    /// Message of a claim; `{claim}` is replaced, markers `<<name>>` are taken out.
    pub claim: String,
    /// Message of a two-choice question; `{question}`, `{a}` and `{b}` are replaced.
    #[serde(default = "default_choice")]
    pub choice: String,
    /// The answer tokens: for a true claim, and for a false one.
    #[serde(default = "default_labels", deserialize_with = "trimmed")]
    pub labels: [String; 2],
}

/// Files of items, and their split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Claims that are true or false.
    pub claims: ClaimFile,
    /// Two-choice questions, for evaluation only.
    pub choices: Option<ChoiceFile>,
    /// Shares of the claims, by group, for training and for validation; the rest is for testing.
    #[serde(default = "default_split")]
    pub split: [f64; 2],
}

/// A format of a file of claims or questions, told by its columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataFormat {
    /// Claims with labels: `claim` (or `statement`) and `label`.
    Statements,
    /// Two-choice questions: `question`, `a`, `b` and `right`.
    Choices,
    /// Questions about a behaviour of CAA and Anthropic's evaluations.
    Caa,
    /// TruthfulQA's table of questions with correct and incorrect answers.
    #[serde(rename = "truthfulqa")]
    TruthfulQa,
    /// TruthfulQA's `mc_task.json`.
    McTask,
    /// Propositions of MASK.
    Mask,
}

impl fmt::Display for DataFormat {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Statements => "statements",
            Self::Choices => "choices",
            Self::Caa => "caa",
            Self::TruthfulQa => "truthfulqa",
            Self::McTask => "mc_task",
            Self::Mask => "mask",
        })
    }
}

/// A file of claims, and its columns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimFile {
    /// A .csv, .tsv, .json or .jsonl file (relative to the recipe file).
    pub file: PathBuf,
    /// Its format; none: what its columns tell.
    pub format: Option<DataFormat>,
    /// Column of the claim; none: `claim`, or else `statement`.
    pub claim: Option<String>,
    /// Column of its truth; none: `label`. True or false, yes or no, 1 or 0, or one of
    /// `prompt.labels`.
    pub label: Option<String>,
    /// Column that names what a claim is about: claims of one group stay on one
    /// side of the split. Without it every claim is a group.
    pub group: Option<String>,
}

/// A file of two-choice questions, and its columns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChoiceFile {
    /// A .csv, .tsv, .json or .jsonl file (relative to the recipe file).
    pub file: PathBuf,
    /// Its format; none: what its columns tell.
    pub format: Option<DataFormat>,
    /// Column of the question; none: `question`.
    pub question: Option<String>,
    /// Column of option A; none: `a`.
    pub a: Option<String>,
    /// Column of option B; none: `b`.
    pub b: Option<String>,
    /// Column of the right option, A or B; none: `right`.
    pub right: Option<String>,
    /// Column that names what a question is about; questions about groups that
    /// claims were trained or validated on are left out.
    pub group: Option<String>,
}

/// A claim's message, and where its markers stood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WordedClaim {
    /// The message.
    pub text: String,
    /// Bytes of the message before each marker.
    pub markers: BTreeMap<String, usize>,
}

impl PromptTemplates {
    /// The message that asks about `claim`.
    ///
    /// A marker `<<name>>` names the token before it and is no part of the message.
    /// It cannot collide with other text: only the recipe's own template is searched,
    /// before the claim is filled in and before the chat template is applied, and a
    /// name is lower-case, so that `<<SYS>>` is text wherever it stands.
    pub fn worded(&self, claim: &str) -> WordedClaim {
        let mut text = String::new();
        let mut markers = BTreeMap::new();
        for (piece, marker) in pieces(&self.claim) {
            text += &piece.replace("{claim}", claim);
            if let Some(name) = marker {
                markers.insert(name.to_owned(), text.len());
            }
        }
        WordedClaim { text, markers }
    }

    /// Names of the markers in the template of a claim, in their order.
    pub fn markers(&self) -> Vec<String> {
        let markers = pieces(&self.claim).into_iter().filter_map(|p| p.1);
        markers.map(str::to_owned).collect()
    }
}

/// Whether `text` can name a marker: a lower-case letter, then letters, digits, `-`.
fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// The text before each marker of `template` with its name, then the rest.
fn pieces(template: &str) -> Vec<(&str, Option<&str>)> {
    let mut pieces = Vec::new();
    let (mut from, mut search) = (0, 0);
    while let Some(open) = template[search..].find("<<").map(|i| search + i) {
        let name = template[open + 2..].split_once(">>").map(|(name, _)| name);
        match name.filter(|name| is_name(name)) {
            Some(name) => {
                pieces.push((&template[from..open], Some(name)));
                from = open + name.len() + 4;
                search = from;
            }
            None => search = open + 1,
        }
    }
    pieces.push((&template[from..], None));
    pieces
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

/// Labels without the blanks around them: which token an answer is follows from the template.
fn trimmed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[String; 2], D::Error> {
    let labels = <[String; 2]>::deserialize(deserializer)?;
    Ok(labels.map(|label| label.trim().to_owned()))
}

#[cfg(test)]
mod tests;
