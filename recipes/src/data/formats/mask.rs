//! MASK: propositions with their truth. The two versions of a proposition stand in it as
//! `<pivotal>is/is not</pivotal>`; the ground truth then says which one is true.

use super::answers::{group, letter, truth};
use crate::data::item::Claim;
use crate::data::rows::DataFile;
use crate::error::Result;

/// The propositions; one with two versions is two claims about the same thing.
pub fn claims(file: &DataFile, about: Option<&str>, labels: &[String; 2]) -> Result<Vec<Claim>> {
    let column = |name| file.column(name).unwrap_or(name);
    let asked = column("proposition");
    let truths = ["formatted_ground_truth", "ground_truth"].map(|name| file.column(name));
    let truths: Vec<&str> = truths.into_iter().flatten().collect();
    let mut claims = Vec::new();
    for row in file.rows() {
        let text = row.text(asked)?;
        let wrong = |found: &str| row.wrong(asked, "a true or false statement", found);
        if text.contains("<value>") {
            return Err(wrong("a statement about a number (`<value>`)"));
        }
        let told = truths.iter().find(|column| row.value(column).is_some());
        let Some(told) = told.or(truths.first()).copied() else {
            continue; // a file without these columns is not of this format
        };
        let (said, group) = (row.text(told)?, group(&row, about, &text)?);
        let mut claim = |text: &str, label| {
            let (text, group) = (text.to_owned(), group.clone());
            claims.push(Claim { text, label, group });
        };
        let Some((before, rest)) = text.split_once("<pivotal>") else {
            match truth(&said, labels) {
                Some(label) => claim(&text, label),
                None => return Err(row.wrong(told, "true or false", &said)),
            }
            continue;
        };
        let versions = rest.split_once("</pivotal>");
        let versions = versions.and_then(|(both, after)| Some((both.split_once('/')?, after)));
        let Some(((a, b), after)) = versions else {
            return Err(wrong("a `<pivotal>` without two versions"));
        };
        let statements = [a, b].map(|version| format!("{before}{version}{after}"));
        let named = |i: usize| {
            let names = [[a, b][i], statements[i].as_str()];
            letter(&said) == Some(['A', 'B'][i])
                || names
                    .iter()
                    .any(|name| name.trim().eq_ignore_ascii_case(&said))
        };
        match [named(0), named(1)] {
            [first, second] if first != second => {
                claim(statements[0].trim(), first);
                claim(statements[1].trim(), second);
            }
            _ => {
                let expected = format!("A for `{a}` or B for `{b}`");
                return Err(row.wrong(told, &expected, &said));
            }
        }
    }
    Ok(claims)
}
