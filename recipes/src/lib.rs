//! What is done with a model: extract, tune, evaluate, merge; driven by recipe files.
//!
//! The verbs work on any [`reptune_adapters::HookedModel`]; nothing here knows a runtime.

pub mod activation_cache;
mod batch;
pub mod capture;
pub mod chat;
pub mod data;
pub mod effect_check;
mod error;
pub mod evaluate;
pub mod extract;
pub mod generate;
pub mod grid;
mod json_lines;
pub mod merge;
pub mod open_gates;
pub mod pictures;
pub mod plan;
pub mod recipe;
pub mod report;
pub mod score;
pub mod search;
pub mod select;
#[cfg(test)]
mod steering_tests;
pub mod sweep;
#[cfg(test)]
mod toy;
pub mod tune;

pub use chat::{Chat, ChatEnding, Conversation, Message, TokenizerFile};
pub use error::{Error, Result};
pub use recipe::Recipe;
