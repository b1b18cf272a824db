//! What is done with a model: extract, tune, evaluate, merge; driven by recipe files.
//!
//! The verbs work on any [`reptune_adapters::Host`]; nothing here knows a runtime.

pub mod chat;
pub mod data;
mod error;
pub mod evaluate;
pub mod extract;
pub mod generate;
pub mod merge;
pub mod recipe;
pub mod report;
pub mod search;
#[cfg(test)]
mod toy;
pub mod tune;
pub mod world;

pub use chat::{Chat, Message};
pub use error::{Error, Result};
pub use recipe::Recipe;
