//! Merging an update into quantized weights with any of the roundings that recipes name.

use super::delta::QuantizedReport;
use super::merge::{ErrorCompensation, QuantizedMerge};
use super::types::WeightTypes;
use crate::decoder::{Llama, LoadOptions};
use crate::error::Result;
use crate::model::Source;
use crate::model::uqff::WeightType;
use crate::session::Session;
use reptune_adapters::{Adapter, Error, HookedModel};
use reptune_recipes::Message;
use reptune_recipes::data::claim_question;
use reptune_recipes::recipe::MergeRounding;
use std::path::Path;

/// The most claims that are used for calibration.
const CLAIMS: usize = 256;

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
        let compensation = match rounding {
            MergeRounding::Nearest => ErrorCompensation::None,
            MergeRounding::BiasCorrected => ErrorCompensation::Bias,
            _ => ErrorCompensation::Feedback,
        };
        let (source, update) = match rounding {
            MergeRounding::Retuned | MergeRounding::Unquantized => {
                return self.retuned(rounding, wanted, out, progress);
            }
            _ => (self.source, self.update),
        };
        let types = match rounding {
            MergeRounding::Mixed => {
                let temporary = temporary_near(out)?;
                let nearest = temporary.path().join("nearest");
                let plain = self.write(MergeRounding::Nearest, wanted, &nearest, progress)?;
                let size = (plain.bytes, self.growth);
                WeightTypes::mixed(wanted, &plain.modules, &source.spec, size)
            }
            _ => WeightTypes::all(wanted),
        };
        let merge = QuantizedMerge {
            source,
            update,
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
            return Err(Error::value(
                "rounding",
                "a recipe with the mode that was tuned",
                format!("`{rounding}`"),
                "run the recipe with a [retention] table, or choose another rounding",
            )
            .into());
        };
        let temporary = temporary_near(out)?;
        let base = temporary.path().join("base");
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

/// A temporary directory on the same disk as `out`.
fn temporary_near(out: &Path) -> Result<tempfile::TempDir> {
    let parent = match out.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    let made = std::fs::create_dir_all(parent).and_then(|_| {
        tempfile::Builder::new()
            .prefix(".reptune-")
            .tempdir_in(parent)
    });
    made.map_err(|e| Error::write(parent, e).into())
}

/// The calibration prompts of a recipe: its training claims, as questions and as bare
/// sentences.
///
/// # Errors
/// When the template fails.
pub fn calibration(session: &Session) -> Result<Vec<Vec<u32>>> {
    let (chat, recipe) = (&session.chat, &session.recipe);
    let mut prompts = Vec::new();
    for claim in session.items.train.iter().take(CLAIMS) {
        let question = claim_question(recipe, claim);
        let messages = Message::conversation(&recipe.prompt.system, &question.text);
        prompts.push(chat.prompt(&messages)?);
        prompts.push(chat.encode(&claim.text)?);
    }
    let context = session.llama.spec().context;
    prompts.retain(|p| !p.is_empty() && p.len() <= context);
    Ok(prompts)
}
