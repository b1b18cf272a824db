//! Arithmetic of direction sets: sum, difference, multiple, and projecting out.
//!
//! A direction counts as the vector it was before normalising, `v = norm * unit`. The result
//! is normalised again and keeps its own norm. The mean residual norms, which fractions
//! refer to, are a property of the model and stay those of the left operand.

use crate::error::{Error, Result};
use crate::files;
use crate::steering::direction::{Direction, DirectionSet, Provenance};
use std::collections::BTreeMap;

/// Share of a vector's norm below which what is left of it is rounding.
const NOTHING: f64 = 1e-5;

impl DirectionSet {
    /// The sum, layer by layer: `v = a + b`.
    ///
    /// # Errors
    /// When models, layers or widths differ, or the two cancel at a layer.
    pub fn plus(&self, other: &Self) -> Result<Self> {
        self.combine(other, 1., "+")
    }

    /// The difference, layer by layer: `v = a - b`.
    ///
    /// # Errors
    /// When models, layers or widths differ, or the two are equal at a layer.
    pub fn minus(&self, other: &Self) -> Result<Self> {
        self.combine(other, -1., "-")
    }

    /// The multiple `v = factor * a`: the norm is scaled, and a negative factor reverses the
    /// direction.
    ///
    /// # Errors
    /// When the factor is zero or not finite.
    pub fn scaled(&self, factor: f64) -> Result<Self> {
        if factor == 0. || !factor.is_finite() {
            let (expected, found) = ("a finite number other than 0", factor.to_string());
            let hint = "a direction needs a non-zero norm";
            return Err(Error::value("factor", expected, found, hint));
        }
        let sign = factor.signum() as f32;
        let scaled = |d: &Direction| Direction {
            unit: d.unit.iter().map(|x| sign * x).collect(),
            norm: d.norm * factor.abs(),
        };
        Ok(Self {
            layers: self.layers.iter().map(|(l, d)| (*l, scaled(d))).collect(),
            provenance: Provenance {
                method: format!("{factor} ({})", self.provenance.method),
                ..self.provenance.clone()
            },
        })
    }

    /// What is left when the span of `others` is projected out, layer by layer:
    /// `v = a - sum_i (a . e_i) e_i` with `e` an orthonormal basis of the others
    /// (Gram-Schmidt in their order), so that `v . b = 0` for each of them.
    ///
    /// # Errors
    /// When models or widths differ, one of `others` lacks a layer of this set, or
    /// nothing is left at a layer.
    pub fn without(&self, others: &[&Self]) -> Result<Self> {
        for other in others {
            self.check_same_model(other)?;
        }
        let mut layers = BTreeMap::new();
        for (&layer, a) in &self.layers {
            let mut basis: Vec<Vec<f64>> = Vec::new();
            for other in others {
                let rest = rejected(unit(other.paired(layer, a)?), &basis);
                let norm = dot(&rest, &rest).sqrt();
                // What depends on the earlier ones adds nothing to their span.
                if norm > NOTHING {
                    basis.push(rest.iter().map(|x| x / norm).collect());
                }
            }
            let rest = rejected(unit(a), &basis);
            if dot(&rest, &rest).sqrt() <= NOTHING {
                let what = format!("direction at layer {layer}");
                let expected = "a part outside of the directions that are projected out";
                let hint = "leave out one of those directions, or this layer";
                return Err(Error::value(what, expected, "none", hint));
            }
            let rest: Vec<f64> = rest.iter().map(|x| x * a.norm).collect();
            layers.insert(layer, Direction::new(&rest)?);
        }
        let mut provenance = self.provenance.clone();
        for other in others {
            provenance = joined(&provenance, "without", &other.provenance);
        }
        Ok(Self { layers, provenance })
    }

    fn combine(&self, other: &Self, sign: f64, symbol: &str) -> Result<Self> {
        self.check_same_model(other)?;
        if let Some(layer) = other.layers.keys().find(|l| !self.layers.contains_key(l)) {
            return Err(self.missing(*layer));
        }
        let mut layers = BTreeMap::new();
        for (&layer, a) in &self.layers {
            let b = other.paired(layer, a)?;
            let pairs = a.unit.iter().zip(&b.unit);
            let v: Vec<f64> = pairs
                .map(|(x, y)| f64::from(*x) * a.norm + sign * f64::from(*y) * b.norm)
                .collect();
            if dot(&v, &v).sqrt() <= NOTHING * (a.norm + b.norm) {
                let what = format!("direction at layer {layer}");
                let expected = format!("a {symbol} b other than zero");
                let found = "two directions that cancel";
                let hint = "combine directions of different behaviours";
                return Err(Error::value(what, expected, found, hint));
            }
            layers.insert(layer, Direction::new(&v)?);
        }
        let provenance = joined(&self.provenance, symbol, &other.provenance);
        Ok(Self { layers, provenance })
    }

    fn check_same_model(&self, other: &Self) -> Result<()> {
        let (a, b) = (&self.provenance, &other.provenance);
        if a.model_fingerprint == b.model_fingerprint {
            return Ok(());
        }
        let what = format!("directions ({})", b.method);
        let expected = format!("directions of the same model, {}", a.model);
        let found = format!("directions of {}", b.model);
        let hint = "directions of different models do not share a space";
        Err(Error::value(what, expected, found, hint))
    }

    /// The direction of this set at `layer`, of the width of `a`.
    fn paired(&self, layer: usize, a: &Direction) -> Result<&Direction> {
        let b = self.layers.get(&layer);
        let b = b.ok_or_else(|| self.missing(layer))?;
        if a.unit.len() == b.unit.len() {
            return Ok(b);
        }
        let what = format!("direction at layer {layer}");
        let (expected, found) = (format!("width {}", a.unit.len()), b.unit.len().to_string());
        let hint = "combine directions of one model";
        Err(Error::value(what, expected, found, hint))
    }

    fn missing(&self, layer: usize) -> Error {
        let what = format!("directions ({})", self.provenance.method);
        let expected = format!("a direction for layer {layer}, as the other set has");
        let found = format!("layers {:?}", self.layers.keys().collect::<Vec<_>>());
        let hint = "extract both sets at the same layers";
        Error::value(what, expected, found, hint)
    }
}

fn unit(d: &Direction) -> Vec<f64> {
    d.unit.iter().map(|x| f64::from(*x)).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `v` without its projections on `basis`. They are removed twice, because once leaves
/// rounding errors.
fn rejected(mut v: Vec<f64>, basis: &[Vec<f64>]) -> Vec<f64> {
    for e in basis.iter().chain(basis) {
        let along = dot(&v, e);
        v.iter_mut().zip(e).for_each(|(v, e)| *v -= along * e);
    }
    v
}

/// The provenance of a combination: the method spells out the operation, the recipe is one
/// hash over both where they differ, counts are those of the smaller set.
fn joined(a: &Provenance, symbol: &str, b: &Provenance) -> Provenance {
    let recipe = match a.recipe == b.recipe {
        true => a.recipe.clone(),
        false => files::sha256([&a.recipe, symbol, &b.recipe].map(str::as_bytes)),
    };
    let rows = match a.rows == b.rows {
        true => a.rows.clone(),
        false => format!("({}) {symbol} ({})", a.rows, b.rows),
    };
    Provenance {
        recipe,
        method: format!("({}) {symbol} ({})", a.method, b.method),
        rows,
        pairs: a.pairs.min(b.pairs),
        pairs_captured: a.pairs_captured.min(b.pairs_captured),
        ..a.clone()
    }
}

#[cfg(test)]
mod tests;
