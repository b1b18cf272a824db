//! A run as it stands after some steps, on disk: enough to go on bit for bit.
//!
//! One safetensors file beside `metrics.jsonl`: `now.{module}.{factor}`, the moments
//! of AdamW as `first.` and `second.`, the best update so far as `best.`; and as
//! metadata the step, the state of the early stop, the length of the metrics and
//! what the run is made of. The order of the batches follows from the seed.

use super::early_stop::Watch;
use super::metrics::Mark;
use crate::error::{Error, Result};
use reptune_adapters::formats::tables::{self, CONTENT_HASH, Metadata, Tables};
use reptune_adapters::lora::adamw::{AdamW, Moments};
use reptune_adapters::lora::delta_file;
use reptune_adapters::{Adapter, ModelSpec};
use serde::{Deserialize, Serialize};
use std::path::Path;

const FORMAT: &str = "reptune.checkpoint.1";

/// State of a run between two steps.
pub(super) struct Checkpoint {
    pub update: Adapter,
    pub moments: Vec<Moments>,
    pub watch: Watch,
    pub state: State,
}

/// Its numbers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct State {
    /// Hash of what the run is made of.
    pub run: String,
    /// Steps done.
    pub steps: usize,
    pub metrics: Mark,
    waited: usize,
    // Bits, because JSON readers differ in the last one of a number.
    lowest: Option<u64>,
    recent: Vec<u64>,
}

impl State {
    pub(super) fn new(run: String, steps: usize, metrics: Mark, watch: &Watch) -> Self {
        Self {
            run,
            steps,
            metrics,
            waited: watch.waited,
            lowest: watch.lowest.map(f64::to_bits),
            recent: watch.recent.iter().map(|x| x.to_bits()).collect(),
        }
    }
}

/// Writes a checkpoint, whole or not at all.
pub(super) fn write(
    path: &Path,
    state: &State,
    update: &Adapter,
    optimizer: &AdamW,
    best: Option<&Adapter>,
) -> Result<()> {
    let moments: Vec<&Moments> = optimizer.moments().collect();
    let like = |part: &dyn Fn(&Moments) -> &candle_core::Tensor| {
        let mut like = update.clone();
        let factors = like.modules.values_mut().flat_map(|l| l.factors_mut());
        for ((_, factor), m) in factors.zip(&moments) {
            *factor = part(m).clone();
        }
        like
    };
    let (first, second) = (like(&|m| &m.first), like(&|m| &m.second));
    let mut tables = Tables::new();
    let mut metadata = Metadata::new();
    let parts = [
        ("now", Some(update)),
        ("first", Some(&first)),
        ("second", Some(&second)),
        ("best", best),
    ];
    for (part, update) in parts {
        let Some(update) = update else { continue };
        let (of_part, scales) = delta_file::tables(update)?;
        tables.extend(of_part.into_iter().map(|(n, t)| (format!("{part}.{n}"), t)));
        metadata.extend(scales);
    }
    if let Some((name, _)) = tables
        .iter()
        .find(|(_, t)| t.data.iter().any(|x| !x.is_finite()))
    {
        return Err(Error::NotFinite {
            path: path.to_owned(),
            place: format!("step {}, tensor `{name}`", state.steps),
            expected: "finite numbers".into(),
            found: "others".into(),
            hint: "lower the learning rate; the checkpoint before is kept".into(),
        });
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
    /// Reads the checkpoint of the run with hash `run`.
    ///
    /// # Errors
    /// When it is of another run or format, was changed, or does not fit the model.
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
        let Some(state) = parse(&metadata) else {
            return refuse(
                "state",
                "the state of a run",
                "nothing",
                "tune from the start",
            );
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
        let factors = |update: Adapter| {
            let all = update.modules.into_values();
            all.flat_map(|l| {
                let factors = l.factors().into_iter().map(|(_, t)| t.clone());
                factors.collect::<Vec<_>>()
            })
        };
        let moments = factors(part("first")?)
            .zip(factors(part("second")?))
            .map(|(first, second)| Moments { first, second });
        let watch = Watch {
            recent: state.recent.iter().map(|x| f64::from_bits(*x)).collect(),
            lowest: state.lowest.map(f64::from_bits),
            waited: state.waited,
            best: state.lowest.map(|_| part("best")).transpose()?,
        };
        Ok(Self {
            update: part("now")?,
            moments: moments.collect(),
            watch,
            state,
        })
    }
}
