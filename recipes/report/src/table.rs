//! A table of things: its columns, named once for people and once for programs.

use crate::number::interval;
use crate::outcomes::{Outcomes, Poles, share, wilson};
use crate::sheet::{Cell, Sheet};
use serde::Serialize;

/// A text cell.
#[derive(Debug, Clone, Serialize)]
struct Field {
    text: String,
    kind: &'static str,
}

/// A table of text; its first column names the rows.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Grid {
    head: Vec<String>,
    rows: Vec<Vec<Field>>,
}

/// What a column shows of one thing: text for people, and for programs one cell for each of
/// the column's names.
pub(crate) type Entry = (String, Vec<Cell>);

/// What a column shows of a `T`; none where there is nothing to show.
type EntryOf<T> = Box<dyn Fn(&T) -> Option<Entry>>;

/// A column of a table of `T`.
pub(crate) struct Column<T> {
    /// Above it; none if people are not shown it.
    heading: Option<String>,
    /// Its columns in the data; none if programs are not given it.
    names: Vec<String>,
    entry: EntryOf<T>,
}

impl<T> Column<T> {
    /// A column whose `entry` is none where there is nothing to show. An empty `heading` hides
    /// it from people, an empty name from programs.
    pub(crate) fn new(
        heading: &str,
        names: &[&str],
        entry: impl Fn(&T) -> Option<Entry> + 'static,
    ) -> Self {
        Self {
            heading: (!heading.is_empty()).then(|| heading.to_owned()),
            names: names
                .iter()
                .filter(|n| !n.is_empty())
                .map(|n| (*n).to_owned())
                .collect(),
            entry: Box::new(entry),
        }
    }

    /// A column of one value, shown as `show` writes it.
    fn one<V: Into<Cell>>(
        heading: &str,
        name: &str,
        show: impl Fn(&V) -> String + 'static,
        value: impl Fn(&T) -> Option<V> + 'static,
    ) -> Self {
        Self::new(heading, &[name], move |t| {
            let value = value(t)?;
            Some((show(&value), vec![value.into()]))
        })
    }

    /// Words.
    pub(crate) fn text(heading: &str, name: &str, text: impl Fn(&T) -> String + 'static) -> Self {
        Self::one(heading, name, String::clone, move |t| Some(text(t)))
    }

    /// How many.
    pub(crate) fn count(
        heading: &str,
        name: &str,
        count: impl Fn(&T) -> Option<usize> + 'static,
    ) -> Self {
        Self::one(heading, name, usize::to_string, count)
    }

    /// A number, shown as `format` writes it. One that is not finite was not measured.
    pub(crate) fn number(
        heading: &str,
        name: &str,
        format: fn(f64) -> String,
        number: impl Fn(&T) -> Option<f64> + 'static,
    ) -> Self {
        let finite = move |t: &T| number(t).filter(|x| x.is_finite());
        Self::one(heading, name, move |x| format(*x), finite)
    }

    /// A number that only programs are given.
    pub(crate) fn data(name: &str, number: impl Fn(&T) -> Option<f64> + 'static) -> Self {
        Self::number("", name, |_| String::new(), number)
    }

    /// Both shares with their Wilson intervals, and the number of items.
    pub(crate) fn outcomes(
        (heading, name): (&str, &str),
        poles: &Poles,
        outcomes: impl Fn(&T) -> Option<Outcomes> + Copy + 'static,
    ) -> [Self; 3] {
        let side = |pole: &str, side: &str, count: fn(&Outcomes) -> usize| {
            let names = ["", "_share", "_low", "_high"].map(|e| format!("{name}_{side}{e}"));
            let names = names.each_ref().map(String::as_str);
            Self::new(&format!("{heading}: {pole}"), &names, move |t| {
                let outcomes = outcomes(t)?;
                let (count, n) = (count(&outcomes), outcomes.n());
                let (low, high) = wilson(count, n);
                let numbers = [share(count, n), low, high].map(Cell::from);
                let cells = [Cell::from(count)].into_iter().chain(numbers);
                Some((interval(count, n), cells.collect()))
            })
        };
        [
            side(&poles.positive, "positive", |o| o.positive),
            side(&poles.negative, "negative", |o| o.negative),
            Self::count("n", &format!("{name}_n"), move |t| Some(outcomes(t)?.n())),
        ]
    }
}

impl Grid {
    /// The table for people. Columns that have nothing for any of `rows` are left out.
    pub(crate) fn new<T>(columns: &[Column<T>], rows: &[T]) -> Self {
        let shown = columns
            .iter()
            .filter_map(|c| Some((c.heading.clone()?, c)))
            .filter(|(_, c)| rows.iter().any(|r| (c.entry)(r).is_some()));
        let (head, shown): (Vec<String>, Vec<&Column<T>>) = shown.unzip();
        let field = |row: &T, column: &Column<T>| {
            let text = (column.entry)(row).map_or_else(|| "-".into(), |e| e.0);
            Field {
                kind: kind(&text),
                text,
            }
        };
        let rows = rows.iter();
        Self {
            head,
            rows: rows
                .map(|row| shown.iter().map(|c| field(row, c)).collect())
                .collect(),
        }
    }

    /// All cells, header first.
    pub(crate) fn lines(&self) -> Vec<Vec<String>> {
        let rows = self.rows.iter();
        let rows = rows.map(|row| row.iter().map(|cell| cell.text.clone()).collect());
        std::iter::once(self.head.clone()).chain(rows).collect()
    }
}

impl Sheet {
    /// The table for programs, in which every column stands.
    pub(crate) fn of<T>(name: &'static str, columns: &[Column<T>], rows: &[T]) -> Self {
        let cells = |row: &T, column: &Column<T>| match (column.entry)(row) {
            Some(_) if column.names.is_empty() => Vec::new(),
            Some((_, cells)) => cells,
            None => vec![Cell::Null; column.names.len()],
        };
        let names = columns.iter().flat_map(|c| c.names.clone());
        let rows = rows.iter();
        let rows = rows.map(|row| columns.iter().flat_map(|c| cells(row, c)).collect());
        Self::new(name, names, rows)
    }
}

/// Short cells that begin with a digit are numbers and must not wrap.
fn kind(text: &str) -> &'static str {
    let digits = text.trim_start_matches(['-', '+', '.']);
    let number = digits.starts_with(|c: char| c.is_ascii_digit());
    match number && text.chars().count() < 24 {
        true => "number",
        false => "text",
    }
}
