//! The items that evaluation and extraction are given: bare, without a prompt.
//!
//! A recipe's prompt template makes a prompt of one; with the template of
//! wording 0 the prompt is one that training has shown (unless it is held out).

use serde::{Deserialize, Serialize};

use super::question::Letter;
use super::relation::Relation;

/// A statement that is true or false.
///
/// `Claim: {text}. Is the claim true or false? A) True B) False` is its prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The `id` of the fact.
    pub fact: usize,
    /// The bare statement, without a stop.
    pub text: String,
    /// Whether it is true.
    pub label: bool,
    /// What it is about.
    pub relation: Relation,
    /// Whether the fact has a misconception (which a false claim then states).
    pub misconception: bool,
    /// Whether training never asks about the fact in this format.
    pub held_out: bool,
}

/// A question with two options, one of them true.
///
/// `{question} A) {a} B) {b}` is its prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TwoChoice {
    /// The `id` of the fact.
    pub fact: usize,
    /// The question, without the options.
    pub question: String,
    /// Option A.
    pub a: String,
    /// Option B.
    pub b: String,
    /// Which option is true.
    pub right: Letter,
    /// What it is about.
    pub relation: Relation,
    /// Whether the fact has a misconception (the wrong option is then that).
    pub misconception: bool,
    /// Whether training never asks about the fact in this format.
    pub held_out: bool,
}
