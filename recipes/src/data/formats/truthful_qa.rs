//! TruthfulQA: `TruthfulQA.csv` and its rows as JSON, with lists of correct and incorrect
//! answers, and `mc_task.json`, whose targets say which answers are right.

use super::answers::{group, in_turn};
use crate::data::item::{Claim, Question};
use crate::data::rows::{DataFile, DataRow};
use crate::error::Result;
use crate::recipe::PromptTemplates;
use serde_json::Value;

/// The columns of answers that are right, and of those that are wrong.
const ANSWERS: [&str; 2] = ["correct_answers", "incorrect_answers"];
const BEST: [&str; 2] = ["best_answer", "best_incorrect_answer"];
/// One right answer, and any number of them.
const TARGETS: [&str; 2] = ["mc1_targets", "mc2_targets"];

/// Every answer with its question, as a claim about the question.
pub fn claims(file: &DataFile, about: Option<&str>) -> Result<Vec<Claim>> {
    let mut claims = Vec::new();
    for row in file.rows() {
        let question = asked(file, &row)?;
        let group = group(&row, about, &question)?;
        let [_, all] = TARGETS;
        for (answer, label) in answers(file, &row, [all, TARGETS[0]], [ANSWERS, BEST])? {
            claims.push(Claim {
                text: format!("{question} {answer}"),
                label,
                group: group.clone(),
            });
        }
    }
    Ok(claims)
}

/// The best right answer against the best wrong one.
pub fn choices(
    file: &DataFile,
    about: Option<&str>,
    prompt: &PromptTemplates,
) -> Result<Vec<(Option<String>, Question)>> {
    let mut choices = Vec::new();
    for row in file.rows() {
        let question = asked(file, &row)?;
        let found = answers(file, &row, TARGETS, [BEST, ANSWERS])?;
        let first = |wanted: bool| {
            let answer = found.iter().find(|(_, right)| *right == wanted);
            answer.map(|(text, _)| text.clone()).ok_or_else(|| {
                let expected = match wanted {
                    true => "a right answer",
                    false => "a wrong answer",
                };
                let column = file.column(TARGETS[0]).unwrap_or("question");
                row.wrong(column, expected, "none")
            })
        };
        let group = group(&row, about, &question)?;
        let question = in_turn(prompt, &row, &question, [first(true)?, first(false)?]);
        choices.push((Some(group), question));
    }
    Ok(choices)
}

fn asked(file: &DataFile, row: &DataRow) -> Result<String> {
    row.text(file.column("question").unwrap_or("question"))
}

/// The answers of a row with whether they are right: from the first of the columns `targets`
/// that the file has, or for right and wrong ones each from the first column of `lists` that has
/// a value.
fn answers(
    file: &DataFile,
    row: &DataRow,
    targets: [&str; 2],
    lists: [[&str; 2]; 2],
) -> Result<Vec<(String, bool)>> {
    if let Some(column) = targets.iter().find_map(|name| file.column(name)) {
        return judged(row, column);
    }
    let mut answers = Vec::new();
    for (i, right) in [true, false].into_iter().enumerate() {
        let columns = lists.iter().filter_map(|names| file.column(names[i]));
        let columns: Vec<&str> = columns.collect();
        let column = columns.iter().find(|column| row.value(column).is_some());
        let Some(column) = column.or(columns.first()) else {
            continue;
        };
        let found = match row.value(column) {
            Some(Value::Array(list)) => {
                let text = |value: &Value| value.as_str().map(str::to_owned);
                let texts = list.iter().map(text).collect::<Option<Vec<_>>>();
                texts.ok_or_else(|| row.wrong(column, "a list of texts", "another list"))?
            }
            _ => {
                let text = row.text(column)?;
                match file.column(BEST[i]) == Some(*column) {
                    true => vec![text],
                    false => text.split(';').map(str::to_owned).collect(),
                }
            }
        };
        let found = found.iter().map(|text| text.trim().to_owned());
        answers.extend(found.filter(|t| !t.is_empty()).map(|text| (text, right)));
    }
    Ok(answers)
}

/// The answers of `mc1_targets`: `{"answer": 1, ..}`, or `{"choices": [..], "labels": [..]}`.
fn judged(row: &DataRow, column: &str) -> Result<Vec<(String, bool)>> {
    let expected = "answers with 1 or 0 each";
    let wrong = |found: &str| row.wrong(column, expected, found);
    let Some(targets) = row.value(column).and_then(Value::as_object) else {
        row.text(column)?;
        return Err(wrong("one value"));
    };
    let lists = ["choices", "labels"].map(|key| targets.get(key).and_then(Value::as_array));
    let pairs: Vec<(Option<&str>, &Value)> = match lists {
        [Some(answers), Some(labels)] if answers.len() == labels.len() => {
            let answers = answers.iter().map(Value::as_str);
            answers.zip(labels).collect()
        }
        [Some(_), Some(_)] => return Err(wrong("lists of different lengths")),
        _ => targets.iter().map(|(k, v)| (Some(k.as_str()), v)).collect(),
    };
    let judged = |(answer, label): (Option<&str>, &Value)| {
        let right = match label
            .as_f64()
            .or(label.as_bool().map(|b| f64::from(u8::from(b))))
        {
            Some(1.) => true,
            Some(0.) => false,
            _ => return Err(wrong(&label.to_string())),
        };
        let answer = answer.ok_or_else(|| wrong("an answer that is no text"))?;
        Ok((answer.trim().to_owned(), right))
    };
    pairs.into_iter().map(judged).collect()
}
