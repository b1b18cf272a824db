//! Direction sets as vectors: added, subtracted, scaled, projected out of one another.
//!
//! A direction stands for the vector it was before normalising, `v = norm * unit`,
//! so that the mean difference of many rows counts as long as it was measured. The
//! result is normalised again and keeps its own norm. The mean residual norms, the
//! unit of a dose, are a property of the model and stay those of the left operand.

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

    /// The multiple `v = factor * a`: the norm is scaled, and a negative factor
    /// turns the direction round.
    ///
    /// # Errors
    /// When the factor is zero or not finite.
    pub fn scaled(&self, factor: f64) -> Result<Self> {
        if factor == 0. || !factor.is_finite() {
            return Err(Error::value(
                "factor",
                "a finite number other than 0",
                factor.to_string(),
                "a direction has a length",
            ));
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
                let b = other
                    .layers
                    .get(&layer)
                    .ok_or_else(|| missing(layer, &other.provenance.method, &other.layers))?;
                check_width(layer, a, b)?;
                let rest = rejected(unit(b), &basis);
                let norm = dot(&rest, &rest).sqrt();
                // What depends on the earlier ones adds nothing to their span.
                if norm > NOTHING {
                    basis.push(rest.iter().map(|x| x / norm).collect());
                }
            }
            let rest = rejected(unit(a), &basis);
            if dot(&rest, &rest).sqrt() <= NOTHING {
                return Err(Error::value(
                    format!("direction at layer {layer}"),
                    "something outside the directions that are projected out of it",
                    "nothing",
                    "leave one of them out, or leave out this layer",
                ));
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
            return Err(missing(*layer, &self.provenance.method, &self.layers));
        }
        let mut layers = BTreeMap::new();
        for (&layer, a) in &self.layers {
            let b = other
                .layers
                .get(&layer)
                .ok_or_else(|| missing(layer, &other.provenance.method, &other.layers))?;
            check_width(layer, a, b)?;
            let v: Vec<f64> = (a.unit.iter().zip(&b.unit))
                .map(|(x, y)| f64::from(*x) * a.norm + sign * f64::from(*y) * b.norm)
                .collect();
            if dot(&v, &v).sqrt() <= NOTHING * (a.norm + b.norm) {
                return Err(Error::value(
                    format!("direction at layer {layer}"),
                    format!("two directions of which a {symbol} b is not zero"),
                    "two that cancel",
                    "combine directions of different behaviours",
                ));
            }
            layers.insert(layer, Direction::new(&v)?);
        }
        Ok(Self {
            layers,
            provenance: joined(&self.provenance, symbol, &other.provenance),
        })
    }

    fn check_same_model(&self, other: &Self) -> Result<()> {
        let (a, b) = (&self.provenance, &other.provenance);
        if a.model_fingerprint == b.model_fingerprint {
            return Ok(());
        }
        Err(Error::value(
            format!("directions ({})", b.method),
            format!("directions of the same model, {}", a.model),
            format!("directions of {}", b.model),
            "directions of different models do not share a space",
        ))
    }
}

fn missing(layer: usize, of: &str, layers: &BTreeMap<usize, Direction>) -> Error {
    Error::value(
        format!("directions ({of})"),
        format!("a direction for layer {layer}, as the other set has"),
        format!("layers {:?}", layers.keys().collect::<Vec<_>>()),
        "extract both sets at the same layers",
    )
}

fn check_width(layer: usize, a: &Direction, b: &Direction) -> Result<()> {
    if a.unit.len() == b.unit.len() {
        return Ok(());
    }
    Err(Error::value(
        format!("direction at layer {layer}"),
        format!("width {}", a.unit.len()),
        b.unit.len().to_string(),
        "combine directions of one model",
    ))
}

fn unit(d: &Direction) -> Vec<f64> {
    d.unit.iter().map(|x| f64::from(*x)).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `v` without its projections on `basis`, taken away twice: once leaves rounding.
fn rejected(mut v: Vec<f64>, basis: &[Vec<f64>]) -> Vec<f64> {
    for e in basis.iter().chain(basis) {
        let along = dot(&v, e);
        v.iter_mut().zip(e).for_each(|(v, e)| *v -= along * e);
    }
    v
}

/// Where a combination comes from: the method spells out the operation, the recipe
/// is one hash over both where they differ, counts are those of the smaller.
fn joined(a: &Provenance, symbol: &str, b: &Provenance) -> Provenance {
    let recipe = if a.recipe == b.recipe {
        a.recipe.clone()
    } else {
        files::sha256([a.recipe.as_bytes(), symbol.as_bytes(), b.recipe.as_bytes()])
    };
    let rows = if a.rows == b.rows {
        a.rows.clone()
    } else {
        format!("({}) {symbol} ({})", a.rows, b.rows)
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
mod tests {
    use super::*;

    fn set(method: &str, rows: &[(usize, &[f64])]) -> DirectionSet {
        let layers = rows
            .iter()
            .map(|(l, v)| (*l, Direction::new(v).expect("a direction")));
        DirectionSet {
            layers: layers.collect(),
            provenance: Provenance {
                method: method.into(),
                model_fingerprint: "same".into(),
                residual_norms: [(1, 7.)].into(),
                ..Provenance::default()
            },
        }
    }

    #[test]
    fn sums_are_those_of_the_vectors_before_normalising() -> Result<()> {
        let (a, b) = (set("a", &[(1, &[3., 0.])]), set("b", &[(1, &[0., 4.])]));
        let sum = a.plus(&b)?;
        assert_eq!(sum.layer(1)?.norm, 5.);
        assert_eq!(sum.layer(1)?.unit, [0.6, 0.8]);
        assert_eq!(sum.provenance.method, "(a) + (b)");
        assert_eq!(sum.provenance.residual_norms[&1], 7.);
        let difference = a.minus(&b)?;
        assert_eq!(difference.layer(1)?.unit, [0.6, -0.8]);
        let half = a.scaled(-0.5)?;
        assert_eq!(
            (half.layer(1)?.norm, half.layer(1)?.unit.as_slice()),
            (1.5, [-1., 0.].as_slice())
        );
        assert_eq!(half.provenance.method, "-0.5 (a)");
        Ok(())
    }

    #[test]
    fn what_is_projected_out_is_gone_even_when_it_is_not_orthogonal() -> Result<()> {
        let a = set("a", &[(1, &[1., 2., 3., 4.])]);
        let b = set("b", &[(1, &[1., 1., 0., 0.])]);
        let c = set("c", &[(1, &[0., 1., 1., 0.]), (2, &[1., 0., 0., 0.])]);
        let rest = a.without(&[&b, &c, &b])?;
        for other in [&b, &c] {
            let along: f32 = rest
                .layer(1)?
                .unit
                .iter()
                .zip(&other.layer(1)?.unit)
                .map(|(x, y)| x * y)
                .sum();
            assert!(along.abs() < 1e-6, "{along}");
        }
        assert!(rest.layer(1)?.norm < a.layer(1)?.norm);
        assert_eq!(
            rest.provenance.method,
            "(((a) without (b)) without (c)) without (b)"
        );
        let error = a.without(&[&a.scaled(2.)?]).expect_err("nothing is left");
        assert!(error.to_string().contains("layer 1"), "{error}");
        Ok(())
    }

    #[test]
    fn sets_that_do_not_fit_are_refused_by_layer_width_and_model() {
        let a = set("a", &[(1, &[1., 2.])]);
        let said = |result: Result<DirectionSet>| result.expect_err("a misfit").to_string();
        let message = said(a.plus(&set("b", &[(1, &[1., 0.]), (2, &[1., 0.])])));
        assert!(
            message.contains("(a)") && message.contains("layer 2"),
            "{message}"
        );
        let message = said(a.without(&[&set("b", &[(3, &[1., 0.])])]));
        assert!(
            message.contains("layer 1") && message.contains("[3]"),
            "{message}"
        );
        let message = said(a.minus(&set("b", &[(1, &[1., 0., 0.])])));
        assert!(
            message.contains("width 2") && message.contains("found 3"),
            "{message}"
        );
        let message = said(a.minus(&a));
        assert!(
            message.contains("layer 1") && message.contains("cancel"),
            "{message}"
        );
        assert!(said(a.scaled(0.)).contains("factor"));
        let mut other = a.clone();
        other.provenance.model_fingerprint = "other".into();
        assert!(said(a.plus(&other)).contains("same model"));
    }
}
