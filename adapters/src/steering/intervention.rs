//! Interventions: rules that change residual rows while a model runs.

use crate::error::{Error, Result};
use crate::model::prefix_tree::TokenMask;
use crate::steering::direction::DirectionSet;
use crate::steering::gate::{Decide, Gate};
use crate::steering::operator::Operator;
use crate::steering::positions::Positions;
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Where in a block the residual stream is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HookPoint {
    /// The output of the block.
    #[default]
    #[serde(rename = "resid_post", alias = "output")]
    ResidPost,
    /// Between attention and MLP.
    #[serde(rename = "resid_mid", alias = "middle")]
    ResidMid,
    /// The input of the block: the output of the block below, or the embeddings.
    #[serde(rename = "resid_pre", alias = "input")]
    ResidPre,
    /// Wherever the stream has been written to: behind the embeddings, and at the middle
    /// and the output of every block.
    Everywhere,
}

impl HookPoint {
    /// Whether a rule at this point acts at `place` of `layer`.
    fn acts_at(self, place: Self, layer: usize) -> bool {
        match self {
            Self::Everywhere => place != Self::ResidPre || layer == 0,
            point => point == place,
        }
    }
}

impl fmt::Display for HookPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ResidPost => "resid_post",
            Self::ResidMid => "resid_mid",
            Self::ResidPre => "resid_pre",
            Self::Everywhere => "everywhere",
        })
    }
}

/// One operator on chosen rows at some layers, with a direction for each.
#[derive(Debug, Clone)]
pub struct Intervention {
    operator: Operator,
    point: HookPoint,
    rows: Positions,
    gate: Option<Gate>,
    coeff: f64,
    directions: BTreeMap<usize, Tensor>,
    /// What each layer gets for a coeff of 1, where that is not its share of it: the norms
    /// of vectors that are applied as they were stored.
    norms: Option<BTreeMap<usize, f64>>,
}

impl Intervention {
    /// An intervention with the directions of `set` at `layers`; with several
    /// layers each gets `coeff` divided by their number, but for [`Operator::Clamp`],
    /// where coeff is the projection that every layer gets.
    ///
    /// # Errors
    /// When no layer is named, the set lacks one of them, or coeff is not finite.
    pub fn new(
        set: &DirectionSet,
        layers: &[usize],
        coeff: f64,
        operator: Operator,
    ) -> Result<Self> {
        if !coeff.is_finite() {
            return Err(Error::value(
                "coeff",
                "a finite number",
                coeff.to_string(),
                "give a signed multiplier such as 19.0",
            ));
        }
        let mut directions = BTreeMap::new();
        for &layer in layers {
            let direction = set.layer(layer)?;
            directions.insert(layer, Tensor::new(direction.unit.as_slice(), &Device::Cpu)?);
        }
        if directions.is_empty() {
            return Err(Error::value(
                "layers",
                "at least one",
                "none",
                "for example `1-2`",
            ));
        }
        Ok(Self {
            operator,
            point: HookPoint::ResidPost,
            rows: Positions::All,
            gate: None,
            coeff,
            directions,
            norms: None,
        })
    }

    /// An addition of the vectors of `set` as they were before normalising, `strength *
    /// norm * unit` at every one of `layers`: what llama.cpp does with a control vector.
    ///
    /// # Errors
    /// When no layer is named, the set lacks one of them, or strength is not finite.
    pub fn as_stored(set: &DirectionSet, layers: &[usize], strength: f64) -> Result<Self> {
        let norm = |l: &usize| Ok((*l, set.layer(*l)?.norm));
        Ok(Self {
            norms: Some(layers.iter().map(norm).collect::<Result<_>>()?),
            ..Self::new(set, layers, strength, Operator::Add)?
        })
    }

    /// The ablation of one direction, that of `layer` in `set`, wherever the residual
    /// stream of a model of `layers` blocks is written to: nothing is left of it anywhere.
    ///
    /// # Errors
    /// When the set has no such layer.
    pub fn ablation_everywhere(set: &DirectionSet, layer: usize, layers: usize) -> Result<Self> {
        let direction = Tensor::new(set.layer(layer)?.unit.as_slice(), &Device::Cpu)?;
        let one = Self::new(set, &[layer], 0., Operator::Ablate)?;
        Ok(Self {
            directions: (0..layers).map(|l| (l, direction.clone())).collect(),
            ..one.at(HookPoint::Everywhere)
        })
    }

    /// The same at another point of the blocks.
    pub fn at(self, point: HookPoint) -> Self {
        Self { point, ..self }
    }

    /// The same on other rows.
    pub fn on(self, rows: Positions) -> Self {
        Self { rows, ..self }
    }

    /// The same, but acting only where `gate` is open; see [`Gate`].
    ///
    /// # Errors
    /// When the gate decides at every token and has no direction for one of the layers.
    pub fn when(self, gate: Gate) -> Result<Self> {
        if gate.decide() == Decide::EveryToken {
            for &layer in self.directions.keys() {
                gate.direction(layer)?;
            }
        }
        Ok(Self {
            gate: Some(gate),
            ..self
        })
    }

    /// The operator.
    pub fn operator(&self) -> Operator {
        self.operator
    }

    /// The point.
    pub fn point(&self) -> HookPoint {
        self.point
    }

    /// The rows.
    pub fn rows(&self) -> &Positions {
        &self.rows
    }

    /// The gate, if it acts under a condition.
    pub fn gate(&self) -> Option<&Gate> {
        self.gate.as_ref()
    }

    /// The unit direction (H,) at `layer`, if it acts there.
    pub fn direction(&self, layer: usize) -> Option<&Tensor> {
        self.directions.get(&layer)
    }

    /// The coeff, not yet divided by the number of layers; the strength of vectors that are
    /// applied as they were stored.
    pub fn coeff(&self) -> f64 {
        self.coeff
    }

    /// The norm that the vector of `layer` has for a coeff of 1, where vectors are applied
    /// as they were stored.
    pub fn norm(&self, layer: usize) -> Option<f64> {
        self.norms.as_ref()?.get(&layer).copied()
    }

    /// What `layer` gets: its share of the coeff, or all of it.
    fn dose(&self, layer: usize) -> f64 {
        match self.norm(layer) {
            Some(norm) => self.coeff * norm,
            None => self.operator.share(self.coeff, self.directions.len()),
        }
    }

    /// The layers.
    pub fn layers(&self) -> impl Iterator<Item = usize> + '_ {
        self.directions.keys().copied()
    }

    /// The block above whose output the stream is as without this intervention: the
    /// forward may begin there with known rows. None of one that changes the input of
    /// block 0.
    pub fn lowest(&self) -> Option<usize> {
        let first = *self.directions.keys().next()?;
        match self.point {
            HookPoint::ResidPost => Some(first),
            HookPoint::ResidMid | HookPoint::ResidPre => first.checked_sub(1),
            HookPoint::Everywhere => None,
        }
    }

    /// What is added to every chosen row at `layer`: `coeff / layers * d` (H,); none
    /// at layers where this intervention does nothing.
    ///
    /// # Errors
    /// When the change depends on the row: another operator than addition, or a gate.
    pub fn addition(&self, layer: usize) -> Result<Option<Tensor>> {
        let Some(d) = self.directions.get(&layer) else {
            return Ok(None);
        };
        if self.operator != Operator::Add || self.gate.is_some() {
            return Err(Error::Unsupported {
                what: format!("operator {} at layer {layer} as a constant", self.name()),
                reason: "what it adds depends on the row; use an addition without a gate".into(),
            });
        }
        Ok(Some((d * self.dose(layer))?))
    }

    fn name(&self) -> String {
        let gated = if self.gate.is_some() {
            " with a gate"
        } else {
            ""
        };
        format!("{}{gated}", self.operator)
    }

    /// Applies this intervention to the rows `rows` of `h`, as far as a gate that
    /// decides at every token lets them through; differentiable but for the gate.
    ///
    /// Shapes: `h` (N, H), result (N, H).
    ///
    /// # Errors
    /// When the width differs.
    pub fn apply(&self, h: &Tensor, layer: usize, rows: &[u32]) -> Result<Tensor> {
        let Some(d) = self.directions.get(&layer) else {
            return Ok(h.clone());
        };
        let dose = self.dose(layer);
        if rows.is_empty() || self.operator.is_identity(dose) {
            return Ok(h.clone());
        }
        let (n, width) = h.dims2()?;
        if d.elem_count() != width {
            return Err(Error::value(
                format!("direction at layer {layer}"),
                format!("width {width} of the residual stream"),
                d.elem_count().to_string(),
                "use directions of this model",
            ));
        }
        let open = match &self.gate {
            Some(gate) if gate.decide() == Decide::EveryToken => gate.rows(h, layer, rows)?,
            _ => rows.to_vec(),
        };
        if open.is_empty() {
            return Ok(h.clone());
        }
        let d = d.to_device(h.device())?;
        if open.len() == n {
            return Ok((h + self.operator.change(h, &d, dose)?)?);
        }
        let index = Tensor::new(open.as_slice(), h.device())?;
        let picked = h.index_select(&index, 0)?; // (rows, H)
        let change = self.operator.change(&picked, &d, dose)?;
        Ok(h.index_add(&index, &change.contiguous()?, 0)?)
    }
}

/// Applies, in their order, all of `interventions` that act at `point` of
/// `layer`. Bit i of a row's marks says that intervention i acts on it; `rows(i)`
/// gives those rows, as numbers within `h`.
///
/// # Errors
/// When the width differs.
pub fn apply_all(
    interventions: &[Intervention],
    h: &Tensor,
    point: HookPoint,
    layer: usize,
    rows: impl Fn(usize) -> Vec<u32>,
) -> Result<Tensor> {
    let mut h = h.clone();
    for (i, intervention) in interventions.iter().enumerate() {
        if intervention.point.acts_at(point, layer) && intervention.directions.contains_key(&layer)
        {
            h = intervention.apply(&h, layer, &rows(i))?;
        }
    }
    Ok(h)
}

/// The marks of the token at `position` of a sequence with `prompt` prompt
/// tokens: bit i is set where intervention i acts. Gates that decide once per
/// prompt count as closed; [`token_mask_gated`] takes what they decided.
pub fn marks(interventions: &[Intervention], position: usize, prompt: usize) -> TokenMask {
    token_mask_gated(interventions, 0, position, prompt)
}

/// The same where `open` says, by bit i, whether the gate of intervention i
/// opened for this prompt. Such a decision holds from the prompt's last token on;
/// of interventions without a gate that decides once, the bit is not read.
pub fn token_mask_gated(
    interventions: &[Intervention],
    open: TokenMask,
    position: usize,
    prompt: usize,
) -> TokenMask {
    let lets = |i: usize, x: &Intervention| match x.gate.as_ref().map(Gate::decide) {
        Some(Decide::OncePerPrompt { .. }) => open >> i & 1 == 1 && position + 1 >= prompt,
        Some(Decide::EveryToken) | None => true,
    };
    interventions
        .iter()
        .enumerate()
        .take(TokenMask::BITS as usize)
        .filter(|(i, x)| x.rows.chooses(position, prompt) && lets(*i, x))
        .fold(0, |marks, (i, _)| marks | 1 << i)
}

#[cfg(test)]
mod tests;
