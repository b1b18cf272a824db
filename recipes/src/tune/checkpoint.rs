//! A run as it stands after some steps, on disk: enough to go on bit for bit; and when it ends
//! before its last epoch.
//!
//! One safetensors file in the directory of `metrics.jsonl`: `now.{module}.{factor}`, the
//! moments of AdamW as `first.` and `second.`, the best update so far as `best.`; and as
//! metadata the step, the state of the early stop, the length of the metrics and
//! what the run is made of. The order of the batches follows from the seed.

use super::metrics::Mark;
use crate::error::{Error, Result};
use crate::recipe::EarlyStop;
use candle_core::Tensor;
use reptune_adapters::formats::tables::{self, CONTENT_HASH, Metadata, Tables};
use reptune_adapters::lora::adamw::{AdamW, Moments};
use reptune_adapters::lora::delta_file;
use reptune_adapters::{Adapter, ModelSpec};
use serde::{Deserialize, Serialize};
use std::{collections::VecDeque, path::Path};

const FORMAT: &str = "reptune.checkpoint.1";

/// A run between two steps.
pub(super) struct Checkpoint {
    pub update: Adapter,
    pub moments: Vec<Moments>,
    pub state: State,
}

/// What of it is no tensor.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct State {
    /// Hash of what the run is made of.
    pub run: String,
    /// Steps done.
    pub steps: usize,
    pub metrics: Mark,
    #[serde(flatten)]
    pub watch: Watch,
}

/// Writes a checkpoint, whole or not at all.
pub(super) fn write(path: &Path, state: &State, update: &Adapter, optimizer: &AdamW) -> Result<()> {
    let moments: Vec<&Moments> = optimizer.moments().collect();
    let like = |part: fn(&Moments) -> &Tensor| {
        let mut like = update.clone();
        let factors = like.modules.values_mut().flat_map(|l| l.factors_mut());
        for ((_, factor), m) in factors.zip(&moments) {
            *factor = part(m).clone();
        }
        like
    };
    let (first, second) = (like(|m| &m.first), like(|m| &m.second));
    let parts = [("now", update), ("first", &first), ("second", &second)];
    let best = state.watch.best.as_ref().map(|best| ("best", best));
    let mut tables = Tables::new();
    let mut metadata = Metadata::new();
    for (part, update) in parts.into_iter().chain(best) {
        let (of_part, scales) = delta_file::tables(update)?;
        tables.extend(of_part.into_iter().map(|(n, t)| (format!("{part}.{n}"), t)));
        metadata.extend(scales);
    }
    let mut all = tables.iter();
    if let Some((name, _)) = all.find(|(_, t)| t.data.iter().any(|x| !x.is_finite())) {
        let place = format!("step {}, tensor `{name}`", state.steps);
        let hint = "lower the learning rate; the checkpoint before is kept";
        return Err(Error::NotFinite(reptune_adapters::Error::content(
            path,
            place,
            "finite numbers",
            "others",
            hint,
        )));
    }
    metadata.insert("format".into(), FORMAT.into());
    let text = serde_json::to_string(state).unwrap_or_default();
    metadata.insert("state".into(), text);
    let hash = tables::content_hash(&tables, &metadata);
    metadata.insert(CONTENT_HASH.into(), hash);
    Ok(tables::write_tables(path, &tables, metadata)?)
}

/// Whether a checkpoint of the run with hash `run` is at `path`.
pub(super) fn is_of(path: &Path, run: &str) -> bool {
    let read = tables::read_tables(path);
    let state = read.ok().and_then(|(_, metadata)| parse(&metadata));
    state.is_some_and(|state| state.run == run)
}

fn parse(metadata: &Metadata) -> Option<State> {
    serde_json::from_str(metadata.get("state")?).ok()
}

impl Checkpoint {
    /// Reads the checkpoint of the run with hash `run`. Refuses one of another run, format or
    /// model, and one that was changed.
    pub(super) fn read(path: &Path, run: &str, model: &ModelSpec) -> Result<Self> {
        let (tables, metadata) = tables::read_tables(path)?;
        let refuse = |place: &str, expected: &str, found: &str, hint: &str| {
            let place = format!("metadata `{place}`");
            Err(Error::input(path, place, expected, found, hint))
        };
        let hash = tables::content_hash(&tables, &metadata);
        for (key, expected) in [("format", FORMAT), (CONTENT_HASH, hash.as_str())] {
            let found = metadata.get(key).map_or("nothing", String::as_str);
            if found != expected {
                let hint = "it is no checkpoint of reptune, or it was changed; tune from the start";
                return refuse(key, expected, found, hint);
            }
        }
        let Some(mut state) = parse(&metadata) else {
            let (expected, hint) = ("the state of a run", "tune from the start");
            return refuse("state", expected, "nothing", hint);
        };
        if state.run != run {
            let hint = "recipe, data, directions or model are others; tune from the start";
            return refuse("state", &format!("run {run}"), &state.run, hint);
        }
        let part = |name: &str| -> Result<Adapter> {
            let prefix = format!("{name}.");
            let of_part = tables.iter().filter_map(|(n, t)| {
                Some((n.strip_prefix(prefix.as_str())?.to_owned(), t.clone()))
            });
            let update = delta_file::from_tables(path, of_part.collect(), &metadata)?;
            update.check_model(path, model)?;
            Ok(update)
        };
        let factors = |update: &Adapter| -> Vec<Tensor> {
            let all = update.modules.values().flat_map(|l| l.factors());
            all.map(|(_, t)| t.clone()).collect()
        };
        let (first, second) = (factors(&part("first")?), factors(&part("second")?));
        let moments = first.into_iter().zip(second);
        state.watch.best = state.watch.lowest.map(|_| part("best")).transpose()?;
        Ok(Self {
            update: part("now")?,
            moments: moments
                .map(|(first, second)| Moments { first, second })
                .collect(),
            state,
        })
    }
}

/// What to do after a validation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    GoOn,
    Stop,
}

/// Watches the mean of the last `window` validation losses, and keeps the update with which
/// it was lowest. Losses are bits, because JSON readers differ in the last one of a number.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Watch {
    /// Validations since the lowest mean.
    pub waited: usize,
    pub lowest: Option<u64>,
    /// Losses of the last validations, the oldest first.
    pub recent: VecDeque<u64>,
    /// The update with the lowest mean.
    #[serde(skip)]
    pub best: Option<Adapter>,
}

impl Watch {
    /// Takes the validation loss after `steps` steps.
    pub(super) fn see(
        &mut self,
        settings: &EarlyStop,
        steps: usize,
        loss: f64,
        update: &Adapter,
    ) -> Result<Verdict> {
        self.recent.push_back(loss.to_bits());
        if self.recent.len() < settings.window {
            return Ok(Verdict::GoOn);
        }
        let losses = self.recent.iter().map(|bits| f64::from_bits(*bits));
        let mean = losses.sum::<f64>() / settings.window as f64;
        self.recent.drain(..self.recent.len() + 1 - settings.window);
        if (self.lowest).is_some_and(|lowest| mean >= f64::from_bits(lowest)) {
            self.waited += 1;
            if self.waited >= settings.patience && steps >= settings.min_steps {
                return Ok(Verdict::Stop);
            }
        } else {
            self.lowest = Some(mean.to_bits());
            self.waited = 0;
            self.best = Some(update.snapshot()?);
        }
        Ok(Verdict::GoOn)
    }
}

#[cfg(test)]
mod tests;
