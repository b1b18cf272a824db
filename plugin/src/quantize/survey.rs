//! Rows of the table of quantized models: models measured on the recipe's own test items.

use super::exam::Exam;
use super::survival::{QuantizedReport, Survival};
use crate::error::Result;
use crate::session::Session;
use reptune_adapters::{Adapter, DirectionSet, HookedModel};
use reptune_recipes::evaluate::{ClaimScores, OwnForward};
use reptune_recipes::generate::Generation;
use reptune_report::QuantizedRow;

/// A model with what changes it.
pub type Subject<'a> = (&'a dyn HookedModel, Option<&'a Adapter>);

/// Measures models on the test items of a recipe.
pub struct Survey<'a> {
    session: &'a Session,
    exam: Exam<'a>,
    base: ClaimScores,
}

impl<'a> Survey<'a> {
    /// A survey of descendants of the recipe's model.
    ///
    /// # Errors
    /// When the model fails.
    pub fn new(session: &'a Session, directions: Option<&'a DirectionSet>) -> Result<Self> {
        let exam = Exam::new(session, &session.items.test, directions)?;
        let base = exam.grade((&session.llama, None), None)?.behaviour;
        Ok(Self {
            session,
            exam,
            base,
        })
    }

    /// The row of an unquantized model: the base, or the base tuned.
    ///
    /// # Errors
    /// When the model fails.
    pub fn unquantized(&self, model: &str, adapter: Option<&Adapter>) -> Result<QuantizedRow> {
        let subject: Subject = (&self.session.llama, adapter);
        let reference: Subject = (&self.session.llama, None);
        let mut row = self.row(model, subject, reference, adapter.map(|_| subject))?;
        row.bits = 32.;
        let weights = row.bytes;
        row.bytes = 4 * weights;
        Ok(row)
    }

    /// The row of `merged`, which was written as `report` says; `tuned` is the update of
    /// the unquantized model that it comes from, if it is not the base.
    ///
    /// # Errors
    /// When the model fails.
    pub fn quantized(
        &self,
        model: &str,
        merged: &dyn HookedModel,
        tuned: Option<&Adapter>,
        report: &QuantizedReport,
    ) -> Result<QuantizedRow> {
        let reference: Subject = (&self.session.llama, tuned);
        let whole = tuned.map(|_| reference);
        let row = self.row(model, (merged, None), reference, whole)?;
        let mean = |f: &dyn Fn(&Survival) -> Option<f64>| -> Option<f64> {
            let values: Vec<f64> = report.modules.values().map(f).collect::<Option<_>>()?;
            let n = values.len();
            (n > 0).then(|| values.into_iter().sum::<f64>() / n as f64)
        };
        let types = report.types.iter().map(|(t, n)| format!("{t} x {n}"));
        Ok(QuantizedRow {
            types: types.collect::<Vec<_>>().join(", "),
            bits: report.bits,
            bytes: report.bytes,
            delta_cosine: mean(&|s| Some(s.cosine)),
            delta_norm: mean(&|s| Some(s.share)),
            noise: mean(&|s| s.noise),
            ..row
        })
    }

    fn row(
        &self,
        model: &str,
        (host, adapter): Subject,
        reference: Subject,
        whole: Option<Subject>,
    ) -> Result<QuantizedRow> {
        let session = self.session;
        let own = OwnForward {
            model: host,
            chat: &session.chat,
            how: Generation {
                adapter,
                ..Generation::default()
            },
        };
        let answers = session.measure(model, &own, &session.plain(), &mut |_| {})?;
        let grade = self.exam.grade((host, adapter), Some(reference))?;
        let effect_retained = match whole {
            Some(whole) => {
                let whole = self.exam.grade(whole, None)?.behaviour;
                grade.behaviour.effect_retained(&self.base, &whole)
            }
            None => None,
        };
        let spec = host.spec();
        let blocks: usize = reptune_adapters::model::ModuleKind::ALL
            .iter()
            .map(|p| p.shape(spec))
            .map(|(o, i)| o * i)
            .sum();
        Ok(QuantizedRow {
            model: model.to_owned(),
            bytes: (blocks * spec.layers + spec.vocab * spec.hidden) as u64,
            claims: answers.row.claims,
            choices: answers.row.choices,
            balance: grade.behaviour.balance,
            log_odds: grade.behaviour.log_odds,
            effect_retained,
            cosine: grade.cosine,
            divergence: grade.divergence,
            ..QuantizedRow::default()
        })
    }
}
