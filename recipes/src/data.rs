//! Claims and questions from files, split by what they are about.

use crate::error::{Error, Result};
use crate::recipe::{ChoiceFile, ClaimFile, Recipe};
use rand::SeedableRng;
use rand::seq::SliceRandom;
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
        let mut groups: Vec<String> = claims
            .iter()
            .map(|c| c.group.clone())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        let mut rng = ChaCha8Rng::seed_from_u64(recipe.seed);
        groups.shuffle(&mut rng);
        let at = |share: f64| (share * groups.len() as f64).round() as usize;
        let (first, second) = (
            at(recipe.data.split[0]),
            at(recipe.data.split[0] + recipe.data.split[1]),
        );
        let part: BTreeMap<&str, usize> = groups
            .iter()
            .enumerate()
            .map(|(i, g)| {
                (
                    g.as_str(),
                    usize::from(i >= first) + usize::from(i >= second),
                )
            })
            .collect();
        let mut parts: [Vec<Claim>; 3] = Default::default();
        for claim in &claims {
            parts[part[claim.group.as_str()]].push(claim.clone());
        }
        let mut choices: Vec<Question> = match &recipe.data.choices {
            None => Vec::new(),
            Some(source) => choices(source, recipe)?
                .into_iter()
                .filter(|(group, _)| {
                    group
                        .as_deref()
                        .and_then(|g| part.get(g))
                        .is_none_or(|p| *p == 2)
                })
                .map(|(_, question)| question)
                .collect(),
        };
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
                return Err(Error::input(
                    &recipe.data.claims.file,
                    format!("{name} part of the claims"),
                    "true and false claims",
                    format!("{} claims, {} kinds", part.len(), truths.len()),
                    "give more claims, or another data.split",
                ));
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
        let group = from
            .group
            .as_ref()
            .map(|column| row.get(column).map(str::to_owned))
            .transpose()?;
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

/// Rows of a user's .csv or .jsonl file.
pub(crate) struct DataFile<'a> {
    path: &'a Path,
    rows: Vec<(usize, BTreeMap<String, String>)>,
}

/// One row, with its line for errors.
pub(crate) struct DataRow<'a> {
    path: &'a Path,
    line: usize,
    cells: &'a BTreeMap<String, String>,
}

impl DataRow<'_> {
    pub(crate) fn get(&self, column: &str) -> Result<&str> {
        self.cells
            .get(column)
            .map(String::as_str)
            .filter(|c| !c.is_empty())
            .ok_or_else(|| {
                let columns: Vec<&str> = self.cells.keys().map(String::as_str).collect();
                self.wrong(
                    column,
                    "a value",
                    &format!("nothing (columns: {})", columns.join(", ")),
                )
            })
    }

    fn wrong(&self, column: &str, expected: &str, found: &str) -> Error {
        Error::input(
            self.path,
            format!("line {}, column `{column}`", self.line),
            expected,
            found,
            "correct the file, or name the column in the recipe",
        )
    }
}

impl<'a> DataFile<'a> {
    pub(crate) fn read(path: &'a Path) -> Result<Self> {
        let bytes = files::read(path)?;
        let text = String::from_utf8_lossy(&bytes);
        let broken = |line: usize, found: String| {
            Error::input(
                path,
                format!("line {line}"),
                "a readable row",
                found,
                "correct the file",
            )
        };
        let rows = match path.extension().and_then(|e| e.to_str()) {
            Some("csv") => {
                let mut reader = csv::Reader::from_reader(bytes.as_slice());
                let header = reader
                    .headers()
                    .map_err(|e| broken(1, e.to_string()))?
                    .clone();
                let mut rows = Vec::new();
                for record in reader.records() {
                    let record = record.map_err(|e| {
                        broken(e.position().map_or(0, |p| p.line() as usize), e.to_string())
                    })?;
                    let line = record.position().map_or(0, |p| p.line() as usize);
                    let cells = header
                        .iter()
                        .zip(&record)
                        .map(|(k, v)| (k.trim().to_owned(), v.trim().to_owned()));
                    rows.push((line, cells.collect()));
                }
                rows
            }
            Some("jsonl") => {
                let mut rows = Vec::new();
                for (i, line) in text
                    .lines()
                    .enumerate()
                    .filter(|(_, l)| !l.trim().is_empty())
                {
                    let object: serde_json::Map<String, Value> =
                        serde_json::from_str(line).map_err(|e| broken(i + 1, e.to_string()))?;
                    let cell = |v: Value| match v {
                        Value::String(s) => s,
                        other => other.to_string(),
                    };
                    rows.push((
                        i + 1,
                        object.into_iter().map(|(k, v)| (k, cell(v))).collect(),
                    ));
                }
                rows
            }
            _ => {
                return Err(Error::input(
                    path,
                    "name",
                    "a .csv or .jsonl file",
                    path.display().to_string(),
                    "rename or convert it",
                ));
            }
        };
        if rows.is_empty() {
            return Err(Error::input(
                path,
                "file",
                "at least one row",
                "none",
                "give data",
            ));
        }
        Ok(Self { path, rows })
    }

    pub(crate) fn rows<T>(&self, make: impl Fn(&DataRow) -> Result<T>) -> Result<Vec<T>> {
        self.rows
            .iter()
            .map(|(line, cells)| {
                make(&DataRow {
                    path: self.path,
                    line: *line,
                    cells,
                })
            })
            .collect()
    }
}
