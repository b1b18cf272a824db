//! The ways to merge a tuned update into quantized weights, as recipes name them.

use super::merge::{ErrorCompensation, QuantizedMerge};
use super::survival::QuantizedReport;
use super::types::Types;
use crate::decoder::{Llama, LoadOptions};
use crate::error::Result;
use crate::model::Source;
use crate::model::uqff::WeightType;
use crate::session::Session;
use reptune_adapters::{Adapter, HookedModel};
use reptune_recipes::Message;
use reptune_recipes::data::claim_question;
use reptune_recipes::recipe::MergeRounding;
use std::path::Path;

/// Most claims that are used to calibrate.
const CLAIMS: usize = 256;

/// Tunes the update anew on a quantized base.
pub type Retuner<'a> = &'a dyn Fn(&dyn HookedModel) -> Result<Adapter>;

/// What the ways start from.
pub struct Ways<'a> {
    /// The base.
    pub source: &'a Source,
    /// The update, tuned on it.
    pub update: &'a Adapter,
    /// Prompts that show what the layers read.
    pub calibration: &'a [Vec<u32>],
    /// How much larger `kept` may make the file, as a share.
    pub growth: f64,
    /// For the ways that tune again.
    pub retuner: Option<Retuner<'a>>,
}

impl Ways<'_> {
    /// Writes `out`, a UQFF directory whose weights are of the type `wanted`, or, for
    /// none, of those that they have already.
    ///
    /// # Errors
    /// Those of [`QuantizedMerge::write`]; when a way that tunes has nothing to tune with.
    pub fn write(
        &self,
        way: MergeRounding,
        wanted: Option<WeightType>,
        out: &Path,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<QuantizedReport> {
        let all = Types::all(wanted);
        match way {
            MergeRounding::Nearest => self
                .merge(all, ErrorCompensation::None)
                .write(out, progress),
            MergeRounding::BiasCorrected => self
                .merge(all, ErrorCompensation::Bias)
                .write(out, progress),
            MergeRounding::Gptq => self
                .merge(all, ErrorCompensation::Feedback)
                .write(out, progress),
            MergeRounding::Mixed => {
                let room = beside(out)?;
                let plain = self
                    .merge(all, ErrorCompensation::None)
                    .write(&room.path().join("plain"), progress)?;
                let size = (plain.bytes, self.growth);
                let types = Types::keep(wanted, &plain.modules, &self.source.spec, size);
                self.merge(types, ErrorCompensation::Feedback)
                    .write(out, progress)
            }
            MergeRounding::Retuned | MergeRounding::Unquantized => {
                self.retuned(way, wanted, out, progress)
            }
        }
    }

    fn merge(&self, types: Types, way: ErrorCompensation) -> QuantizedMerge<'_> {
        QuantizedMerge {
            source: self.source,
            update: self.update,
            types,
            way,
            calibration: self.calibration,
        }
    }

    fn retuned(
        &self,
        way: MergeRounding,
        wanted: Option<WeightType>,
        out: &Path,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<QuantizedReport> {
        let Some(retune) = self.retuner else {
            return Err(reptune_adapters::Error::value(
                "way",
                "a recipe with the mode that was tuned",
                format!("`{way}`"),
                "run the recipe with a [survival] table, or choose another way",
            )
            .into());
        };
        let room = beside(out)?;
        let base = room.path().join("base");
        let none = Adapter::default();
        let quantize = QuantizedMerge {
            update: &none,
            ..self.merge(Types::all(wanted), ErrorCompensation::Feedback)
        };
        quantize.write(&base, progress)?;
        let update = retune(&Llama::load(&base, LoadOptions::default())?)?;
        let mut types = Types::all(None);
        if way == MergeRounding::Unquantized {
            let modules = update.modules.keys().map(|s| (*s, WeightType::F32));
            types.modules = modules.collect();
        }
        let merge = QuantizedMerge {
            source: &Source::open(&base)?,
            update: &update,
            types,
            way: ErrorCompensation::Feedback,
            calibration: self.calibration,
        };
        merge.write(out, progress)
    }
}

/// A room for what is needed on the way, on the disk of `out`.
fn beside(out: &Path) -> Result<tempfile::TempDir> {
    let parent = match out.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    let room = std::fs::create_dir_all(parent).and_then(|_| {
        tempfile::Builder::new()
            .prefix(".reptune-")
            .tempdir_in(parent)
    });
    room.map_err(|e| reptune_adapters::Error::write(parent, e).into())
}

/// The prompts that show what layers read: training claims as they are asked, and as
/// bare sentences.
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
