//! A table of things: its columns, named once for people and once for programs; as text and as
//! data.

use crate::error::{Error, Result};
use crate::outcomes::{Outcomes, Poles, Verdict};
use serde::Serialize;
use serde_json::Value;

/// A value of a table as data: words, a count, a number, or null where nothing was measured. A
/// number that is not finite becomes null.
pub(crate) type Cell = Value;

/// What a column shows of a `T`: text for people, and for programs one cell for each of the
/// column's names; none where there is nothing to show.
type Entry<T> = Box<dyn Fn(&T) -> Option<(String, Vec<Cell>)>>;

/// A column of a table of `T`.
pub(crate) struct Column<T> {
    /// Above it; empty if people are not shown it.
    heading: String,
    /// Its columns in the data; none if programs are not given it.
    names: Vec<String>,
    entry: Entry<T>,
}

impl<T> Column<T> {
    /// A column whose `entry` is none where there is nothing to show. An empty `heading` hides
    /// it from people, an empty name from programs.
    pub(crate) fn new(
        heading: &str,
        names: impl IntoIterator<Item = impl Into<String>>,
        entry: impl Fn(&T) -> Option<(String, Vec<Cell>)> + 'static,
    ) -> Self {
        let names = names.into_iter().map(Into::into);
        Self {
            heading: heading.to_owned(),
            names: names.filter(|n: &String| !n.is_empty()).collect(),
            entry: Box::new(entry),
        }
    }

    /// Words, or how many.
    pub(crate) fn plain<V: Into<Cell> + ToString>(
        heading: &str,
        name: &str,
        value: impl Fn(&T) -> Option<V> + 'static,
    ) -> Self {
        Self::new(heading, [name], move |t| {
            let value = value(t)?;
            Some((value.to_string(), vec![value.into()]))
        })
    }

    /// A number, shown as `format` writes it. One that is not finite was not measured.
    pub(crate) fn number(
        heading: &str,
        name: &str,
        format: fn(f64) -> String,
        number: impl Fn(&T) -> Option<f64> + 'static,
    ) -> Self {
        Self::new(heading, [name], move |t| {
            let number = number(t).filter(|x| x.is_finite())?;
            Some((format(number), vec![number.into()]))
        })
    }

    /// A number that only programs are given.
    pub(crate) fn data(name: &str, number: impl Fn(&T) -> Option<f64> + 'static) -> Self {
        Self::number("", name, |_| String::new(), number)
    }

    /// Both shares with their Wilson intervals, as `0.830 [.77, .88]`, and the number of items.
    pub(crate) fn outcomes(
        (heading, name): (&str, &str),
        poles: &Poles,
        outcomes: impl Fn(&T) -> Option<Outcomes> + Copy + 'static,
    ) -> [Self; 3] {
        let side = |pole: &str, side: &str, verdict: Verdict| {
            let names = ["", "_share", "_low", "_high"].map(|e| format!("{name}_{side}{e}"));
            Self::new(&format!("{heading}: {pole}"), names, move |t| {
                let outcomes = outcomes(t)?;
                let (share, (low, high)) = (outcomes.share(verdict), outcomes.interval(verdict));
                let [from, to] = [low, high].map(|x| format!("{x:.2}").replacen("0.", ".", 1));
                let count = Cell::from(outcomes.count(verdict));
                let cells = vec![count, share.into(), low.into(), high.into()];
                Some((format!("{share:.3} [{from}, {to}]"), cells))
            })
        };
        [
            side(&poles.positive, "positive", Verdict::Positive),
            side(&poles.negative, "negative", Verdict::Negative),
            Self::plain("n", &format!("{name}_n"), move |t| Some(outcomes(t)?.n())),
        ]
    }
}

/// The name of an enum's value in JSON.
pub(crate) fn name_in_json(value: &impl Serialize) -> String {
    let name = serde_json::to_value(value).unwrap_or_default();
    name.as_str().unwrap_or_default().to_owned()
}

/// The table for people, its header first; the first column names the rows. Columns that have
/// nothing for any of `rows` are left out.
pub(crate) fn grid<T>(columns: &[Column<T>], rows: &[T]) -> Vec<Vec<String>> {
    let any = |c: &Column<T>| rows.iter().any(|r| (c.entry)(r).is_some());
    let shown = columns.iter().filter(|c| !c.heading.is_empty() && any(c));
    let shown: Vec<&Column<T>> = shown.collect();
    let text = |row, c: &Column<T>| (c.entry)(row).map_or_else(|| "-".into(), |e| e.0);
    let line = |row| shown.iter().map(|c| text(row, c)).collect();
    let head = shown.iter().map(|c| c.heading.clone()).collect();
    std::iter::once(head).chain(rows.iter().map(line)).collect()
}

/// An aligned table for a terminal: the first row is the header, all cells are left-aligned.
pub fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| {
        let cells = rows.iter().filter_map(|r| r.get(c));
        cells.map(|s| s.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths);
        let cells: Vec<String> = cells.map(|(cell, w)| format!("{cell:<w$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    let mut lines: Vec<String> = rows.iter().map(line).collect();
    let rule: Vec<String> = widths.iter().map(|w| "-".repeat(*w)).collect();
    lines.insert(1.min(lines.len()), rule.join("  "));
    lines.join("\n")
}

/// The table for programs, its header first, in which every column stands.
pub(crate) fn sheet<T>(columns: &[Column<T>], rows: &[T]) -> Vec<Vec<Cell>> {
    let cells = |row, column: &Column<T>| {
        let mut cells = (column.entry)(row).map_or_else(Vec::new, |e| e.1);
        cells.resize(column.names.len(), Cell::Null);
        cells
    };
    let line = |row| columns.iter().flat_map(|c| cells(row, c)).collect();
    let names = columns.iter().flat_map(|c| c.names.clone());
    let head = names.map(Cell::from).collect();
    std::iter::once(head).chain(rows.iter().map(line)).collect()
}

/// `rows` as CSV, with the digits of the JSON.
///
/// # Errors
/// When a row is not as long as the first.
pub(crate) fn csv(name: &str, rows: &[Vec<Cell>]) -> Result<Vec<u8>> {
    let text = |cell: &Cell| match cell {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let mut writer = csv::Writer::from_writer(Vec::new());
    let mut rows = rows.iter();
    rows.try_for_each(|row| writer.write_record(row.iter().map(text)))
        .and_then(|()| Ok(writer.into_inner().map_err(|e| e.into_error())?))
        .map_err(|e| Error::write(name, e))
}

/// `rows` as a JSON list with an object for each row, whose keys are the first row.
pub(crate) fn json(rows: &[Vec<Cell>]) -> Vec<u8> {
    let name = |cell: &Cell| cell.as_str().unwrap_or_default().to_owned();
    let names: Vec<String> = rows.iter().take(1).flatten().map(name).collect();
    let object = |row: &Vec<Cell>| {
        let cells = names.iter().cloned().zip(row.iter().cloned());
        Value::Object(cells.collect()).to_string()
    };
    // One row a line: readable, and small in a diff.
    let rows: Vec<String> = rows.iter().skip(1).map(object).collect();
    format!("[\n{}\n]\n", rows.join(",\n")).into_bytes()
}
