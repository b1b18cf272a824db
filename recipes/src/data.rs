//! Claims and questions from files, split by what they are about, and texts that are only read.

use crate::chat::Chat;
use crate::error::{Error, Result};
use crate::recipe::{ChoiceFile, ClaimFile, Recipe, Texts};
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use reptune_adapters::files;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A statement with its truth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The statement.
    pub text: String,
    /// Whether it is true.
    pub label: bool,
    /// What it is about.
    pub group: String,
}

/// A question whose answer is one of two answer tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The user message.
    pub text: String,
    /// Index of the right answer token: 0 or 1.
    pub right: usize,
    /// The options in words.
    pub options: [String; 2],
}

/// Items of a recipe, split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Items {
    /// Claims for extraction and tuning.
    pub train: Vec<Claim>,
    /// Claims for choosing and early stop.
    pub validation: Vec<Claim>,
    /// Claims that nothing else sees.
    pub test: Vec<Claim>,
    /// Two-choice questions about groups that are only tested.
    pub choices: Vec<Question>,
}

impl Items {
    /// Reads and splits the items of `recipe`; at most as many test items as its
    /// evaluation asks for.
    ///
    /// # Errors
    /// When a file, a column or a label is wrong, or a part is empty.
    pub fn read(recipe: &Recipe) -> Result<Self> {
        let claims = claims(&recipe.data.claims)?;
        let groups: BTreeSet<&str> = claims.iter().map(|c| c.group.as_str()).collect();
        let mut groups: Vec<&str> = groups.into_iter().collect();
        let mut rng = ChaCha8Rng::seed_from_u64(recipe.seed);
        groups.shuffle(&mut rng);
        let at = |share: f64| (share * groups.len() as f64).round() as usize;
        let [first, second] = recipe.data.split;
        let ends = [at(first), at(first + second)];
        let part = |i: usize| ends.iter().filter(|end| i >= **end).count();
        let part = groups.iter().enumerate().map(|(i, g)| (*g, part(i)));
        let part: BTreeMap<&str, usize> = part.collect();
        let mut parts: [Vec<Claim>; 3] = Default::default();
        for claim in &claims {
            parts[part[claim.group.as_str()]].push(claim.clone());
        }
        let mut questions = Vec::new();
        if let Some(source) = &recipe.data.choices {
            for (group, question) in choices(source, recipe)? {
                let part = group.as_deref().and_then(|g| part.get(g));
                if part.is_none_or(|p| *p == 2) {
                    questions.push(question);
                }
            }
        }
        let mut choices = questions;
        parts.iter_mut().for_each(|p| p.shuffle(&mut rng));
        choices.shuffle(&mut rng);
        let [train, validation, mut test] = parts;
        test.truncate(recipe.evaluation.claims);
        choices.truncate(recipe.evaluation.choices);
        for (name, part) in [
            ("training", &train),
            ("validation", &validation),
            ("test", &test),
        ] {
            let truths: BTreeSet<bool> = part.iter().map(|c| c.label).collect();
            if truths.len() < 2 {
                let place = format!("{name} part of the claims");
                let found = format!("{} claims, {} kinds", part.len(), truths.len());
                let (file, expected) = (&recipe.data.claims.file, "true and false claims");
                let hint = "give more claims, or another data.split";
                return Err(Error::input(file, place, expected, found, hint));
            }
        }
        Ok(Self {
            train,
            validation,
            test,
            choices,
        })
    }
}

/// The question that asks whether `claim` is true.
pub fn claim_question(recipe: &Recipe, claim: &Claim) -> Question {
    Question {
        text: recipe.prompt.worded(&claim.text).text,
        right: usize::from(!claim.label),
        options: ["true".into(), "false".into()],
    }
}

fn claims(from: &ClaimFile) -> Result<Vec<Claim>> {
    DataFile::read(&from.file)?.rows(|row| {
        let text = row.get(&from.claim)?.to_owned();
        let label = match row.get(&from.label)?.to_lowercase().as_str() {
            "true" | "1" | "yes" => true,
            "false" | "0" | "no" => false,
            other => return Err(row.wrong(&from.label, "true or false, 1 or 0, yes or no", other)),
        };
        let group = match &from.group {
            Some(column) => row.get(column)?.to_owned(),
            None => text.clone(),
        };
        Ok(Claim { text, label, group })
    })
}

fn choices(from: &ChoiceFile, recipe: &Recipe) -> Result<Vec<(Option<String>, Question)>> {
    DataFile::read(&from.file)?.rows(|row| {
        let right = match row.get(&from.right)?.to_uppercase().as_str() {
            "A" => 0,
            "B" => 1,
            other => return Err(row.wrong(&from.right, "A or B", other)),
        };
        let group = from.group.as_ref().map(|column| row.get(column));
        let group = group.transpose()?.map(str::to_owned);
        let question = row.get(&from.question)?;
        let (a, b) = (row.get(&from.a)?, row.get(&from.b)?);
        let template = recipe.prompt.choice.replace("{question}", question);
        let question = Question {
            text: template.replace("{a}", a).replace("{b}", b),
            right,
            options: [a.to_owned(), b.to_owned()],
        };
        Ok((group, question))
    })
}

/// The texts of a file: the rows of a .csv or .jsonl file, or the lines of a .txt file
/// that are not blank.
///
/// # Errors
/// When the file cannot be read, a column is missing, or there is no text.
pub fn texts(from: &Texts) -> Result<Vec<String>> {
    if !is_plain(from) {
        return DataFile::read(&from.file)?.rows(|row| row.get(&from.text).map(str::to_owned));
    }
    let whole = plain(from)?;
    let lines = whole.lines().map(str::trim).filter(|l| !l.is_empty());
    Ok(lines.map(str::to_owned).collect())
}

/// The texts as sequences of tokens (T,): a .txt file as one, everything else as one
/// for each text.
pub fn sequences(chat: &Chat, from: &Texts) -> Result<Vec<Vec<u32>>> {
    if is_plain(from) {
        return Ok(vec![chat.encode(&plain(from)?)?]);
    }
    texts(from)?.iter().map(|text| chat.encode(text)).collect()
}

fn is_plain(from: &Texts) -> bool {
    from.file.extension().is_some_and(|e| e == "txt")
}

fn plain(from: &Texts) -> Result<String> {
    let wrong = |expected: &str, found: String| {
        Error::input(&from.file, "file", expected, found, "give another file")
    };
    let text = String::from_utf8(files::read(&from.file)?);
    let text = text.map_err(|e| wrong("text in UTF-8", e.utf8_error().to_string()))?;
    match text.trim().is_empty() {
        true => Err(wrong("text", "none".into())),
        false => Ok(text),
    }
}

/// Rows of a user's .csv or .jsonl file.
struct DataFile<'a>(Vec<DataRow<'a>>);

/// One row, with its line for errors.
struct DataRow<'a> {
    path: &'a Path,
    line: usize,
    cells: BTreeMap<String, String>,
}

impl DataRow<'_> {
    fn get(&self, column: &str) -> Result<&str> {
        let cell = self.cells.get(column).filter(|c| !c.is_empty());
        cell.map(String::as_str).ok_or_else(|| {
            let columns: Vec<&str> = self.cells.keys().map(String::as_str).collect();
            let found = format!("nothing (columns: {})", columns.join(", "));
            self.wrong(column, "a value", &found)
        })
    }

    fn wrong(&self, column: &str, expected: &str, found: &str) -> Error {
        let place = format!("line {}, column `{column}`", self.line);
        let hint = "correct the file, or name the column in the recipe";
        Error::input(self.path, place, expected, found, hint)
    }
}

impl<'a> DataFile<'a> {
    fn read(path: &'a Path) -> Result<Self> {
        let bytes = files::read(path)?;
        let broken = |line: usize, found: String| {
            let place = format!("line {line}");
            Error::input(path, place, "a readable row", found, "correct the file")
        };
        let mut rows = Vec::new();
        match path.extension().and_then(|e| e.to_str()) {
            Some("csv") => {
                let mut reader = csv::Reader::from_reader(bytes.as_slice());
                let header = reader.headers().map_err(|e| broken(1, e.to_string()))?;
                let header = header.clone();
                let line = |p: Option<&csv::Position>| p.map_or(0, |p| p.line() as usize);
                for record in reader.records() {
                    let record = record.map_err(|e| broken(line(e.position()), e.to_string()))?;
                    let cells = header.iter().zip(&record);
                    let cells = cells.map(|(k, v)| (k.trim().to_owned(), v.trim().to_owned()));
                    rows.push((line(record.position()), cells.collect()));
                }
            }
            Some("jsonl") => {
                let text = String::from_utf8_lossy(&bytes);
                let cell = |v: Value| match v {
                    Value::String(s) => s,
                    other => other.to_string(),
                };
                let lines = text.lines().zip(1..);
                for (line, number) in lines.filter(|(l, _)| !l.trim().is_empty()) {
                    let object: serde_json::Map<String, Value> =
                        serde_json::from_str(line).map_err(|e| broken(number, e.to_string()))?;
                    let cells = object.into_iter().map(|(k, v)| (k, cell(v)));
                    rows.push((number, cells.collect()));
                }
            }
            _ => {
                let (expected, hint) = ("a .csv or .jsonl file", "rename or convert it");
                let found = path.display().to_string();
                return Err(Error::input(path, "name", expected, found, hint));
            }
        }
        if rows.is_empty() {
            let expected = "at least one row";
            return Err(Error::input(path, "file", expected, "none", "give data"));
        }
        let row = |(line, cells)| DataRow { path, line, cells };
        Ok(Self(rows.into_iter().map(row).collect()))
    }

    fn rows<T>(&self, make: impl Fn(&DataRow) -> Result<T>) -> Result<Vec<T>> {
        self.0.iter().map(make).collect()
    }
}

#[cfg(test)]
mod tests;
