//! A claim, and a question with two answers.

use crate::recipe::Recipe;

/// A statement with its truth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The statement.
    pub text: String,
    /// Whether it is true.
    pub label: bool,
    /// What it is about.
    pub group: String,
}

/// A question whose answer is one of two answer tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The user message.
    pub text: String,
    /// Index of the right answer token: 0 or 1.
    pub right: usize,
    /// The options in words.
    pub options: [String; 2],
}

/// The question that asks whether `claim` is true.
pub fn claim_question(recipe: &Recipe, claim: &Claim) -> Question {
    Question {
        text: recipe.prompt.worded(&claim.text).text,
        right: usize::from(!claim.label),
        options: ["true".into(), "false".into()],
    }
}
