//! Baking: additions to the residual stream written into the weights of a UQFF, so
//! that unmodified mistral.rs applies them at every token.
//!
//! A block ends with `h + down_proj(x)`. mistral.rs 0.8.1 adds the bias of a UQFF
//! entry to what its layer puts out, also where the architecture knows none, so a
//! bias at `down_proj` of block l is an addition to the residual stream at layer l.
//! That is all a bias can say: one vector, for every token.

use crate::error::{Error, Result};
use crate::llama::{Checkpoint, LlamaConfig, model_spec};
use crate::uqff::{self, CheckpointWeights, Entry, UqffDirectory, WeightType};
use candle_core::Tensor;
use reptune_adapters::low_rank::Projection;
use reptune_adapters::{Intervention, ModelSpec, Operator, Point, RowRule, Site};
use std::collections::BTreeMap;
use std::path::Path;

/// What a bake did.
#[derive(Debug, Clone, PartialEq)]
pub struct BakeReport {
    /// L2 norm of the bias, by layer.
    pub biases: BTreeMap<usize, f64>,
    /// Tensors stored in another type than the one asked for, because its blocks do not
    /// divide their rows; mistral.rs falls back to the same when it quantizes.
    pub other: BTreeMap<String, WeightType>,
    /// Bytes of the UQFF.
    pub bytes: u64,
}

/// The biases that do what `interventions` do, by block: `sum of coeff / layers * d`.
///
/// An addition at the input of block l is one at the output of block l - 1.
///
/// Shapes: every bias (H,).
///
/// # Errors
/// [`Error::Bake`] when an intervention is no addition, acts on some rows only, acts
/// on the embeddings, or has directions of another width; a value error when the
/// model has no such layer.
pub fn additions(
    spec: &ModelSpec,
    interventions: &[Intervention],
) -> Result<BTreeMap<usize, Tensor>> {
    let mut biases: BTreeMap<usize, Tensor> = BTreeMap::new();
    for intervention in interventions {
        let layers: Vec<usize> = intervention.layers().collect();
        spec.check_layers(&layers)?;
        if intervention.operator() == Operator::Ablate {
            return Err(refused(
                format!("an ablation (layers {layers:?})"),
                "it depends on the row it acts on, and a bias is the same for all; \
                 use an addition, or tune the weights and merge",
            ));
        }
        if *intervention.rows() != RowRule::All {
            return Err(refused(
                format!("an addition on rows `{}`", intervention.rows()),
                "a bias acts on every token; use rows `all`, or steer without baking",
            ));
        }
        for layer in layers {
            let block = match intervention.point() {
                Point::Output => layer,
                Point::Input => layer.checked_sub(1).ok_or_else(|| {
                    refused(
                        "an addition at the input of layer 0",
                        "that is the embeddings, and no linear layer writes there; \
                         use the output of layer 0 or of a later one",
                    )
                })?,
            };
            let Some(addition) = intervention.addition(layer)? else {
                continue;
            };
            if addition.dims() != [spec.hidden] {
                return Err(refused(
                    format!(
                        "a direction of shape {:?} at layer {layer}",
                        addition.dims()
                    ),
                    format!(
                        "the residual stream of {} has {} columns; use directions of this model",
                        spec.name, spec.hidden
                    ),
                ));
            }
            let sum = match biases.remove(&block) {
                Some(earlier) => (earlier + addition)?,
                None => addition,
            };
            biases.insert(block, sum);
        }
    }
    Ok(biases)
}

/// Writes the full checkpoint `model` with `interventions` as biases to `out`, a UQFF
/// directory: [`UQFF`](crate::uqff::UQFF), the other weights, configuration and tokenizer.
///
/// Whatever stays f32 (all linear layers without `quantize`) runs only where mistral.rs
/// is told to load as f32: it does not convert what a UQFF holds, and its default on
/// the CPU is f16. `progress` hears how many blocks are done, and of how many.
///
/// # Errors
/// Those of [`additions`]; when `out` holds files, the checkpoint is not complete, or
/// the type takes no bias. Nothing is left at `out` then.
pub fn bake(
    model: &Path,
    interventions: &[Intervention],
    quantize: WeightType,
    out: &Path,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<BakeReport> {
    let config = LlamaConfig::read(model)?;
    let spec = model_spec(&config, model)?;
    let checkpoint = Checkpoint::find(model)?;
    checkpoint.check(&config, &spec)?;
    let biases = additions(&spec, interventions)?;
    if !quantize.takes_bias() && !biases.is_empty() {
        return Err(refused(
            format!("into {quantize}"),
            "mistral.rs 0.8.1 adds a bias twice there; use another type",
        ));
    }
    let weights = CheckpointWeights::open(&checkpoint)?;
    let mut directory = UqffDirectory::create(out, spec.layers)?;
    let mut other = BTreeMap::new();
    let mut write = |index: usize, name: &str, bias: Option<&Tensor>| -> Result<()> {
        let entry = Entry::quantize(&weights.get(name)?, bias, quantize)?;
        if entry.layout().stored != quantize {
            other.insert(name.to_owned(), entry.layout().stored);
        }
        directory.push(index, &entry)
    };
    write(uqff::HEAD, config.head(), None)?;
    for layer in 0..spec.layers {
        for projection in Projection::ALL {
            let bias = match projection {
                Projection::DownProj => biases.get(&layer),
                _ => None,
            };
            let name = format!("{}.weight", Site { layer, projection });
            write(uqff::index(layer, projection), &name, bias)?;
        }
        progress(layer + 1, spec.layers);
    }
    let bytes = directory.commit(&spec, model, |name| weights.get(name))?;
    let norm = |b: &Tensor| -> Result<f64> {
        Ok(f64::from(b.sqr()?.sum_all()?.sqrt()?.to_scalar::<f32>()?))
    };
    Ok(BakeReport {
        biases: biases
            .iter()
            .map(|(layer, b)| Ok((*layer, norm(b)?)))
            .collect::<Result<_>>()?,
        other,
        bytes,
    })
}

fn refused(what: impl Into<String>, reason: impl Into<String>) -> Error {
    Error::Bake {
        what: what.into(),
        reason: reason.into(),
    }
}
