//! `[steering]`: how the direction is added while the model runs.

use super::Wrong;
use crate::error::Result as Done;
use reptune_adapters::steering::positions::PositionsUse;
use reptune_adapters::{
    Decide, DirectionSet, Dose, Gate, Intervention, ModelSpec, Operator, Positions, Side,
    open_directions,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// How the direction is added.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SteeringSettings {
    /// Layers (output of block i, 0-based).
    pub layers: Vec<usize>,
    /// Multiplier of the unit direction: what each layer gets.
    pub coeff: Option<f64>,
    /// Instead of `coeff`: a multiplier that is divided by the number of layers.
    pub total: Option<f64>,
    /// Instead of `coeff`: fractions of the mean residual norm, divided by the number of
    /// layers. The one that does most on the validation claims is taken, for each sign.
    #[serde(default)]
    pub fractions: Vec<f64>,
    /// Tokens that are changed.
    #[serde(default)]
    pub positions: Positions,
    /// What is done: `add`, `add-norm-preserving` or `clamp`.
    #[serde(default)]
    pub operator: Operator,
    /// What is done to the extracted directions first.
    pub directions: Option<Compose>,
    /// Under which condition it acts.
    pub gate: Option<Condition>,
}

/// A combination of direction files:
/// `v = scale * base + plus - minus`, without what lies in the span of `without`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compose {
    /// A direction file; none: the extracted directions.
    pub base: Option<PathBuf>,
    /// Multiplier of the base.
    #[serde(default = "one")]
    pub scale: f64,
    /// Direction files that are added.
    #[serde(default)]
    pub plus: Vec<PathBuf>,
    /// Direction files that are subtracted.
    #[serde(default)]
    pub minus: Vec<PathBuf>,
    /// Direction files whose span is projected out, last of all.
    #[serde(default)]
    pub without: Vec<PathBuf>,
}

/// A gate, as a recipe gives it; see [`Gate`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// A direction file; none: the directions that steer.
    pub directions: Option<PathBuf>,
    /// On which side of the threshold it acts.
    #[serde(default)]
    pub side: Side,
    /// The projection at which the gate opens.
    pub threshold: f64,
    /// When it is decided.
    pub decide: Decide,
}

fn one() -> f64 {
    1.
}

fn load(path: &Path, model: &ModelSpec) -> Done<DirectionSet> {
    let set = open_directions(path)?;
    set.check_model(path, model)?;
    Ok(set)
}

impl Compose {
    /// The combination, read for `model`; `extracted` stands for a base that is not given.
    ///
    /// # Errors
    /// When a file cannot be read or was made for another model, or the sets do not
    /// fit each other; see [`DirectionSet::plus`] and [`DirectionSet::without`].
    pub fn evaluate(&self, extracted: &DirectionSet, model: &ModelSpec) -> Done<DirectionSet> {
        let mut set = match &self.base {
            Some(path) => load(path, model)?,
            None => extracted.clone(),
        };
        if self.scale != 1. {
            set = set.scaled(self.scale)?;
        }
        for path in &self.plus {
            set = set.plus(&load(path, model)?)?;
        }
        for path in &self.minus {
            set = set.minus(&load(path, model)?)?;
        }
        if self.without.is_empty() {
            return Ok(set);
        }
        let without = self
            .without
            .iter()
            .map(|path| load(path, model))
            .collect::<Done<Vec<_>>>()?;
        Ok(set.without(&without.iter().collect::<Vec<_>>())?)
    }

    fn check(&self) -> Result<(), Wrong> {
        if !self.scale.is_finite() || self.scale == 0. {
            let found = self.scale.to_string();
            return Wrong::key(
                "steering.directions.scale",
                "a finite number other than 0",
                found,
            );
        }
        let files = self.plus.len() + self.minus.len() + self.without.len();
        if self.base.is_none() && self.scale == 1. && files == 0 {
            return Wrong::key(
                "steering.directions",
                "`base`, `scale`, `plus`, `minus` or `without`",
                "nothing that changes the directions",
            );
        }
        Ok(())
    }
}

impl Condition {
    /// The gate, read for `model`; `steering` are the directions that steer.
    ///
    /// # Errors
    /// When the file does not fit the model, or the layer that is read is missing.
    pub fn gate(&self, steering: &DirectionSet, model: &ModelSpec) -> Done<Gate> {
        let set = match &self.directions {
            Some(path) => &load(path, model)?,
            None => steering,
        };
        Ok(Gate::new(set, self.decide, self.side, self.threshold)?)
    }
}

impl SteeringSettings {
    /// The directions that steer: `extracted`, changed as the table says.
    ///
    /// # Errors
    /// As [`Compose::evaluate`].
    pub fn directions(&self, extracted: &DirectionSet, model: &ModelSpec) -> Done<DirectionSet> {
        match &self.directions {
            Some(compose) => compose.evaluate(extracted, model),
            None => Ok(extracted.clone()),
        }
    }

    /// The dose as a total over the layers (for `clamp`: the projection at each of them);
    /// none where fractions are tried.
    pub fn total(&self) -> Option<f64> {
        match (self.coeff, self.operator) {
            (Some(coeff), Operator::Clamp) => Some(coeff),
            (Some(coeff), _) => Some(coeff * self.layers.len() as f64),
            (None, _) => self.total,
        }
    }

    /// The intervention of the table with the directions `set` (of
    /// [`SteeringSettings::directions`]) and `dose`.
    ///
    /// # Errors
    /// When a layer has no direction, or the gate does not fit.
    pub fn intervention(
        &self,
        set: &DirectionSet,
        dose: Dose,
        model: &ModelSpec,
    ) -> Done<Intervention> {
        let plain = Intervention::new(set, &self.layers, dose, self.operator)?;
        let plain = plain.on(self.positions.clone());
        match &self.gate {
            Some(condition) => Ok(plain.when(condition.gate(set, model)?)?),
            None => Ok(plain),
        }
    }

    /// The paths of direction files.
    pub(super) fn paths(&mut self) -> Vec<&mut PathBuf> {
        let gate = self.gate.iter_mut().filter_map(|g| g.directions.as_mut());
        let composed = self.directions.iter_mut().flat_map(|c| {
            let lists = c.plus.iter_mut().chain(&mut c.minus).chain(&mut c.without);
            c.base.iter_mut().chain(lists)
        });
        gate.chain(composed).collect()
    }

    pub(super) fn check(&self) -> Result<(), Wrong> {
        if self.layers.is_empty() {
            return Wrong::key("steering.layers", "at least one layer", "none");
        }
        let once: BTreeSet<_> = self.layers.iter().collect();
        if once.len() != self.layers.len() {
            let found = format!("{:?}", self.layers);
            return Wrong::key("steering.layers", "each layer once", found);
        }
        if !self.fractions.iter().all(|f| super::positive(*f)) {
            let found = format!("{:?}", self.fractions);
            return Wrong::key(
                "steering.fractions",
                "positive numbers; both signs are tried",
                found,
            );
        }
        let doses = [
            ("coeff", self.coeff.is_some()),
            ("total", self.total.is_some()),
            ("fractions", !self.fractions.is_empty()),
        ];
        let given: Vec<&str> = doses.iter().filter(|d| d.1).map(|d| d.0).collect();
        if given.len() != 1 {
            let expected = "one of `coeff`, `total` and `fractions`";
            let found = match given.as_slice() {
                [] => "none".to_owned(),
                several => several.join(" and "),
            };
            return Wrong::key("steering", expected, found);
        }
        for (key, dose) in [("coeff", self.coeff), ("total", self.total)] {
            if let Some(dose) = dose.filter(|d| !d.is_finite()) {
                let place = format!("steering.{key}");
                return Wrong::key(place, "a finite number", dose.to_string());
            }
        }
        match self.operator {
            Operator::Ablate => {
                let expected = "`add`, `add-norm-preserving` or `clamp`";
                let found = "`ablate`, which has no dose";
                return Wrong::key("steering.operator", expected, found);
            }
            // Totals and fractions are divided by the number of layers; a projection is not.
            Operator::Clamp if self.coeff.is_none() => {
                let found = format!("`{}`", given[0]);
                return Wrong::key("steering", "`coeff`, the projection to clamp to", found);
            }
            Operator::Add | Operator::AddNormPreserving | Operator::Clamp => {}
        }
        let positions = self.positions.check(PositionsUse::Steering);
        Wrong::from_value("steering.positions", positions)?;
        if self.gate.as_ref().is_some_and(|g| g.threshold.is_nan()) {
            return Wrong::key("steering.gate.threshold", "a number", "nan");
        }
        self.directions.as_ref().map_or(Ok(()), Compose::check)
    }
}
