//! Everything a report can show, and its files: one HTML page that fetches nothing, its data,
//! and the tables as Markdown.

use crate::claim::Finding;
use crate::cosine_map::CosineMap;
use crate::curves::{DoseCurve, LossCurve};
use crate::direction::{LayerCosine, ProjectionFigure, ScatterFigure};
use crate::error::{Error, Result};
use crate::failure::StageFailure;
use crate::quantized::QuantizedRow;
use crate::result_table::{ResultTable, SeedRepeats};
use crate::section::Section;
use crate::table::{csv, json};
use crate::words::{LensRow, Sample};
use minijinja::{Environment, context};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The page, which also tells a report from any other directory.
pub const PAGE: &str = "index.html";

/// What stands in the head of every page that this crate writes.
pub const MARK: &str = "<meta name=\"generator\" content=\"reptune\">";

/// How to repeat a run. The names of recipe and model stand in [`ResultTable`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RunHeader {
    /// When, as it is to be printed. The writer asks no clock: same input, same bytes.
    pub date: String,
    /// Versions by name: reptune, mistral.rs, the device.
    pub versions: BTreeMap<String, String>,
    /// Seeds of the run.
    pub seeds: Vec<u64>,
    /// Hashes by the name of what was hashed.
    pub hashes: BTreeMap<String, String>,
}

/// What a run found. A part that is empty is left out of the page.
///
/// A number that is not finite counts as not measured.
///
/// ```
/// use reptune_report::{ModelRow, Outcomes, Report, ResultTable};
///
/// let base = ModelRow {
///     model: "base".into(),
///     claims: Outcomes { positive: 162, negative: 38, unscored: 0 },
///     ..ModelRow::default()
/// };
/// let report = Report {
///     results: ResultTable { recipe: "honesty".into(), rows: vec![base], ..Default::default() },
///     ..Report::default()
/// };
/// assert!(report.markdown().contains("| base | 0.810"));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// When and with what.
    pub header: RunHeader,
    /// The result table, with the names of the behaviour's two sides.
    pub results: ResultTable,
    /// Tunings with other seeds.
    pub repeats: Vec<SeedRepeats>,
    /// The claims of the recipe, and what the run says about them.
    pub findings: Vec<Finding>,
    /// Quantized merges.
    pub quantized: Vec<QuantizedRow>,
    /// Cosine difference by layer and token.
    pub cosine_map: CosineMap,
    /// The direction layer by layer.
    pub layers: Vec<LayerCosine>,
    /// Projections, a panel a layer.
    pub projections: Vec<ProjectionFigure>,
    /// Principal components, a panel a layer.
    pub scatters: Vec<ScatterFigure>,
    /// Logit lens, a row a layer.
    pub lens: Vec<LensRow>,
    /// Losses, a panel a tuning.
    pub losses: Vec<LossCurve>,
    /// Steering doses, panels for each set of layers.
    pub doses: Vec<DoseCurve>,
    /// Generations.
    pub samples: Vec<Sample>,
    /// The text of the recipe file, byte for byte.
    pub recipe: String,
}

impl Report {
    /// The parts that are there, in the order of the page: what is missing, answers, where they
    /// come from.
    fn sections(&self) -> Result<Vec<Section>> {
        let poles = &self.results.poles;
        let parts = [
            StageFailure::section(&self.results.failures),
            self.results.section(),
            self.results.shares(),
            SeedRepeats::section(&self.repeats, poles),
            Finding::section(&self.findings),
            QuantizedRow::section(&self.quantized, poles),
            self.cosine_map.section()?,
            LayerCosine::section(&self.layers),
            ProjectionFigure::section(&self.projections),
            ScatterFigure::section(&self.scatters),
            LensRow::section(&self.lens),
            DoseCurve::section(&self.doses, poles),
            LossCurve::section(&self.losses),
            Sample::section(&self.samples),
        ];
        Ok(parts.into_iter().flatten().collect())
    }

    /// Every file of the report with its content: `index.html`, `recipe.toml` and `data/`.
    ///
    /// The same report gives the same bytes.
    ///
    /// # Errors
    /// When parts do not fit together.
    pub fn files(&self) -> Result<Vec<(PathBuf, Vec<u8>)>> {
        let sections = self.sections()?;
        let page = self.html(&sections).map_err(|e| Error::write("page", e))?;
        let mut files = vec![(PathBuf::from(PAGE), page.into_bytes())];
        if !self.recipe.is_empty() {
            files.push(("recipe.toml".into(), self.recipe.clone().into_bytes()));
        }
        for Section { file, data, .. } in sections.iter().filter(|s| !s.file.is_empty()) {
            let path = |ending: &str| PathBuf::from(format!("data/{file}.{ending}"));
            files.push((path("csv"), csv(file, data)?));
            files.push((path("json"), json(data)));
        }
        Ok(files)
    }

    /// The page. The template's name makes minijinja escape every value.
    fn html(&self, sections: &[Section]) -> std::result::Result<String, minijinja::Error> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.add_filter("class", class);
        environment.add_template(PAGE, include_str!("index.html.jinja"))?;
        environment.get_template(PAGE)?.render(context! {
            style => include_str!("style.css"),
            recipe => self.results.recipe,
            recipe_hash => self.results.recipe_hash,
            model => self.results.model,
            header => self.header,
            recipe_text => self.recipe,
            sections,
        })
    }

    /// The tables of results, seeds, claims and quantized models as Markdown, for documents that
    /// quote them.
    pub fn markdown(&self) -> String {
        let (r, poles) = (&self.results, &self.results.poles);
        let names = [&r.recipe, &r.model, &self.header.date].map(|n| escaped(n));
        let named: Vec<String> = names.into_iter().filter(|n| !n.is_empty()).collect();
        let mut parts = vec![format!("## {}", named.join(", "))];
        if let Some(results) = r.section() {
            parts.push("Shares with Wilson 95 % intervals.".into());
            let question = escaped(&r.sample_question);
            let note = results
                .note
                .map(|_| format!("Question of the samples: {question}"));
            parts.extend(note);
            parts.push(table(&results.table));
        }
        let seeds = "Mean over the seeds, with the least and the largest.";
        let others = [
            (StageFailure::section(&r.failures), None),
            (SeedRepeats::section(&self.repeats, poles), Some(seeds)),
            (Finding::section(&self.findings), None),
            (QuantizedRow::section(&self.quantized, poles), None),
        ];
        for (section, caption) in others {
            let Some(section) = section else { continue };
            parts.push(format!("### {}", section.title));
            parts.extend(caption.map(str::to_owned).or(section.note));
            parts.push(table(&section.table));
        }
        format!("{}\n", parts.join("\n\n"))
    }
}

/// The class of a table's cell: short ones that begin with a digit are numbers and must not wrap.
fn class(text: &str) -> &'static str {
    let digits = text.trim_start_matches(['-', '+', '.']);
    let number = digits.starts_with(|c: char| c.is_ascii_digit());
    match number && text.chars().count() < 24 {
        true => "number",
        false => "text",
    }
}

/// Markdown of a cell that can do no harm to the table or the page around it.
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

/// A table in Markdown.
fn table(rows: &[Vec<String>]) -> String {
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().map(|c| escaped(c)).collect();
        format!("| {} |", cells.join(" | "))
    };
    let mut lines: Vec<String> = rows.iter().map(line).collect();
    let columns = rows.first().map_or(0, Vec::len);
    lines.insert(1, format!("|{}", " --- |".repeat(columns)));
    lines.join("\n")
}
