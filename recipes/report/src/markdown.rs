//! Tables of a report as Markdown, for documents that quote it.

use crate::claim::Finding;
use crate::quantized::{CAPTION, QuantizedRow};
use crate::report::Report;
use crate::seed_repeats::SeedRepeats;
use crate::table::Grid;

/// A cell that can do no harm to the table or the page around it.
fn escaped(cell: &str) -> String {
    let mut text = String::with_capacity(cell.len());
    for c in cell.trim().chars() {
        match c {
            '<' => text.push_str("&lt;"),
            '&' => text.push_str("&amp;"),
            '\n' => text.push_str("<br>"),
            '\r' => {}
            '\\' | '|' | '*' | '_' | '`' | '[' | ']' => text.extend(['\\', c]),
            c => text.push(c),
        }
    }
    text
}

fn table(grid: &Grid) -> String {
    let mut lines = Vec::new();
    for (i, row) in grid.lines().iter().enumerate() {
        let cells: Vec<String> = row.iter().map(|c| escaped(c)).collect();
        lines.push(format!("| {} |", cells.join(" | ")));
        if i == 0 {
            lines.push(format!("|{}", " --- |".repeat(row.len())));
        }
    }
    lines.join("\n")
}

impl Report {
    /// The tables of results, seeds, claims and quantized models as Markdown.
    pub fn markdown(&self) -> String {
        let (r, poles) = (&self.results, &self.results.poles);
        let names = [&r.recipe, &r.model, &self.header.date].map(|n| escaped(n));
        let named: Vec<String> = names.into_iter().filter(|n| !n.is_empty()).collect();
        let mut parts = vec![format!("## {}", named.join(", "))];
        if !r.rows.is_empty() {
            parts.push("Shares with Wilson 95 % intervals.".into());
            if !r.sample_question.is_empty() {
                let question = escaped(&r.sample_question);
                parts.push(format!("Question of the samples: {question}"));
            }
            parts.push(table(&r.grid()));
        }
        let mut part = |there: bool, title: &str, caption: &str, grid: &dyn Fn() -> Grid| {
            if there {
                parts.push(format!("### {title}"));
                parts.extend((!caption.is_empty()).then(|| caption.to_owned()));
                parts.push(table(&grid()));
            }
        };
        part(
            !self.repeats.is_empty(),
            "Other seeds",
            "Mean over the seeds, with the least and the largest.",
            &|| Grid::new(&SeedRepeats::columns(poles), &self.repeats),
        );
        part(!self.findings.is_empty(), "Claims", "", &|| {
            Finding::grid(&self.findings)
        });
        part(
            !self.quantized.is_empty(),
            "In quantized weights",
            CAPTION,
            &|| QuantizedRow::grid(&self.quantized, poles),
        );
        format!("{}\n", parts.join("\n\n"))
    }
}
