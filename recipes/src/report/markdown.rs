//! Tables of a report as Markdown, for documents that quote it.

use super::section::Grid;
use super::study::Study;
use super::{finding, repeats, survival};

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

/// The result table and the paper's claims, with a line on where they come from.
pub(super) fn markdown(study: &Study) -> String {
    let r = &study.results;
    let names = [&r.recipe, &r.model, &study.header.date];
    let names = names.map(|n| escaped(n));
    let named: Vec<&str> = names
        .iter()
        .map(String::as_str)
        .filter(|n| !n.is_empty())
        .collect();
    let mut parts = vec![format!("## {}", named.join(", "))];
    if !r.rows.is_empty() {
        parts.push("Shares with Wilson 95 % intervals.".into());
        if !r.sample_question.is_empty() {
            parts.push(format!(
                "Question of the samples: {}",
                escaped(&r.sample_question)
            ));
        }
        parts.push(table(&r.grid()));
    }
    if !study.repeats.is_empty() {
        parts.push("### Other seeds".into());
        parts.push("Mean over the seeds, with the least and the largest.".into());
        parts.push(table(&repeats::grid(&study.repeats)));
    }
    if !study.findings.is_empty() {
        parts.push("### The paper's claims".into());
        parts.push(table(&finding::grid(&study.findings)));
    }
    if !study.survival.is_empty() {
        parts.push("### In quantized weights".into());
        parts.push(survival::CAPTION.into());
        parts.push(table(&survival::grid(&study.survival)));
    }
    format!("{}\n", parts.join("\n\n"))
}
