//! The result of a run, one row per model: as an aligned table, as parts of the page with a
//! figure, and over several seeds.

use crate::canvas::{Anchor, Ink, WIDTH, draw};
use crate::failure::StageFailure;
use crate::model_row::{Measure, ModelRow};
use crate::number::fixed;
use crate::outcomes::{Outcomes, Poles, Verdict};
use crate::section::{Plot, Section};
use crate::table::{Cell, Column, aligned, grid};
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
    /// What is missing because it failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<StageFailure>,
}

impl ResultTable {
    fn columns(&self) -> Vec<Column<ModelRow>> {
        let poles = &self.poles;
        let p_value = |p: f64| match p < 0.001 {
            true => "<.001".into(),
            false => format!("{p:.3}"),
        };
        let measured = |measure: Measure| measure.column(poles, move |r| measure.of(r));
        let versus_base = |r: &ModelRow| Some(r.versus_base.as_ref()?.test.p);
        let judged = |r: &ModelRow| {
            let j = r.judged.as_ref()?;
            let text = format!("{}/{}/{}", j.second, j.tie, j.first);
            Some((text, vec![(j.second as f64 / j.n.max(1) as f64).into()]))
        };
        let claims = |r: &ModelRow| Some(r.claims);
        let choices = |r: &ModelRow| r.choices;
        let mut columns = vec![Column::plain("model", "model", |r: &ModelRow| {
            Some(r.model.clone())
        })];
        columns.extend(Column::outcomes(("claims", "claims"), poles, claims));
        columns.extend(Column::outcomes(("two-choice", "choices"), poles, choices));
        columns.extend([
            measured(Measure::LogOdds),
            Column::number("p vs base", "p_versus_base", p_value, versus_base),
            measured(Measure::Perplexity),
            measured(Measure::Divergence),
            Column::new("judged better/tie/worse", ["judged_better_share"], judged),
            Column::plain("sample", "sample", |r: &ModelRow| Some(r.sample.clone())),
        ]);
        columns
    }

    /// The table as a part of the page.
    pub(crate) fn section(&self) -> Option<Section> {
        let question = &self.sample_question;
        Section {
            note: (!question.is_empty()).then(|| format!("Question of the samples: {question}")),
            ..Section::new("results", "Results")
        }
        .table(&self.columns(), &self.rows)
    }

    /// The part of the page with bars: a panel for each set of questions.
    pub(crate) fn shares(&self) -> Option<Section> {
        let rows = self.rows.iter();
        let claims: Vec<_> = rows.clone().map(|r| (r.model.as_str(), r.claims)).collect();
        let choices = rows.filter_map(|r| Some((r.model.as_str(), r.choices?)));
        let sets = [
            ("Claims", claims),
            ("Two-choice questions", choices.collect()),
        ];
        let plots = sets.into_iter().filter(|s| !s.1.is_empty());
        Section::new("shares", "Answers by model")
            .sides(&self.poles.positive, &self.poles.negative)
            .plots(plots.map(|(title, bars)| panel(title, &bars)).collect())
    }
}

impl fmt::Display for ResultTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (recipe, model) = (&self.recipe, &self.model);
        writeln!(f, "{recipe}: {model} (shares with Wilson 95 % intervals)")?;
        writeln!(f, "sample: {}\n", self.sample_question)?;
        f.write_str(&aligned(&grid(&self.columns(), &self.rows)))?;
        if !self.failures.is_empty() {
            f.write_str("\n\nfailed stages:")?;
        }
        let mut failures = self.failures.iter();
        failures.try_for_each(|failure| write!(f, "\n  {failure}"))
    }
}

/// Two bars a model under its name: names are long, and a phone is narrow.
fn panel(title: &str, bars: &[(&str, Outcomes)]) -> Plot {
    const LEFT: i32 = 4;
    const RIGHT: i32 = WIDTH - 40;
    const TOP: i32 = 6;
    const EACH: i32 = 46;
    let bottom = TOP + EACH * bars.len() as i32;
    let x = |share: f64| LEFT + (share * f64::from(RIGHT - LEFT)).round() as i32;
    let svg = draw(title, bottom + 24, |canvas| {
        for share in [0., 0.25, 0.5, 0.75, 1.] {
            canvas.line(&[(x(share), TOP), (x(share), bottom)], Ink::GRID, 1., 1);
            let anchor = match share == 0. {
                true => Anchor::START,
                false => Anchor::MIDDLE,
            };
            let label = fixed(share, 2);
            canvas.text(&label, (x(share), bottom + 12), Ink::FAINT, anchor);
        }
        for (i, (model, outcomes)) in bars.iter().enumerate() {
            let top = TOP + EACH * i as i32;
            canvas.text(&shortened(model), (LEFT, top + 8), Ink::TEXT, Anchor::START);
            for (y, verdict, ink) in [
                (top + 17, Verdict::Positive, Ink::POSITIVE),
                (top + 30, Verdict::Negative, Ink::NEGATIVE),
            ] {
                let (share, (low, high)) = (outcomes.share(verdict), outcomes.interval(verdict));
                let bar = [(x(0.), y), (x(share), y + 11)];
                canvas.rectangle(bar, &ink.fill(), 0.6);
                canvas.line(&[(x(low), y + 5), (x(high), y + 5)], Ink::TEXT, 1., 1);
                for end in [low, high] {
                    canvas.line(&[(x(end), y + 2), (x(end), y + 9)], Ink::TEXT, 1., 1);
                }
                let label = fixed(share, 3);
                canvas.text(&label, (WIDTH - 2, y + 6), Ink::FAINT, Anchor::END);
            }
        }
    });
    (title.into(), svg)
}

/// A name that fits the width.
fn shortened(name: &str) -> String {
    const FITS: usize = 50;
    match name.chars().count() > FITS {
        true => name.chars().take(FITS - 1).chain(['\u{2026}']).collect(),
        false => name.to_owned(),
    }
}

/// One model, tuned once for each seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeedRepeats {
    /// The model, as its row in the result table is called: `tuned in- & lie`.
    pub model: String,
    /// What each seed gave, in the order of the seeds.
    pub rows: Vec<ModelRow>,
}

impl SeedRepeats {
    /// Mean, least and largest over the seeds.
    fn spread(&self, measure: Measure) -> Option<[f64; 3]> {
        let values = self.rows.iter().map(|r| measure.of(r));
        let values: Vec<f64> = values.collect::<Option<_>>()?;
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let least = values.iter().copied().reduce(f64::min)?;
        let largest = values.iter().copied().reduce(f64::max)?;
        Some([mean, least, largest])
    }

    pub(crate) fn section(all: &[Self], poles: &Poles) -> Option<Section> {
        let mut columns = vec![
            Column::plain("model", "model", |r: &Self| Some(r.model.clone())),
            Column::plain("seeds", "seeds", |r: &Self| Some(r.rows.len())),
        ];
        columns.extend(Measure::REPEATED.map(|measure| {
            let names = ["mean", "least", "largest"].map(|x| format!("{}_{x}", measure.name()));
            Column::new(&measure.heading(poles), names, move |r: &Self| {
                let spread = r.spread(measure)?;
                let [mean, least, largest] = spread;
                let text = format!("{mean:.3} ({least:.3} to {largest:.3})");
                Some((text, spread.map(Cell::from).to_vec()))
            })
        }));
        Section::new("repeats", "Other seeds").table(&columns, all)
    }
}
