//! `[behaviour]` and `[prompt]`: what is looked for, and how items become prompts.

use super::Wrong;
use reptune_report::Poles;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The behaviour, as two personas worded in several ways.
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
    #[serde(default = "default_labels")]
    pub labels: [String; 2],
}

/// A claim's message, and where its markers stood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WordedClaim {
    /// The message.
    pub text: String,
    /// Bytes of the message before each marker.
    pub markers: BTreeMap<String, usize>,
}

impl Personas {
    pub(super) fn check(&self) -> Result<(), Wrong> {
        if self.positive.is_empty() || self.negative.is_empty() {
            return Wrong::key(
                "behaviour",
                "at least one positive and one negative wording",
                "none",
            );
        }
        let Poles { positive, negative } = &self.poles;
        if positive.is_empty() || negative.is_empty() || positive == negative {
            let found = format!("`{positive}` and `{negative}`");
            return Wrong::key("behaviour.poles", "two different names", found);
        }
        Ok(())
    }
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
        let pieces = pieces(&self.claim);
        for (piece, marker) in pieces {
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

    pub(super) fn check(&self) -> Result<(), Wrong> {
        if !self.claim.contains("{claim}") {
            let found = format!("`{}`", self.claim);
            return Wrong::key("prompt.claim", "a template with {claim}", found);
        }
        let markers = self.markers();
        for (i, name) in markers.iter().enumerate() {
            if markers[..i].contains(name) {
                return Wrong::key(
                    "prompt.claim",
                    "markers with different names",
                    format!("<<{name}>>"),
                );
            }
        }
        for field in ["{question}", "{a}", "{b}"] {
            if !self.choice.contains(field) {
                return Wrong::key(
                    "prompt.choice",
                    "a template with {question}, {a} and {b}",
                    format!("`{}`", self.choice),
                );
            }
        }
        if self.labels[0] == self.labels[1] {
            let found = format!("`{}` twice", self.labels[0]);
            return Wrong::key("prompt.labels", "two different labels", found);
        }
        Ok(())
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

#[cfg(test)]
mod tests;
