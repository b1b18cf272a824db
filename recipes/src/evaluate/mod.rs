//! What a model answers and how well it writes: verdicts on its answers, their log-odds,
//! perplexity, distance from the base, and judged pairs. How verdicts are counted and two
//! models compared stands in `reptune_report`.

mod alignment;
mod answerer;
mod changed;
mod corpus;
mod divergence;
mod effect;
mod judge;
mod log_odds;
mod perplexity;
mod reader;
mod verdict;

pub use alignment::alignment;
pub use answerer::{Answerer, Own, ask, asked, verdicts};
pub use changed::Changed;
pub use corpus::{sequences, texts};
pub use divergence::{Divergence, divergence, divergence_from};
pub use effect::ClaimScores;
pub use judge::Judge;
pub use log_odds::{LetterPrompt, log_odds};
pub use perplexity::{Perplexity, Windows, perplexity, pooled};
pub use verdict::verdict;
