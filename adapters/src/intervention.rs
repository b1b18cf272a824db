//! Interventions: rules that change residual rows while a model runs.

use crate::direction::DirectionSet;
use crate::error::{Error, Result};
use crate::forest::Marks;
use crate::rows::RowRule;
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What is done to a row h with the unit direction d.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operator {
    /// `h + coeff / layers * d`
    #[default]
    Add,
    /// `h - (h . d) d`; the coeff plays no part.
    Ablate,
}

/// Where in a block the residual stream is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Point {
    /// The output of the block.
    #[default]
    Output,
    /// The input of the block: the output of the block below, or the embeddings.
    Input,
}

/// One operator on chosen rows at some layers, with a direction for each.
#[derive(Debug, Clone)]
pub struct Intervention {
    operator: Operator,
    point: Point,
    rows: RowRule,
    /// Share of each layer: coeff / number of layers.
    dose: f64,
    coeff: f64,
    directions: BTreeMap<usize, Tensor>,
}

impl Intervention {
    /// An intervention with the directions of `set` at `layers`; with several
    /// layers each gets `coeff` divided by their number.
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
            point: Point::Output,
            rows: RowRule::All,
            dose: coeff / directions.len() as f64,
            coeff,
            directions,
        })
    }

    /// The same at another point of the blocks.
    pub fn at(self, point: Point) -> Self {
        Self { point, ..self }
    }

    /// The same on other rows.
    pub fn on(self, rows: RowRule) -> Self {
        Self { rows, ..self }
    }

    /// The operator.
    pub fn operator(&self) -> Operator {
        self.operator
    }

    /// The point.
    pub fn point(&self) -> Point {
        self.point
    }

    /// The rows.
    pub fn rows(&self) -> &RowRule {
        &self.rows
    }

    /// The coeff, not yet divided by the number of layers.
    pub fn coeff(&self) -> f64 {
        self.coeff
    }

    /// The layers.
    pub fn layers(&self) -> impl Iterator<Item = usize> + '_ {
        self.directions.keys().copied()
    }

    /// What is added to a row at `layer`: `coeff / layers * d` (H,); none where
    /// this intervention does nothing or is not an addition.
    ///
    /// # Errors
    /// When the product fails.
    pub fn addition(&self, layer: usize) -> Result<Option<Tensor>> {
        match (self.operator, self.directions.get(&layer)) {
            (Operator::Add, Some(d)) => Ok(Some((d * self.dose)?)),
            _ => Ok(None),
        }
    }

    /// Applies this intervention to the rows `rows` of `h`; differentiable.
    ///
    /// Shapes: `h` (N, H), result (N, H).
    ///
    /// # Errors
    /// When the width differs.
    pub fn apply(&self, h: &Tensor, layer: usize, rows: &[u32]) -> Result<Tensor> {
        let Some(d) = self.directions.get(&layer) else {
            return Ok(h.clone());
        };
        if rows.is_empty() || (self.operator == Operator::Add && self.dose == 0.) {
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
        let d = d.to_device(h.device())?.to_dtype(h.dtype())?;
        let whole = rows.len() == n;
        let index = Tensor::new(rows, h.device())?;
        let change = match self.operator {
            Operator::Add => {
                let add = (d * self.dose)?;
                if whole {
                    return Ok(h.broadcast_add(&add)?);
                }
                add.broadcast_as((rows.len(), width))?.contiguous()?
            }
            Operator::Ablate => {
                let picked = if whole {
                    h.clone()
                } else {
                    h.index_select(&index, 0)?
                };
                let along = picked.matmul(&d.unsqueeze(1)?)?; // (rows, 1)
                along.matmul(&d.unsqueeze(0)?)?.neg()?
            }
        };
        if whole {
            return Ok((h + change)?);
        }
        Ok(h.index_add(&index, &change, 0)?)
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
    point: Point,
    layer: usize,
    rows: impl Fn(usize) -> Vec<u32>,
) -> Result<Tensor> {
    let mut h = h.clone();
    for (i, intervention) in interventions.iter().enumerate() {
        if intervention.point == point && intervention.directions.contains_key(&layer) {
            h = intervention.apply(&h, layer, &rows(i))?;
        }
    }
    Ok(h)
}

/// The marks of the token at `position` of a sequence with `prompt` prompt
/// tokens: bit i is set where intervention i acts.
pub fn marks(interventions: &[Intervention], position: usize, prompt: usize) -> Marks {
    interventions
        .iter()
        .enumerate()
        .take(Marks::BITS as usize)
        .filter(|(_, x)| x.rows.chooses(position, prompt))
        .fold(0, |marks, (i, _)| marks | 1 << i)
}
