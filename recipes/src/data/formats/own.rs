//! The recipe's own formats, whose columns it may name.

use super::answers::{group, label, truth, worded};
use crate::data::item::{Claim, Question};
use crate::data::rows::DataFile;
use crate::error::Result;
use crate::recipe::{ChoiceFile, ClaimFile, PromptTemplates};

/// Statements with labels.
pub fn claims(file: &DataFile, from: &ClaimFile, labels: &[String; 2]) -> Result<Vec<Claim>> {
    let statement = file.column("claim").or(file.column("statement"));
    let claim = from.claim.as_deref().or(statement).unwrap_or("claim");
    let truths = from.label.as_deref().or(file.column("label"));
    let truths = truths.unwrap_or("label");
    let mut claims = Vec::new();
    for row in file.rows() {
        let (text, said) = (row.text(claim)?, row.text(truths)?);
        let Some(label) = truth(&said, labels) else {
            let expected = "true or false, 1 or 0, yes or no";
            return Err(row.wrong(truths, expected, &said));
        };
        let group = group(&row, from.group.as_deref(), &text)?;
        claims.push(Claim { text, label, group });
    }
    Ok(claims)
}

/// Questions with two options.
pub fn choices(
    file: &DataFile,
    from: &ChoiceFile,
    prompt: &PromptTemplates,
) -> Result<Vec<(Option<String>, Question)>> {
    let column = |named: &Option<String>, name: &str| {
        let named = named.as_deref().or(file.column(name));
        named.unwrap_or(name).to_owned()
    };
    let [question, a, b, right] = [
        column(&from.question, "question"),
        column(&from.a, "a"),
        column(&from.b, "b"),
        column(&from.right, "right"),
    ];
    let letters = ["A".to_owned(), "B".to_owned()];
    let mut choices = Vec::new();
    for row in file.rows() {
        let (said, options) = (row.text(&right)?, [row.text(&a)?, row.text(&b)?]);
        let found = label(&said, &letters).or(label(&said, &prompt.labels));
        let Some(which) = found.or(label(&said, &options)) else {
            return Err(row.wrong(&right, "A or B", &said));
        };
        let about = from.group.as_ref().map(|column| row.text(column));
        let question = row.text(&question)?;
        let question = worded(prompt, &question, options, which);
        choices.push((about.transpose()?, question));
    }
    Ok(choices)
}
