//! What a model answers and how well it writes: shares of honest and lying answers,
//! log-odds of the answers, perplexity, distance from the base, judged pairs, and
//! how two models compare on the same items.

mod alignment;
mod answerer;
mod comparison;
mod corpus;
mod effect;
mod judge;
mod mcnemar;
mod perplexity;
mod preference;
mod reader;
mod tally;
mod verdict;

pub use alignment::alignment;
pub use answerer::{Answerer, OwnForward, ask, asked, verdicts};
pub use comparison::{Comparison, Shift};
pub use corpus::{sequences, texts};
pub use effect::Behaviour;
pub use judge::Judge;
pub use mcnemar::{McNemar, Method};
pub use perplexity::{Perplexity, Windows, perplexity, pooled};
pub use preference::{Judgement, Preference, Preferences};
pub use tally::{Tally, wilson};
pub use verdict::{Verdict, verdict};
