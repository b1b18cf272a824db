//! Files of claims and questions as people have them: which format a file has, told by its
//! columns, and what its rows mean here.
//!
//! Each format has a function of its own, from rows to items. What a format cannot mean is
//! refused by name.

mod answers;
mod behaviour;
mod mask;
mod own;
mod truthful_qa;

use super::item::{Claim, Question};
use super::rows::DataFile;
use crate::error::{Error, Result};
use crate::recipe::{ChoiceFile, ClaimFile, DataFormat, PromptTemplates};

/// The columns that tell a format: of each list, one must be there.
const COLUMNS: [(DataFormat, &[&[&str]]); 6] = [
    (
        DataFormat::Statements,
        &[&["claim", "statement"], &["label"]],
    ),
    (
        DataFormat::Choices,
        &[&["question"], &["a"], &["b"], &["right"]],
    ),
    (
        DataFormat::Caa,
        &[
            &["question"],
            &["answer_matching_behavior"],
            &["answer_not_matching_behavior"],
        ],
    ),
    (
        DataFormat::TruthfulQa,
        &[
            &["question"],
            &["best_answer", "correct_answers"],
            &["best_incorrect_answer", "incorrect_answers"],
        ],
    ),
    (
        DataFormat::McTask,
        &[&["question"], &["mc1_targets", "mc2_targets"]],
    ),
    (
        DataFormat::Mask,
        &[
            &["proposition"],
            &["ground_truth", "formatted_ground_truth"],
        ],
    ),
];

/// A kind of item, and the formats that hold it: the recipe's own first.
struct Kind {
    table: &'static str,
    items: &'static str,
    formats: &'static [DataFormat],
}

const CLAIMS: Kind = Kind {
    table: "data.claims",
    items: "claims",
    formats: &[
        DataFormat::Statements,
        DataFormat::TruthfulQa,
        DataFormat::McTask,
        DataFormat::Mask,
    ],
};

const CHOICES: Kind = Kind {
    table: "data.choices",
    items: "two-choice questions",
    formats: &[
        DataFormat::Choices,
        DataFormat::Caa,
        DataFormat::TruthfulQa,
        DataFormat::McTask,
    ],
};

/// The claims of a file, and how it was read if it is not the recipe's own format.
///
/// # Errors
/// When the file cannot be read, or a row is not what its format says: names the line.
pub fn claims(from: &ClaimFile, prompt: &PromptTemplates) -> Result<(Vec<Claim>, Option<String>)> {
    let file = DataFile::read(&from.file)?;
    let named = from.claim.is_some() || from.label.is_some();
    let format = CLAIMS.format(&file, from.format, named)?;
    let group = from.group.as_deref();
    let (claims, meaning) = match format {
        DataFormat::TruthfulQa | DataFormat::McTask => (
            truthful_qa::claims(&file, group)?,
            Some("a question and one of its answers are a claim"),
        ),
        DataFormat::Mask => (
            mask::claims(&file, group, &prompt.labels)?,
            Some("`proposition` is the claim; `system_prompt` and `user_prompt` are not used"),
        ),
        _ => {
            let renamed = !named && file.column("claim").is_none();
            let meaning = renamed.then_some("`statement` is the claim");
            (own::claims(&file, from, &prompt.labels)?, meaning)
        }
    };
    let note = meaning.map(|meaning| CLAIMS.note(&file, format, claims.len(), meaning));
    Ok((claims, note))
}

/// A question, and what it is about if its file says so.
type Grouped = (Option<String>, Question);

/// The two-choice questions of a file with what they are about, and how it was read if it is not
/// the recipe's own format.
///
/// # Errors
/// As [`claims`].
pub fn choices(
    from: &ChoiceFile,
    prompt: &PromptTemplates,
) -> Result<(Vec<Grouped>, Option<String>)> {
    let file = DataFile::read(&from.file)?;
    let columns = [&from.question, &from.a, &from.b, &from.right];
    let named = columns.iter().any(|column| column.is_some());
    let format = CHOICES.format(&file, from.format, named)?;
    let group = from.group.as_deref();
    let (choices, meaning) = match format {
        DataFormat::Caa => (
            behaviour::choices(&file, group, prompt)?,
            Some("the answer that matches the behaviour counts as right"),
        ),
        DataFormat::TruthfulQa => (
            truthful_qa::choices(&file, group, prompt)?,
            Some("the best answer against the best incorrect one"),
        ),
        DataFormat::McTask => (
            truthful_qa::choices(&file, group, prompt)?,
            Some("the first right target against the first wrong one"),
        ),
        _ => (own::choices(&file, from, prompt)?, None),
    };
    let note = meaning.map(|meaning| CHOICES.note(&file, format, choices.len(), meaning));
    Ok((choices, note))
}

impl Kind {
    /// The format of `file`: the `given` one, or what its columns tell. With columns that the
    /// recipe has `named`, its own.
    fn format(
        &self,
        file: &DataFile,
        given: Option<DataFormat>,
        named: bool,
    ) -> Result<DataFormat> {
        let own = self.formats[0];
        let wrong = |expected: String, found: String, hint: &str| {
            Err(Error::input(file.path(), "columns", expected, found, hint))
        };
        let elsewhere = |format: DataFormat| {
            let hint = match format {
                DataFormat::Caa | DataFormat::Choices => "name the file under data.choices",
                _ => "name the file under data.claims",
            };
            wrong(self.items.into(), format!("the format `{format}`"), hint)
        };
        if named {
            return Ok(own);
        }
        if let Some(given) = given {
            if !self.formats.contains(&given) {
                return elsewhere(given);
            }
            if let Some(missing) = missing(file, given) {
                let expected = format!("{} for the format `{given}`", missing.join(" or "));
                let hint = format!("correct {}.format, or leave it out", self.table);
                return wrong(expected, file.listed(), &hint);
            }
            return Ok(given);
        }
        let fits = |format: &&DataFormat| missing(file, **format).is_none();
        if let Some(format) = self.formats.iter().find(fits) {
            return Ok(*format);
        }
        match COLUMNS.iter().map(|(format, _)| format).find(fits) {
            Some(format) => elsewhere(*format),
            None => Ok(own),
        }
    }

    fn note(&self, file: &DataFile, format: DataFormat, n: usize, meaning: &str) -> String {
        let path = file.path().display();
        format!("{path}: {n} {}, format `{format}`: {meaning}", self.items)
    }
}

/// The columns of which `file` lacks one for `format`.
fn missing(file: &DataFile, format: DataFormat) -> Option<&'static [&'static str]> {
    let columns = COLUMNS.iter().find(|(f, _)| *f == format)?.1;
    let there = |names: &[&str]| names.iter().any(|name| file.column(name).is_some());
    columns.iter().find(|names| !there(names)).copied()
}

#[cfg(test)]
mod tests;
