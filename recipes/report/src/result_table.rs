//! The result of a run: one row per model, as an aligned table, as cells and as JSON.

use crate::aligned::aligned;
use crate::measure::Measure;
use crate::model_row::ModelRow;
use crate::outcomes::{Poles, share};
use crate::section::Section;
use crate::table::{Column, Grid};
use serde::{Deserialize, Serialize};
use std::fmt;

/// All models of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ResultTable {
    /// Name of the recipe.
    pub recipe: String,
    /// SHA-256 of the recipe.
    pub recipe_hash: String,
    /// Name of the model.
    pub model: String,
    /// What the two sides of the behaviour are called.
    #[serde(default)]
    pub poles: Poles,
    /// The question whose answers are shown as samples.
    pub sample_question: String,
    /// A row for each model.
    pub rows: Vec<ModelRow>,
}

fn p_value(p: f64) -> String {
    match p < 0.001 {
        true => "<.001".into(),
        false => format!("{p:.3}"),
    }
}

impl ResultTable {
    fn columns(&self) -> Vec<Column<ModelRow>> {
        let poles = &self.poles;
        let judged = |r: &ModelRow| {
            let j = r.judged.as_ref()?;
            let text = format!("{}/{}/{}", j.second, j.tie, j.first);
            Some((text, vec![share(j.second, j.n).into()]))
        };
        let mut columns = vec![Column::text("model", "model", |r: &ModelRow| {
            r.model.clone()
        })];
        columns.extend(Column::outcomes(
            ("claims", "claims"),
            poles,
            |r: &ModelRow| Some(r.claims),
        ));
        columns.extend(Column::outcomes(
            ("two-choice", "choices"),
            poles,
            |r: &ModelRow| r.choices,
        ));
        columns.extend([
            Measure::LogOdds.column(poles),
            Column::number("p vs base", "p_versus_base", p_value, |r: &ModelRow| {
                Some(r.versus_base.as_ref()?.test.p)
            }),
            Measure::Perplexity.column(poles),
            Measure::Divergence.column(poles),
            Column::new("judged better/tie/worse", &["judged_better_share"], judged),
            Column::text("sample", "sample", |r: &ModelRow| r.sample.clone()),
        ]);
        columns
    }

    /// The table for people.
    pub(crate) fn grid(&self) -> Grid {
        Grid::new(&self.columns(), &self.rows)
    }

    /// The table as a part of the page.
    pub(crate) fn section(&self) -> Option<Section> {
        let section = Section::new(
            "results",
            "Results",
            "Shares with Wilson 95 % intervals. Look for models whose intervals do not overlap.",
        );
        let question = &self.sample_question;
        Section {
            note: (!question.is_empty()).then(|| format!("Question of the samples: {question}")),
            ..section
        }
        .table(&self.columns(), &self.rows)
    }
}

impl fmt::Display for ResultTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (recipe, model) = (&self.recipe, &self.model);
        writeln!(f, "{recipe}: {model} (shares with Wilson 95 % intervals)")?;
        writeln!(f, "sample: {}\n", self.sample_question)?;
        write!(f, "{}", aligned(&self.grid().lines()))
    }
}
