//! `[steering]`: how the direction is added while the model runs.

use super::default::number;
use crate::error::{Error, Result};
use reptune_adapters::{
    Decide, DirectionSet, Dose, Gate, Intervention, ModelSpec, Operator, Positions, Side,
    open_directions,
};
use serde::{Deserialize, Serialize};
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
    /// Instead of `coeff`: fractions of the mean residual norm that each layer gets. The one
    /// that does most on the validation claims is taken, for each sign.
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
    #[serde(default = "number::<1, _>")]
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

fn load(path: &Path, model: &ModelSpec) -> Result<DirectionSet> {
    Ok(open_directions(path)?.for_model(path, model)?.0)
}

impl Compose {
    /// The combination, read for `model`; `extracted` stands for a base that is not given.
    ///
    /// # Errors
    /// When a file cannot be read or was made for another model, or the sets do not
    /// fit each other; see [`DirectionSet::plus`] and [`DirectionSet::without`].
    pub fn evaluate(&self, extracted: &DirectionSet, model: &ModelSpec) -> Result<DirectionSet> {
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
        let without = self.without.iter().map(|path| load(path, model));
        let without = without.collect::<Result<Vec<_>>>()?;
        Ok(set.without(&without.iter().collect::<Vec<_>>())?)
    }
}

impl Condition {
    /// The gate, read for `model`; `steering` are the directions that steer.
    ///
    /// # Errors
    /// When the file does not fit the model, or the layer that is read is missing.
    pub fn gate(&self, steering: &DirectionSet, model: &ModelSpec) -> Result<Gate> {
        let set = match &self.directions {
            Some(path) => &load(path, model)?,
            None => steering,
        };
        Ok(Gate::new(set, self.decide, self.side, self.threshold)?)
    }
}

impl SteeringSettings {
    /// The directions that steer: `extracted`, changed as the table says.
    pub fn directions(&self, extracted: &DirectionSet, model: &ModelSpec) -> Result<DirectionSet> {
        match &self.directions {
            Some(compose) => compose.evaluate(extracted, model),
            None => Ok(extracted.clone()),
        }
    }

    /// Refuses positions outside of the prompt, at which one-token answers are as without
    /// steering.
    pub fn check_scored(&self) -> Result<()> {
        match self.positions.in_prompt() {
            true => Ok(()),
            false => Err(Error::unsteered("log-odds", &self.positions.to_string())),
        }
    }

    /// The dose as a total over the layers (for `clamp`: the projection at each of them);
    /// none where fractions are tried.
    pub fn total(&self) -> Option<f64> {
        let n = match self.operator.adds_up() {
            true => self.layers.len(),
            false => 1,
        };
        self.coeff.map(|coeff| coeff * n as f64).or(self.total)
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
    ) -> Result<Intervention> {
        let plain = Intervention::new(set, &self.layers, dose, self.operator)?;
        let plain = plain.on(self.positions.clone());
        match &self.gate {
            Some(condition) => Ok(plain.when(condition.gate(set, model)?)?),
            None => Ok(plain),
        }
    }
}
