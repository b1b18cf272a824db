//! What a trained module takes from the two losses, and at which rate.

use crate::recipe::{Tuning, UpdateKind};
use reptune_adapters::{Adapter, TargetModule};

/// Settings of one trained module.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Share {
    pub learning_rate: f64,
    pub token_weight: f64,
    pub representation_weight: f64,
    pub update: UpdateKind,
}

impl Share {
    /// Settings of the modules that are in no group.
    pub(super) fn of_rest(settings: &Tuning) -> Self {
        Self {
            learning_rate: settings.learning_rate,
            token_weight: settings.token_weight,
            representation_weight: 1.,
            update: settings.update,
        }
    }

    /// Settings of `module`: those of its group, and of the rest where that is silent.
    pub(super) fn of(settings: &Tuning, module: &TargetModule) -> Self {
        let rest = Self::of_rest(settings);
        let Some(group) = settings.group_of(module.layer, module.kind) else {
            return rest;
        };
        let group = &settings.groups[group];
        Self {
            learning_rate: group.learning_rate.unwrap_or(rest.learning_rate),
            token_weight: group.token_weight.unwrap_or(rest.token_weight),
            representation_weight: group
                .representation_weight
                .unwrap_or(rest.representation_weight),
            update: group.update.unwrap_or(rest.update),
        }
    }

    /// One for each variable of `update`, in the order of
    /// [`Adapter::trainable`].
    pub(super) fn of_all(settings: &Tuning, update: &Adapter) -> Vec<Self> {
        let modules = update.modules.iter();
        let shares = modules
            .flat_map(|(module, l)| l.factors().into_iter().map(|_| Self::of(settings, module)));
        shares.collect()
    }
}
