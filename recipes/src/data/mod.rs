//! Claims and questions from files, split by what they are about, and texts that are only read.

mod formats;
mod item;
mod items;
mod rows;
mod text;
mod texts;

pub use item::{Claim, Question, claim_question};
pub use items::Items;
pub use text::read_text;
pub use texts::{sequences, texts};
