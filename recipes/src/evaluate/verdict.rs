//! How an answer turned out.

use super::reader::Reader;
use crate::data::Question;
use reptune_report::Verdict;

/// Reads an answer from text: the label, the option's own text, or for a claim
/// (options `true` and `false`) true, false, yes or no; all of them may be negated.
///
#[doc = include_str!("answers.md")]
pub fn verdict(text: &str, question: &Question, labels: &[String; 2]) -> Verdict {
    match Reader::new(&question.options, labels).read(text) {
        Some(said) if said == question.right => Verdict::Positive,
        Some(_) => Verdict::Negative,
        None => Verdict::Unscored,
    }
}

#[cfg(test)]
mod tests;
