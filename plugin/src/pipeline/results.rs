//! The models that a run compares, and what they answer.

use super::run::Tuned;
use crate::progress::Progress;
use crate::runtime::Engine;
use crate::session::{Coeffs, Measured, Session};
use reptune_adapters::DirectionSet;
use reptune_recipes::evaluate::{Answerer, Judge};
use reptune_report::{Comparison, ModelRow, Verdict};
use std::path::{Path, PathBuf};

/// What the stages of a run made.
pub struct Models<'a> {
    pub steering: &'a DirectionSet,
    pub coeffs: &'a Coeffs,
    /// With the directory of the merged model.
    pub tuned: &'a [Tuned],
    /// With the coeff.
    pub baked: &'a [(f64, PathBuf)],
}

impl Models<'_> {
    /// Measures every model and compares it, and those of `more`, with the base, which
    /// comes first; the judge's replies are kept in the file `judge`.
    pub fn rows(
        &self,
        session: &Session,
        more: Vec<Measured>,
        judge: &Path,
    ) -> crate::Result<Vec<ModelRow>> {
        let mut measured = self.measure(session)?;
        self.judge(session, &mut measured, judge)?;
        measured.extend(more);
        let base = measured.first().cloned();
        let mut rows = Vec::new();
        for (i, m) in measured.into_iter().enumerate() {
            let mut row = m.row;
            if let (Some(base), true) = (&base, i > 0) {
                let versus = compared(base, &row, &m.odds);
                row.versus_base = Some(versus.map_err(reptune_recipes::Error::from)?);
            }
            rows.push(row);
        }
        Ok(rows)
    }

    fn measure(&self, session: &Session) -> crate::Result<Vec<Measured>> {
        let behaviour = &session.recipe.behaviour;
        let questions = session.items.test.len() + session.items.choices.len();
        let models = 5 + 2 * self.tuned.len() + self.baked.len();
        let shown = Progress::new("evaluate", questions * models);
        let mut all: Vec<Measured> = Vec::new();
        let mut ask = |name: &str, answerer: &dyn Answerer, systems: &[String]| {
            let from = all.len() * questions;
            shown.message(format!("evaluate {name}"));
            let mut progress = |done| shown.set(from + done);
            let mut measured = session.measure(name, answerer, systems, &mut progress)?;
            measured.open = session.open_answers(answerer, systems)?;
            all.push(measured);
            crate::Result::Ok(())
        };
        let plain = session.plain();
        let own = session.own(&[], None);
        ask("base", &own, &plain)?;
        ask("prompted, positive", &own, &behaviour.positive)?;
        ask("prompted, negative", &own, &behaviour.negative)?;
        for coeff in [self.coeffs.positive, self.coeffs.negative] {
            let steering = [session.steering(self.steering, coeff)?];
            let name = format!("steered {}", session.dose(self.steering, coeff));
            ask(&name, &session.own(&steering, None), &plain)?;
        }
        for (mode, update, merged) in self.tuned {
            let own = session.own(&[], Some(update));
            ask(&format!("tuned {mode}"), &own, &plain)?;
            let stock = Engine::load(merged, None)?;
            ask(&format!("merged {mode}, stock mistral.rs"), &stock, &plain)?;
        }
        for (coeff, directory) in self.baked {
            let dose = session.dose(self.steering, *coeff);
            let stock = Engine::load(directory, None)?;
            ask(&format!("baked {dose}, stock mistral.rs"), &stock, &plain)?;
        }
        Ok(all)
    }

    /// Has the open answers of every model judged beside those of the base.
    fn judge(&self, session: &Session, all: &mut [Measured], cache: &Path) -> crate::Result<()> {
        let evaluation = &session.recipe.evaluation;
        let (Some(open), Some(settings)) = (&evaluation.open_ended, &evaluation.judge) else {
            return Ok(());
        };
        let questions = session.open_questions()?;
        let mut judge = Judge::new(settings, &open.criterion, cache)?;
        let Some((base, others)) = all.split_first_mut() else {
            return Ok(());
        };
        let shown = Progress::new("judge", questions.len() * others.len());
        for (i, other) in others.iter_mut().enumerate() {
            let from = i * questions.len();
            let mut progress = |done| shown.set(from + done);
            let said = judge.compare_all(&questions, &base.open, &other.open, &mut progress)?;
            other.row.judged = Some(said);
        }
        Ok(())
    }
}

/// Positive answers of `row` to the test claims, compared with those of the base.
fn compared(base: &Measured, row: &ModelRow, odds: &[f64]) -> reptune_report::Result<Comparison> {
    let before = &base.row.claim_verdicts;
    let versus = Comparison::of(before, &row.claim_verdicts, Verdict::Positive)?;
    match odds.len() == base.odds.len() {
        true => versus.with_log_odds(&base.odds, odds),
        false => Ok(versus),
    }
}
