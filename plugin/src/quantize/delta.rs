//! How much of a delta is left after its weight was rounded.

use crate::error::Result;
use crate::model::uqff::{Entry, WeightType};
use candle_core::Tensor;
use reptune_adapters::TargetModule;
use reptune_adapters::rounding::LayerInputs;
use std::collections::BTreeMap;

/// A tuned module after rounding. W is its weight before, D the delta, Q(..) the stored
/// numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct RoundedModule {
    /// Type in which it is stored.
    pub stored: WeightType,
    /// Bits per weight, including scales.
    pub bits: f64,
    /// `|D|`
    pub delta_norm: f64,
    /// The rounding error, `|Q(W + D) - (W + D)|`.
    pub step_norm: f64,
    /// Cosine of `Q(W + D) - Q(W)` and D: 1 where the whole delta is left. Q(W) is rounded to
    /// the nearest however W + D was rounded; where W was quantized before, it is W.
    pub cosine: f64,
    /// `|Q(W + D) - Q(W)| / |D|`
    pub share: f64,
    /// The rounding error at the outputs as a share of what the delta adds to them,
    /// `|(Q(W + D) - (W + D)) X + b| / |D X|` over the calibration inputs X; b is the bias
    /// that corrects the mean error. None without calibration.
    pub noise: Option<f64>,
}

/// What a merge into quantized weights wrote.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct QuantizedReport {
    /// Every tuned module.
    pub modules: BTreeMap<TargetModule, RoundedModule>,
    /// Number of linear layers of every type, by its name.
    pub types: BTreeMap<String, usize>,
    /// Bits per weight over all linear layers and the output head.
    pub bits: f64,
    /// Bytes of the UQFF.
    pub bytes: u64,
}

impl RoundedModule {
    /// Compares W, D and Q(W) with the `entry` that holds Q(W + D), whose bias has the
    /// `correction` of the mean error.
    pub(super) fn measure(
        (weight, delta, base): (&Tensor, &Tensor, &Tensor),
        entry: &Entry,
        correction: Option<&Tensor>,
        inputs: Option<&LayerInputs>,
    ) -> Result<Self> {
        let (stored, layout) = (entry.weight()?, entry.layout());
        let left = (&stored - base)?;
        let error = (&stored - (weight + delta)?)?;
        let (delta_norm, left_norm) = (norm(delta)?, norm(&left)?);
        let dot = sum(&(&left * delta)?)?;
        let noise = |inputs: &LayerInputs| -> Result<f64> {
            let signal = inputs.output_norm(delta, None)?;
            Ok(inputs.output_norm(&error, correction)? / signal.max(f64::MIN_POSITIVE))
        };
        Ok(Self {
            stored: layout.stored,
            bits: 8. * layout.end as f64 / (layout.shape.0 * layout.shape.1) as f64,
            delta_norm,
            step_norm: norm(&error)?,
            cosine: dot / (delta_norm * left_norm).max(f64::MIN_POSITIVE),
            share: left_norm / delta_norm.max(f64::MIN_POSITIVE),
            noise: inputs.map(noise).transpose()?,
        })
    }
}

fn sum(t: &Tensor) -> Result<f64> {
    let values: Vec<f32> = t.flatten_all()?.to_vec1()?;
    Ok(values.into_iter().map(f64::from).sum())
}

fn norm(t: &Tensor) -> Result<f64> {
    Ok(sum(&t.sqr()?)?.sqrt())
}
