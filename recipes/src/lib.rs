//! What is done with a model: extract, tune, evaluate, merge; driven by recipe files.
//!
//! The verbs work on any [`reptune_adapters::HookedModel`]; nothing here knows a runtime.

pub mod capture;
pub mod chat;
pub mod data;
pub mod decide;
mod error;
pub mod evaluate;
pub mod extract;
pub mod generate;
mod groups;
pub mod merge;
pub mod merged;
pub mod pictures;
pub mod plan;
pub mod probe;
pub mod recipe;
pub mod report;
pub mod search;
pub mod select;
#[cfg(test)]
mod steering_tests;
pub mod sweep;
#[cfg(test)]
mod toy;
pub mod trunk;
pub mod tune;

pub use chat::{Chat, Message};
pub use error::{Error, Result};
pub use recipe::Recipe;
