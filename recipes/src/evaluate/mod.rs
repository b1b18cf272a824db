//! What a model answers and how well it writes: verdicts on its answers, perplexity,
//! alignment with a direction, and judged pairs. Log-odds and KL divergence stand in
//! [`score`](crate::score). How verdicts are counted and two models compared stands in
//! `reptune_report`.

mod alignment;
mod answerer;
mod effect_retained;
mod judge;
mod perplexity;
mod reader;

pub use alignment::alignment;
pub use answerer::{Answerer, OwnForward, ask, asked, verdicts};
pub use effect_retained::ClaimScores;
pub use judge::Judge;
pub use perplexity::perplexity;
pub use reader::verdict;
