//! One table of the report as data: the same cells as CSV and as JSON.

use super::section::failed;
use crate::error::Result;
use crate::evaluate::{Tally, wilson};
use serde_json::{Map, Number, Value};

/// A value of a table.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cell {
    /// Words.
    Text(String),
    /// How many.
    Count(usize),
    /// A measured number; one that is not finite is written as missing.
    Number(f64),
    /// Nothing was measured.
    Missing,
}

impl Cell {
    /// Words.
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// A number, if there is one.
    pub(super) fn number(number: Option<f64>) -> Self {
        number.map_or(Self::Missing, Self::Number)
    }

    /// The columns of [`Cell::tally`], for the tally called `name`.
    pub(super) fn tally_columns(name: &str) -> impl Iterator<Item = String> {
        let measures = [
            "n",
            "honest",
            "honest_share",
            "honest_low",
            "honest_high",
            "lie",
            "lie_share",
            "lie_low",
            "lie_high",
        ];
        measures.into_iter().map(move |m| format!("{name}_{m}"))
    }

    /// Counts, shares and intervals of a tally.
    pub(super) fn tally(tally: Option<Tally>) -> Vec<Self> {
        let Some(t) = tally else {
            return vec![Self::Missing; 9];
        };
        let mut cells = vec![Self::Count(t.n)];
        for (count, share) in [(t.honest, t.honest_share()), (t.lie, t.lie_share())] {
            let (low, high) = wilson(count, t.n);
            cells.push(Self::Count(count));
            cells.extend([share, low, high].map(Self::Number));
        }
        cells
    }

    fn json(&self) -> Value {
        match self {
            Self::Text(text) => Value::String(text.clone()),
            Self::Count(n) => Value::Number((*n).into()),
            Self::Number(x) => Number::from_f64(*x).map_or(Value::Null, Value::Number),
            Self::Missing => Value::Null,
        }
    }

    /// The digits of the JSON, so that both files say the same.
    fn csv(&self) -> String {
        match self.json() {
            Value::String(text) => text,
            Value::Null => String::new(),
            other => other.to_string(),
        }
    }
}

/// A table with a name.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sheet {
    /// Name of its files, without extension.
    pub(super) name: &'static str,
    columns: Vec<String>,
    rows: Vec<Vec<Cell>>,
}

impl Sheet {
    /// A table of `rows`, each as long as `columns`.
    pub(super) fn new(
        name: &'static str,
        columns: impl IntoIterator<Item = impl Into<String>>,
        rows: impl IntoIterator<Item = Vec<Cell>>,
    ) -> Self {
        Self {
            name,
            columns: columns.into_iter().map(Into::into).collect(),
            rows: rows.into_iter().collect(),
        }
    }

    /// As CSV with a header line.
    ///
    /// # Errors
    /// When a row is not as long as the header.
    pub(super) fn csv(&self) -> Result<Vec<u8>> {
        let failed = |e: &dyn std::fmt::Display| failed(self.name, e.to_string());
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(&self.columns).map_err(|e| failed(&e))?;
        for row in &self.rows {
            writer
                .write_record(row.iter().map(Cell::csv))
                .map_err(|e| failed(&e))?;
        }
        writer.into_inner().map_err(|e| failed(&e))
    }

    /// As a JSON list with an object for each row.
    pub(super) fn json(&self) -> Vec<u8> {
        let object = |row: &Vec<Cell>| {
            let values = row.iter().map(Cell::json);
            let object: Map<String, Value> = self.columns.iter().cloned().zip(values).collect();
            Value::Object(object)
        };
        // One row a line: readable, and small in a diff.
        let rows: Vec<String> = self.rows.iter().map(|r| object(r).to_string()).collect();
        format!("[\n{}\n]\n", rows.join(",\n")).into_bytes()
    }
}
