//! Labels and letters as files write them, and a question with two answers in words.

use crate::data::item::Question;
use crate::data::rows::DataRow;
use crate::error::Result;
use crate::recipe::PromptTemplates;

/// What a label says of a claim: true or false, yes or no, 1 or 0 (also 1.0), in any case; or
/// one of the recipe's `labels`, which answer a true and a false claim.
pub fn truth(text: &str, labels: &[String; 2]) -> Option<bool> {
    let word = text.trim().to_lowercase();
    match (word.as_str(), word.parse::<f64>()) {
        ("true" | "yes", _) | (_, Ok(1.)) => Some(true),
        ("false" | "no", _) | (_, Ok(0.)) => Some(false),
        _ => label(text, labels).map(|i| i == 0),
    }
}

/// Which of the two `labels` a text is, whatever its case and the brackets around it.
pub fn label(text: &str, labels: &[String; 2]) -> Option<usize> {
    let plain = |text: &str| bare(text).to_lowercase();
    labels.iter().position(|label| plain(label) == plain(text))
}

/// The letter of an answer such as `(A)`, `A` or `(A) Yes`.
pub fn letter(text: &str) -> Option<char> {
    let text = text.trim();
    let mut inside = text.strip_prefix('(').unwrap_or_default().chars();
    let letter = match (inside.next(), inside.next()) {
        (Some(letter), Some(')')) => letter,
        _ => {
            let mut all = bare(text).chars();
            all.next().filter(|_| all.next().is_none())?
        }
    };
    letter.is_ascii_uppercase().then_some(letter)
}

fn bare(text: &str) -> &str {
    text.trim().trim_matches(['(', ')', '.'])
}

/// What an item is about: the text in the recipe's column, or what the format says.
pub fn group(row: &DataRow, column: Option<&str>, natural: &str) -> Result<String> {
    match column {
        Some(column) => row.text(column),
        None => Ok(natural.to_owned()),
    }
}

/// A question with options in words, as the recipe words it.
pub fn worded(
    prompt: &PromptTemplates,
    question: &str,
    options: [String; 2],
    right: usize,
) -> Question {
    let template = prompt.choice.replace("{question}", question);
    let [a, b] = &options;
    Question {
        text: template.replace("{a}", a).replace("{b}", b),
        right,
        options,
    }
}

/// [`worded`], where the file has no order of its options: the right one is A and B in turn.
pub fn in_turn(
    prompt: &PromptTemplates,
    row: &DataRow,
    question: &str,
    [right, wrong]: [String; 2],
) -> Question {
    let first = row.number % 2;
    let options = match first {
        0 => [right, wrong],
        _ => [wrong, right],
    };
    worded(prompt, question, options, first)
}
