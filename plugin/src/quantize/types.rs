//! The quantized type of every weight of a merge.

use super::delta::RoundedModule;
use crate::model::uqff::WeightType;
use candle_core::quantized::GgmlDType;
use reptune_adapters::{ModelSpec, TargetModule};
use std::collections::BTreeMap;

/// One type for all weights, and others for some modules.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightTypes {
    /// Type of the output head and of the modules that are not named below. If none, they
    /// keep the type that they have.
    pub all: Option<WeightType>,
    /// Types of single modules.
    pub modules: BTreeMap<TargetModule, WeightType>,
}

/// Types from coarse to fine, with their bits per weight.
const FINER: [(WeightType, f64); 6] = [
    (WeightType::Afq(3), 3.5),
    (WeightType::Ggml(GgmlDType::Q4_0), 4.5),
    (WeightType::Ggml(GgmlDType::Q5_0), 5.5),
    (WeightType::Afq(6), 6.5),
    (WeightType::Ggml(GgmlDType::Q8_0), 8.5),
    (WeightType::F32, 32.),
];

impl WeightTypes {
    /// The same type everywhere; if none, the types that are there.
    pub fn all(all: Option<WeightType>) -> Self {
        Self {
            all,
            modules: BTreeMap::new(),
        }
    }

    /// The type that `module` gets, or the output head if there is none; `current` is the one
    /// that it has, if it is quantized.
    pub fn of(&self, module: Option<TargetModule>, current: Option<WeightType>) -> WeightType {
        let named = module.and_then(|module| self.modules.get(&module).copied());
        named.or(self.all).or(current).unwrap_or(WeightType::F32)
    }

    /// Finer types for some of `modules`, which were measured with the type `all`: the module
    /// with the largest rounding error relative to its delta gets the next finer type, again
    /// and again, as long as the file of `bytes` grows by at most the share `growth`.
    ///
    /// Errors at finer types are not measured but estimated: every bit halves them.
    pub fn mixed(
        all: Option<WeightType>,
        modules: &BTreeMap<TargetModule, RoundedModule>,
        spec: &ModelSpec,
        (bytes, growth): (u64, f64),
    ) -> Self {
        let mut types = Self::all(all);
        let mut budget = bytes as f64 * growth;
        // Relative error and bits per weight.
        let error = |m: &RoundedModule| m.step_norm / m.delta_norm.max(f64::MIN_POSITIVE);
        let measured = modules.iter().map(|(k, m)| (*k, (error(m), m.bits)));
        let mut open: BTreeMap<TargetModule, (f64, f64)> = measured.collect();
        while let Some((&module, &(error, bits))) =
            open.iter().max_by(|a, b| a.1.0.total_cmp(&b.1.0))
        {
            let (o, i) = module.kind.shape(spec);
            let mut finer = FINER.iter();
            let next = finer.find(|(t, b)| *b > bits + 0.1 && t.fitted((o, i)) == *t);
            let price = |finer: f64| (finer - bits) * (o * i) as f64 / 8.;
            match next {
                Some((finer, finer_bits)) if price(*finer_bits) <= budget => {
                    budget -= price(*finer_bits);
                    types.modules.insert(module, *finer);
                    open.insert(module, (error / (finer_bits - bits).exp2(), *finer_bits));
                }
                _ => {
                    open.remove(&module);
                }
            }
        }
        types
    }
}
