//! Rows of a user's file: CSV, TSV, JSON Lines, or a JSON array of objects.
//!
//! A row knows its line, so that every error can name it. `null`, `NaN` and empty cells are
//! missing values, never the texts `null` and `nan`.

use super::text::read_text;
use crate::error::{Error, Result};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Value, value::RawValue};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// What stands for a missing value in files that programs write, besides nothing.
const MISSING: [&str; 5] = ["nan", "null", "<na>", "#n/a", "-nan"];

/// What else separates columns, and what it is called.
const SEPARATORS: [(char, &str); 4] = [
    (';', "semicolons"),
    ('\t', "tabs"),
    ('|', "`|`"),
    (',', "commas"),
];

/// Most columns that an error lists.
const LISTED: usize = 20;

/// The rows of a file.
pub struct DataFile {
    path: PathBuf,
    /// All columns, in the order in which they come up.
    columns: Vec<String>,
    rows: Vec<Stored>,
    /// What to do if something else seems to separate its columns.
    separator: Option<String>,
}

/// A row: its line, and its cells by column. Cells that are missing may be left out.
struct Stored {
    line: usize,
    cells: Vec<(usize, Value)>,
}

/// One row of a [`DataFile`].
#[derive(Clone, Copy)]
pub struct DataRow<'a> {
    file: &'a DataFile,
    stored: &'a Stored,
    /// Number of the row, from 0.
    pub number: usize,
}

impl DataFile {
    /// Reads a `.csv`, `.tsv`, `.json` or `.jsonl` file.
    ///
    /// # Errors
    /// When it cannot be read, has no rows, or a line is no row: names the line.
    pub fn read(path: &Path) -> Result<Self> {
        let mut file = Self {
            path: path.to_owned(),
            columns: Vec::new(),
            rows: Vec::new(),
            separator: None,
        };
        let extension = path.extension().and_then(|e| e.to_str());
        match extension.unwrap_or_default().to_lowercase().as_str() {
            "csv" => file.separated(&read_text(path)?, ',')?,
            "tsv" => file.separated(&read_text(path)?, '\t')?,
            "json" | "jsonl" | "ndjson" => file.objects(&read_text(path)?)?,
            _ => {
                let (expected, hint) = (
                    "a .csv or .jsonl file (or .tsv, .json)",
                    "rename or convert it",
                );
                let found = path.display().to_string();
                return Err(Error::input(path, "name", expected, found, hint));
            }
        }
        if file.rows.is_empty() {
            let expected = "at least one row";
            return Err(Error::input(path, "file", expected, "none", "give data"));
        }
        Ok(file)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its rows, in order.
    pub fn rows(&self) -> impl Iterator<Item = DataRow<'_>> {
        let row = |(number, stored)| DataRow {
            file: self,
            stored,
            number,
        };
        self.rows.iter().enumerate().map(row)
    }

    /// The column called `name`, whatever its case and its spaces: `best_answer` is
    /// `Best Answer`.
    pub fn column(&self, name: &str) -> Option<&str> {
        let plain = |text: &str| text.trim().to_lowercase().replace([' ', '-'], "_");
        let exact = self.columns.iter().find(|c| *c == name);
        let found = exact.or_else(|| self.columns.iter().find(|c| plain(c) == plain(name)));
        found.map(String::as_str)
    }

    /// Its columns, as errors list them.
    pub fn listed(&self) -> String {
        let some: Vec<&str> = self
            .columns
            .iter()
            .map(String::as_str)
            .take(LISTED)
            .collect();
        let more = if self.columns.len() > LISTED {
            ", .."
        } else {
            ""
        };
        format!("columns: {}{more}", some.join(", "))
    }

    fn broken(&self, line: usize, expected: &str, found: impl Into<String>) -> Error {
        let hint = self.separator.as_deref().unwrap_or("correct the file");
        Error::input(&self.path, format!("line {line}"), expected, found, hint)
    }

    fn separated(&mut self, text: &str, separator: char) -> Result<()> {
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(separator as u8)
            .from_reader(text.as_bytes());
        let header = reader
            .headers()
            .map_err(|e| self.broken(1, "a header", e.to_string()))?;
        self.columns = header.iter().map(|c| c.trim().to_owned()).collect();
        if let [one] = self.columns.as_slice() {
            let other = SEPARATORS.iter().filter(|(c, _)| *c != separator);
            let other = other.max_by_key(|(c, _)| one.matches(*c).count());
            if let Some((_, name)) = other.filter(|(c, _)| one.contains(*c)) {
                let wanted = match separator {
                    '\t' => "tabs, or with commas as .csv",
                    _ => "commas, or with tabs as .tsv",
                };
                let hint =
                    format!("its columns seem to be separated by {name}; save it with {wanted}");
                self.separator = Some(hint);
            }
        }
        for (i, name) in self.columns.iter().enumerate() {
            if !name.is_empty() && self.columns[..i].contains(name) {
                let found = format!("`{name}` twice");
                return Err(self.broken(1, "columns with different names", found));
            }
        }
        // Where a row starts: its position is before the end of the last line, and blank lines.
        let start = |p: Option<&csv::Position>| {
            let at = p.map_or(0, |p| p.byte() as usize);
            let ends = text.as_bytes().get(at..).unwrap_or_default().iter();
            at + ends.take_while(|b| matches!(b, b'\r' | b'\n')).count()
        };
        let (mut lines, mut last) = (Lines::of(text), 0);
        for record in reader.records() {
            let record = record.map_err(|e| {
                let line = Lines::of(text).at(start(e.position()));
                match e.kind() {
                    csv::ErrorKind::UnequalLengths {
                        expected_len, len, ..
                    } => {
                        let expected = format!("{expected_len} cells, as in the header");
                        self.broken(line, &expected, len.to_string())
                    }
                    _ => self.broken(line, "a readable row", e.to_string()),
                }
            })?;
            last = start(record.position());
            let cells = record.iter().map(str::trim).enumerate();
            let cells = cells.filter(|(_, cell)| !cell.is_empty());
            let cells: Vec<_> = cells.map(|(i, cell)| (i, Value::from(cell))).collect();
            // A row of empty cells is the blank line of a spreadsheet.
            if !cells.is_empty() {
                let line = lines.at(last);
                self.rows.push(Stored { line, cells });
            }
        }
        // A quotation mark that is never closed takes the rest of the file into one cell.
        let open = text.get(last..).unwrap_or_default();
        if let Some(row) = self.rows.last()
            && open.matches('"').count() % 2 == 1
            && row
                .cells
                .iter()
                .any(|(_, cell)| cell.as_str().is_some_and(|c| c.contains('\n')))
        {
            let found = "a quotation mark that is not closed";
            return Err(self.broken(row.line, "a readable row", found));
        }
        Ok(())
    }

    fn objects(&mut self, text: &str) -> Result<()> {
        let mut known = HashMap::new();
        if text.trim_start().starts_with('[') {
            let fixed;
            let (text, elements) = match serde_json::from_str::<Vec<&RawValue>>(text) {
                Ok(elements) => (text, elements),
                Err(e) => {
                    fixed = without_nan(text);
                    let again = serde_json::from_str(&fixed);
                    (fixed.as_str(), again.map_err(|_| self.unreadable(0, &e))?)
                }
            };
            let mut lines = Lines::of(text);
            for element in elements {
                let element = element.get();
                let line = lines.at(element.as_ptr() as usize - text.as_ptr() as usize);
                self.object(line, element, &mut known)?;
            }
            return Ok(());
        }
        let mut lines = text.lines().zip(1..).filter(|(l, _)| !l.trim().is_empty());
        let first = lines.next().unwrap_or_default();
        let alone = serde_json::from_str::<&RawValue>(first.0);
        if alone.is_err_and(|e| e.is_eof()) && first.0.trim_end().ends_with(['{', ',']) {
            // Objects over several lines each.
            let text = without_nan(text);
            let objects = serde_json::Deserializer::from_str(&text).into_iter::<&RawValue>();
            let mut lines = Lines::of(&text);
            for object in objects {
                let object = object.map_err(|e| self.unreadable(0, &e))?.get();
                let line = lines.at(object.as_ptr() as usize - text.as_ptr() as usize);
                self.object(line, object, &mut known)?;
            }
            return Ok(());
        }
        for (line, number) in std::iter::once(first).chain(lines).filter(|(_, n)| *n > 0) {
            self.object(number, line, &mut known)?;
        }
        Ok(())
    }

    /// Adds the row that `text` holds, which starts at `line`.
    fn object(
        &mut self,
        line: usize,
        text: &str,
        known: &mut HashMap<String, usize>,
    ) -> Result<()> {
        let object = serde_json::from_str::<Object>(text).or_else(|e| {
            serde_json::from_str(&without_nan(text)).map_err(|_| self.unreadable(line - 1, &e))
        })?;
        let mut cells = Vec::new();
        for (name, value) in object.0 {
            let next = known.len();
            let column = *known.entry(name).or_insert_with_key(|name| {
                self.columns.push(name.clone());
                next
            });
            cells.push((column, value));
        }
        let mut columns: Vec<usize> = cells.iter().map(|(column, _)| *column).collect();
        columns.sort_unstable();
        if let Some(twice) = columns.windows(2).find(|pair| pair[0] == pair[1]) {
            let found = format!("`{}` twice", self.columns[twice[0]]);
            return Err(self.broken(line, "columns with different names", found));
        }
        self.rows.push(Stored { line, cells });
        Ok(())
    }

    /// The error of a parser that began after the line `before`.
    fn unreadable(&self, before: usize, e: &serde_json::Error) -> Error {
        let found = e.to_string();
        let found = found.split(" at line ").next().unwrap_or_default();
        let line = before + e.line().max(1);
        let expected = "a JSON object with a value for each column";
        self.broken(line, expected, format!("{found}, column {}", e.column()))
    }
}

impl<'a> DataRow<'a> {
    /// The text of a cell, without blanks around it; numbers and booleans as they are written.
    ///
    /// # Errors
    /// When the value is missing, or is a list or an object: names line and column.
    pub fn text(&self, column: &str) -> Result<String> {
        Ok(self.whole_text(column)?.trim().to_owned())
    }

    /// [`DataRow::text`] with its blanks.
    ///
    /// # Errors
    /// As [`DataRow::text`].
    pub fn whole_text(&self, column: &str) -> Result<String> {
        let expected = "a value";
        match self.value(column) {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => Ok(value.to_string()),
            Some(Value::Array(_)) => Err(self.wrong(column, "one value", "a list")),
            Some(_) => Err(self.wrong(column, "one value", "an object")),
            None => {
                let cell = self.cell(column).filter(|v| **v != Value::Null);
                let text = cell.and_then(Value::as_str).unwrap_or_default().trim();
                let found = match (self.cell(column), text) {
                    (Some(Value::Null), _) => "null".to_owned(),
                    (_, "") => format!("nothing ({})", self.file.listed()),
                    (_, word) => format!("`{word}`, a missing value"),
                };
                Err(self.wrong(column, expected, &found))
            }
        }
    }

    /// The value of a cell, unless it is missing.
    pub fn value(&self, column: &str) -> Option<&'a Value> {
        self.cell(column).filter(|value| match value {
            Value::Null => false,
            Value::String(text) => {
                let text = text.trim();
                !text.is_empty() && !MISSING.iter().any(|m| text.eq_ignore_ascii_case(m))
            }
            _ => true,
        })
    }

    fn cell(&self, column: &str) -> Option<&'a Value> {
        let index = self.file.columns.iter().position(|c| c == column)?;
        let cell = self.stored.cells.iter().find(|(i, _)| *i == index);
        cell.map(|(_, value)| value)
    }

    /// The error that `column` of this row holds `found`.
    pub fn wrong(&self, column: &str, expected: &str, found: &str) -> Error {
        let place = format!("line {}, column `{column}`", self.stored.line);
        let hint = "correct the file, or name the column in the recipe";
        let hint = self.file.separator.as_deref().unwrap_or(hint);
        Error::input(&self.file.path, place, expected, found, hint)
    }
}

/// The pairs of an object, in their order.
struct Object(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Object;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Object, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Object(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

/// Counts lines up to places that only grow.
struct Lines<'a> {
    text: &'a [u8],
    place: usize,
    line: usize,
}

impl<'a> Lines<'a> {
    fn of(text: &'a str) -> Self {
        let (text, place, line) = (text.as_bytes(), 0, 1);
        Self { text, place, line }
    }

    /// The line of the byte at `place`.
    fn at(&mut self, place: usize) -> usize {
        let passed = self.text.get(self.place..place).unwrap_or_default();
        self.line += passed.iter().filter(|b| **b == b'\n').count();
        self.place = place;
        self.line
    }
}

/// `text` with the numbers `NaN` and `Infinity`, which Python writes and JSON does not know,
/// as strings.
fn without_nan(text: &str) -> String {
    let (mut fixed, mut rest) = (String::with_capacity(text.len()), text);
    let (mut inside, mut escaped) = (false, false);
    while let Some(c) = rest.chars().next() {
        let word = ["NaN", "Infinity", "-Infinity"];
        let word = word.iter().find(|w| !inside && rest.starts_with(**w));
        if let Some(word) = word {
            fixed += &format!("\"{word}\"");
            rest = &rest[word.len()..];
            continue;
        }
        inside ^= c == '"' && !escaped;
        escaped = inside && c == '\\' && !escaped;
        fixed.push(c);
        rest = &rest[c.len_utf8()..];
    }
    fixed
}

#[cfg(test)]
mod tests;
