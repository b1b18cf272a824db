//! The rows of the table of quantized models, measured on the recipe's test items, and the
//! prompts that calibrate a merge.

use crate::error::Result;
use crate::quantize::{QuantizedReport, RetentionCheck, RoundedModule};
use crate::session::Session;
use reptune_adapters::model::ModuleKind;
use reptune_adapters::{Adapter, DirectionSet, HookedModel};
use reptune_recipes::evaluate::{ClaimScores, OwnForward};
use reptune_recipes::generate::Generation;
use reptune_recipes::score::ModelVariant;
use reptune_report::QuantizedRow;

/// Measures the recipe's model, tuned and quantized, on the recipe's test items.
pub struct MergeEvaluator<'a> {
    session: &'a Session,
    check: RetentionCheck<'a>,
    base: ClaimScores,
}

impl<'a> MergeEvaluator<'a> {
    /// Measures the base.
    ///
    /// # Errors
    /// When the model fails.
    pub fn new(session: &'a Session, directions: Option<&'a DirectionSet>) -> Result<Self> {
        let (chat, recipe, claims) = (&session.chat, &session.recipe, &session.items.test);
        let check = RetentionCheck::new(chat, recipe, claims, directions)?;
        let base = check.scores(&ModelVariant::base(&session.llama), None)?;
        Ok(Self {
            session,
            check,
            base: base.behaviour,
        })
    }

    /// The row of the unquantized base, or of the base under `adapter`.
    ///
    /// # Errors
    /// When the model fails.
    pub fn unquantized(&self, name: &str, adapter: Option<&Adapter>) -> Result<QuantizedRow> {
        let model = self.unmerged(adapter);
        let reference = self.unmerged(None);
        let row = self.row(name, &model, &reference, adapter.map(|_| &model))?;
        Ok(QuantizedRow {
            bits: 32.,
            bytes: 4 * weights(&self.session.llama),
            ..row
        })
    }

    /// The row of `merged`, which was written as `report` says. `tuned` is the update of the
    /// unquantized model that it comes from; none for the base.
    ///
    /// # Errors
    /// When the model fails.
    pub fn quantized(
        &self,
        name: &str,
        merged: &dyn HookedModel,
        tuned: Option<&Adapter>,
        report: &QuantizedReport,
    ) -> Result<QuantizedRow> {
        let reference = self.unmerged(tuned);
        let whole = tuned.map(|_| &reference);
        let row = self.row(name, &ModelVariant::base(merged), &reference, whole)?;
        let mean = |f: &dyn Fn(&RoundedModule) -> Option<f64>| -> Option<f64> {
            let values: Vec<f64> = report.modules.values().map(f).collect::<Option<_>>()?;
            let n = values.len();
            (n > 0).then(|| values.into_iter().sum::<f64>() / n as f64)
        };
        let types = report.types.iter().map(|(t, n)| format!("{t} x {n}"));
        Ok(QuantizedRow {
            types: types.collect::<Vec<_>>().join(", "),
            bits: report.bits,
            bytes: report.bytes,
            delta_cosine: mean(&|m| Some(m.cosine)),
            delta_norm: mean(&|m| Some(m.share)),
            noise: mean(&|m| m.noise),
            ..row
        })
    }

    /// The recipe's model under `adapter`.
    fn unmerged<'b>(&'b self, adapter: Option<&'b Adapter>) -> ModelVariant<'b> {
        ModelVariant {
            adapter,
            ..ModelVariant::base(&self.session.llama)
        }
    }

    /// What is measured of any model. `whole` is the model that has the whole effect.
    fn row(
        &self,
        name: &str,
        model: &ModelVariant,
        reference: &ModelVariant,
        whole: Option<&ModelVariant>,
    ) -> Result<QuantizedRow> {
        let session = self.session;
        let how = Generation {
            adapter: model.adapter,
            ..Generation::default()
        };
        let own = OwnForward {
            model: model.model,
            chat: &session.chat,
            how,
        };
        let answers = session.measure(name, &own, &session.plain(), &mut |_| {})?;
        let scores = self.check.scores(model, Some(reference))?;
        let whole = whole.map(|whole| self.check.scores(whole, None));
        let effect_retained = (whole.transpose()?).and_then(|whole| {
            scores
                .behaviour
                .effect_retained(&self.base, &whole.behaviour)
        });
        Ok(QuantizedRow {
            model: name.to_owned(),
            claims: answers.row.claims,
            choices: answers.row.choices,
            balance: scores.behaviour.balance,
            log_odds: scores.behaviour.log_odds,
            effect_retained,
            cosine: scores.cosine,
            divergence: scores.divergence,
            ..QuantizedRow::default()
        })
    }
}

/// The number of weights in the linear layers and the output head.
fn weights(model: &dyn HookedModel) -> u64 {
    let spec = model.spec();
    let shapes = ModuleKind::ALL.map(|kind| kind.shape(spec));
    let block: usize = shapes.iter().map(|(o, i)| o * i).sum();
    (block * spec.layers + spec.vocab * spec.hidden) as u64
}
