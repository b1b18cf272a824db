//! Questions about behaviours, as CAA and Anthropic's evaluations write them: one answer matches
//! the behaviour. The answers are letters of options inside the question, or words.

use super::answers::{group, in_turn, label, letter, worded};
use crate::data::item::Question;
use crate::data::rows::{DataFile, DataRow};
use crate::error::{Error, Result};
use crate::recipe::PromptTemplates;

const COLUMNS: [&str; 2] = ["answer_matching_behavior", "answer_not_matching_behavior"];

/// The questions; the answer that matches the behaviour is the right one.
pub fn choices(
    file: &DataFile,
    about: Option<&str>,
    prompt: &PromptTemplates,
) -> Result<Vec<(Option<String>, Question)>> {
    let column = |name| file.column(name).unwrap_or(name);
    let [matching, other] = COLUMNS.map(column);
    let asked = column("question");
    let mut choices = Vec::new();
    for row in file.rows() {
        let question = row.text(asked)?;
        let answers = [row.text(matching)?, row.text(other)?];
        let group = group(&row, about, &question)?;
        let question = match answers.each_ref().map(|answer| letter(answer)) {
            [None, None] if answers[0] != answers[1] => in_words(prompt, &row, &question, answers),
            [Some('A'), Some('B')] | [Some('B'), Some('A')] => {
                check_labels(file, prompt)?;
                let options = inside(&question).map_err(|found| {
                    let expected = "two options inside the question, (A) .. and (B) ..";
                    row.wrong(asked, expected, found)
                })?;
                Question {
                    right: usize::from(letter(&answers[0]) == Some('B')),
                    text: question,
                    options,
                }
            }
            _ => {
                let expected = "(A) against (B), or two different texts";
                let found = format!("`{}` against `{}`", answers[0], answers[1]);
                return Err(row.wrong(matching, expected, &found));
            }
        };
        choices.push((Some(group), question));
    }
    Ok(choices)
}

/// A question whose answers are texts; of yes and no, yes comes first.
fn in_words(
    prompt: &PromptTemplates,
    row: &DataRow,
    question: &str,
    answers: [String; 2],
) -> Question {
    for pair in [["yes", "no"], ["true", "false"]].map(|pair| pair.map(str::to_owned)) {
        let which = answers.each_ref().map(|answer| label(answer, &pair));
        if let [Some(first), Some(second)] = which
            && first != second
        {
            let [matching, other] = answers;
            let options = match first {
                0 => [matching, other],
                _ => [other, matching],
            };
            return worded(prompt, question, options, first);
        }
    }
    in_turn(prompt, row, question, answers)
}

/// Refuses labels that are not the letters inside the questions.
fn check_labels(file: &DataFile, prompt: &PromptTemplates) -> Result<()> {
    let letters = prompt.labels.each_ref().map(|label| letter(label));
    if letters == [Some('A'), Some('B')] {
        return Ok(());
    }
    let [a, b] = &prompt.labels;
    let expected = "the answers A and B, which its questions name";
    let hint = "set prompt.labels = [\"A\", \"B\"]";
    let found = format!("prompt.labels {a} and {b}");
    Err(Error::input(
        file.path(),
        "questions",
        expected,
        found,
        hint,
    ))
}

/// The texts of the options (A) and (B) of a question: from the first line that starts with
/// `(A)`, or else the first `(A)`.
fn inside(question: &str) -> std::result::Result<[String; 2], &'static str> {
    let marks = question.match_indices("(A)").map(|(at, _)| at);
    let at_line = |at: &usize| {
        question[..*at]
            .trim_end_matches([' ', '\t'])
            .ends_with('\n')
    };
    let first = marks.clone().find(at_line).or(marks.clone().next());
    let options = first.map(|at| &question[at + 3..]).ok_or("no (A)")?;
    let (a, rest) = options.split_once("(B)").ok_or("no (B) after (A)")?;
    if rest.contains("(C)") {
        return Err("more than two options");
    }
    let b = rest.split("\n\n").next().unwrap_or_default();
    let b = b.split("\nAnswer:").next().unwrap_or_default();
    match [a, b].map(|text| text.trim().to_owned()) {
        [a, b] if a.is_empty() || b.is_empty() => Err("an option without text"),
        options => Ok(options),
    }
}
