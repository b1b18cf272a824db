//! One table of the report as data: the same cells as CSV and as JSON.

use crate::error::{Error, Result};
use serde_json::{Map, Value};

/// A value of a table: words, a count, a number, or null where nothing was measured. A number
/// that is not finite becomes null.
pub(crate) type Cell = Value;

/// The digits of the JSON, so that both files say the same.
fn csv(cell: &Cell) -> String {
    match cell {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// A table with a name.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sheet {
    /// Name of its files, without extension.
    pub(crate) name: &'static str,
    columns: Vec<String>,
    rows: Vec<Vec<Cell>>,
}

impl Sheet {
    /// A table of `rows`, each as long as `columns`.
    pub(crate) fn new(
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
    pub(crate) fn csv(&self) -> Result<Vec<u8>> {
        let lines = || -> std::result::Result<_, Box<dyn std::error::Error + Send + Sync>> {
            let mut writer = csv::Writer::from_writer(Vec::new());
            writer.write_record(&self.columns)?;
            for row in &self.rows {
                writer.write_record(row.iter().map(csv))?;
            }
            Ok(writer.into_inner().map_err(|e| e.to_string())?)
        };
        lines().map_err(|e| Error::write(self.name, e))
    }

    /// As a JSON list with an object for each row.
    pub(crate) fn json(&self) -> Vec<u8> {
        let object = |row: &Vec<Cell>| {
            let cells = self.columns.iter().cloned().zip(row.iter().cloned());
            let object: Map<String, Value> = cells.collect();
            Value::Object(object).to_string()
        };
        // One row a line: readable, and small in a diff.
        let rows: Vec<String> = self.rows.iter().map(object).collect();
        format!("[\n{}\n]\n", rows.join(",\n")).into_bytes()
    }
}
