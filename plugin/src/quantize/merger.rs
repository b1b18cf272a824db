//! Merging an update into quantized weights with any of the roundings that recipes name.

use super::delta::QuantizedReport;
use super::quantized_merge::{ErrorCompensation, QuantizedMerge};
use super::types::WeightTypes;
use crate::decoder::{Llama, LoadOptions};
use crate::error::Result;
use crate::model::Source;
use crate::model::uqff::WeightType;
use reptune_adapters::{Adapter, Error, HookedModel, files::Staging};
use reptune_recipes::recipe::MergeRounding;
use std::path::Path;

/// Tunes the update again on a quantized base.
pub type Retuner<'a> = &'a dyn Fn(&dyn HookedModel) -> Result<Adapter>;

/// Merges one update into one model.
pub struct Merger<'a> {
    /// The base.
    pub source: &'a Source,
    /// The update, tuned on it.
    pub update: &'a Adapter,
    /// Prompts on which the inputs of the layers are measured.
    pub calibration: &'a [Vec<u32>],
    /// How much larger `mixed` may make the file, as a share.
    pub growth: f64,
    /// Tunes again, for `retuned` and `unquantized`.
    pub retuner: Option<Retuner<'a>>,
}

impl Merger<'_> {
    /// Writes the UQFF directory `out` with weights of the type `wanted`, or, for none, of
    /// the types that they have. `progress` is called after each block with the number of
    /// blocks that are done, and of all.
    ///
    /// # Errors
    /// Those of [`QuantizedMerge::write`]; when a rounding that tunes has no retuner.
    pub fn write(
        &self,
        rounding: MergeRounding,
        wanted: Option<WeightType>,
        out: &Path,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<QuantizedReport> {
        let mut types = WeightTypes::all(wanted);
        let compensation = match rounding {
            MergeRounding::Nearest => ErrorCompensation::None,
            MergeRounding::BiasCorrected => ErrorCompensation::Bias,
            MergeRounding::Gptq => ErrorCompensation::Feedback,
            MergeRounding::Mixed => {
                let staging = Staging::new(out)?;
                let nearest = staging.path().join("nearest");
                let plain = self.write(MergeRounding::Nearest, wanted, &nearest, progress)?;
                let size = (plain.bytes, self.growth);
                types = WeightTypes::mixed(wanted, &plain.modules, &self.source.spec, size);
                ErrorCompensation::Feedback
            }
            MergeRounding::Retuned | MergeRounding::Unquantized => {
                return self.retuned(rounding, wanted, out, progress);
            }
        };
        let merge = QuantizedMerge {
            source: self.source,
            update: self.update,
            types,
            compensation,
            calibration: self.calibration,
        };
        merge.write(out, progress)
    }

    fn retuned(
        &self,
        rounding: MergeRounding,
        wanted: Option<WeightType>,
        out: &Path,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<QuantizedReport> {
        let Some(retune) = self.retuner else {
            let expected = "a recipe with the mode that was tuned";
            let hint = "run the recipe with a [retention] table, or choose another rounding";
            return Err(Error::value("rounding", expected, format!("`{rounding}`"), hint).into());
        };
        let staging = Staging::new(out)?;
        let base = staging.path().join("base");
        let untuned = Merger {
            update: &Adapter::default(),
            ..*self
        };
        untuned.write(MergeRounding::Gptq, wanted, &base, progress)?;
        let update = retune(&Llama::load(&base, LoadOptions::default())?)?;
        let mut types = WeightTypes::all(None);
        if rounding == MergeRounding::Unquantized {
            let modules = update.modules.keys().map(|m| (*m, WeightType::F32));
            types.modules = modules.collect();
        }
        let merge = QuantizedMerge {
            source: &Source::open(&base)?,
            update: &update,
            types,
            compensation: ErrorCompensation::Feedback,
            calibration: self.calibration,
        };
        merge.write(out, progress)
    }
}
