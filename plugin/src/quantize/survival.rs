//! What of a delta is left once the weight is quantized.

use crate::error::Result;
use crate::model::uqff::{Entry, WeightType};
use candle_core::Tensor;
use reptune_adapters::TargetModule;
use reptune_adapters::rounding::LayerInputs;
use std::collections::BTreeMap;

/// One tuned module. W is the weight before, D its delta, Q(..) what is stored, as numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Survival {
    /// How it is stored.
    pub stored: WeightType,
    /// Bits per weight, scales and all.
    pub bits: f64,
    /// `|D|`
    pub delta_norm: f64,
    /// `|Q(W + D) - (W + D)|`: what the steps of the type take or add.
    pub step_norm: f64,
    /// Cosine of `Q(W + D) - Q(W)` and D: 1 where the delta survives whole. Q(W) is
    /// rounded to the nearest, whichever way Q(W + D) is; where W was quantized before, it is W.
    pub cosine: f64,
    /// `|Q(W + D) - Q(W)| / |D|`
    pub share: f64,
    /// BlockQuantizer error at the outputs as a share of what the delta adds to them,
    /// `|(Q(W + D) - (W + D)) X + b| / |D X|` over the calibration rows X; b is the
    /// bias that was added against it.
    pub noise: Option<f64>,
}

/// What a merge into quantized weights did.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizedReport {
    /// Every tuned module.
    pub modules: BTreeMap<TargetModule, Survival>,
    /// How many linear layers have which type, by name.
    pub types: BTreeMap<String, usize>,
    /// Bits per weight over all linear layers and the output head.
    pub bits: f64,
    /// Bytes of the UQFF.
    pub bytes: u64,
}

/// A module before and after.
pub(super) struct Stored<'a> {
    pub before: &'a Tensor,
    pub delta: &'a Tensor,
    /// Q(W), rounded to the nearest.
    pub base: &'a Tensor,
    pub entry: &'a Entry,
    pub bias: Option<&'a Tensor>,
}

impl Stored<'_> {
    pub(super) fn survival(&self, inputs: Option<&LayerInputs>) -> Result<Survival> {
        let stored = self.entry.weight()?;
        let wanted = (self.before + self.delta)?;
        let left = (&stored - self.base)?;
        let error = (&stored - &wanted)?;
        let (delta_norm, left_norm) = (norm(self.delta)?, norm(&left)?);
        let dot = sum(&(&left * self.delta)?)?;
        let noise = |inputs: &LayerInputs| -> Result<f64> {
            let signal = inputs.output_norm(self.delta, None)?;
            Ok(inputs.output_norm(&error, self.bias)? / signal.max(f64::MIN_POSITIVE))
        };
        Ok(Survival {
            stored: self.entry.layout().stored,
            bits: self.entry.bits_per_weight(),
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
