//! Which type every weight gets.

use super::survival::Survival;
use crate::model::uqff::WeightType;
use candle_core::quantized::GgmlDType;
use reptune_adapters::{ModelSpec, TargetModule};
use std::collections::BTreeMap;

/// One type for all, and others for some modules.
#[derive(Debug, Clone, PartialEq)]
pub struct Types {
    /// Of the output head and of every module not named below; what they have already, if
    /// none is named.
    pub all: Option<WeightType>,
    /// Of single modules.
    pub modules: BTreeMap<TargetModule, WeightType>,
}

/// Steps of a finer type, with bits per weight.
const LADDER: [(WeightType, f64); 6] = [
    (WeightType::Afq(3), 3.5),
    (WeightType::Ggml(GgmlDType::Q4_0), 4.5),
    (WeightType::Ggml(GgmlDType::Q5_0), 5.5),
    (WeightType::Afq(6), 6.5),
    (WeightType::Ggml(GgmlDType::Q8_0), 8.5),
    (WeightType::F32, 32.),
];

impl Types {
    /// The same type everywhere, or for none what is there already.
    pub fn all(all: Option<WeightType>) -> Self {
        Self {
            all,
            modules: BTreeMap::new(),
        }
    }

    /// The type of a module that is of type `current` now, if it is quantized.
    pub fn of(&self, module: TargetModule, current: Option<WeightType>) -> WeightType {
        let named = self.modules.get(&module).copied();
        named.unwrap_or_else(|| self.other(current))
    }

    /// The type of a layer that is not named.
    pub(super) fn other(&self, current: Option<WeightType>) -> WeightType {
        self.all.or(current).unwrap_or(WeightType::F32)
    }

    /// Gives the modules of `survival` finer types, step by step, always the one that loses
    /// most of its delta first, as long as the file grows by at most `growth`, a share of
    /// `bytes`, its size with one type for all.
    ///
    /// What a module loses at a step is not measured anew: rounding errors are taken to
    /// halve with every bit.
    pub fn keep(
        all: Option<WeightType>,
        survival: &BTreeMap<TargetModule, Survival>,
        spec: &ModelSpec,
        (bytes, growth): (u64, f64),
    ) -> Self {
        let mut types = Self::all(all);
        let mut room = bytes as f64 * growth;
        let mut modules: BTreeMap<TargetModule, (f64, f64)> = survival
            .iter()
            .map(|(module, s)| {
                (
                    *module,
                    (s.step_norm / s.delta_norm.max(f64::MIN_POSITIVE), s.bits),
                )
            })
            .collect();
        while let Some((&module, &(lost, bits))) =
            modules.iter().max_by(|a, b| a.1.0.total_cmp(&b.1.0))
        {
            let (o, i) = module.kind.shape(spec);
            let next = LADDER
                .iter()
                .find(|(t, b)| *b > bits + 0.1 && t.fitted((o, i)) == *t);
            let Some((finer, finer_bits)) = next else {
                modules.remove(&module);
                continue;
            };
            let price = (finer_bits - bits) * (o * i) as f64 / 8.;
            if price > room {
                modules.remove(&module);
                continue;
            }
            room -= price;
            types.modules.insert(module, *finer);
            modules.insert(module, (lost / (finer_bits - bits).exp2(), *finer_bits));
        }
        types
    }
}
