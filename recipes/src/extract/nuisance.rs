//! What is projected out of a direction.

use super::contrast::Contrast;
use crate::error::Result;
use reptune_adapters::{Direction, Error};

/// A unit vector that is projected out of directions.
#[derive(Debug, Clone, PartialEq)]
pub struct Nuisance {
    unit: Vec<f64>,
}

impl Nuisance {
    /// The nuisance along `v` (H,).
    ///
    /// # Errors
    /// When its norm is zero or not finite.
    pub fn new(v: &[f64]) -> Result<Self> {
        Direction::new(v)?;
        let norm = v.iter().map(|x| x * x).sum::<f64>().sqrt();
        Ok(Self {
            unit: v.iter().map(|x| x / norm).collect(),
        })
    }

    /// A direction of a file as a nuisance.
    ///
    /// # Errors
    /// When it is zero.
    pub fn from_direction(direction: &Direction) -> Result<Self> {
        let unit: Vec<f64> = direction.unit.iter().copied().map(f64::from).collect();
        Self::new(&unit)
    }

    /// The direction of the answer token: over the positive and the negative
    /// persona, the mean of
    /// `mean(rows that end in answer token 0) - mean(rows that end in answer token 1)`.
    ///
    /// Within a persona an answer token goes with the truth of the claim; over both
    /// personas that cancels and the answer token is left.
    ///
    /// Shapes: `answers` (P, 2): 0 or 1, of the positive and the negative row.
    ///
    /// # Errors
    /// When a persona always ends in the same answer token.
    pub fn answer_token(contrast: &Contrast, answers: &[[usize; 2]]) -> Result<Self> {
        let mut sum = vec![0f64; contrast.hidden()];
        for side in [0, 1] {
            let count = |label: usize| answers.iter().filter(|l| l[side] == label).count();
            let counts = [count(0), count(1)];
            if counts.contains(&0) || answers.len() != contrast.pairs() {
                return Err(Error::value(
                    "extraction.without",
                    "for each persona rows that end in the first answer token and in the second",
                    format!(
                        "{} and {} of {} pairs",
                        counts[0],
                        counts[1],
                        contrast.pairs()
                    ),
                    "give more pairs, or `keep = \"all\"`",
                )
                .into());
            }
            let mut add = |row: &[f32], label: usize| {
                let weight = [0.5, -0.5][label.min(1)] / counts[label.min(1)] as f64;
                for (s, x) in sum.iter_mut().zip(row) {
                    *s += weight * f64::from(*x);
                }
            };
            match side {
                0 => contrast
                    .positive()
                    .zip(answers)
                    .for_each(|(r, l)| add(r, l[0])),
                _ => contrast
                    .negative()
                    .zip(answers)
                    .for_each(|(r, l)| add(r, l[1])),
            }
        }
        Self::new(&sum)
    }

    /// `v - (v . n) n`. Shapes: `v` (H,), result (H,).
    ///
    /// # Errors
    /// When the widths differ, or hardly anything of `v` is left.
    pub fn removed(&self, v: Vec<f64>) -> Result<Vec<f64>> {
        let wrong = |expected: String, found: String, hint: &str| {
            Err(Error::value("extraction.without", expected, found, hint).into())
        };
        if v.len() != self.unit.len() {
            let expected = format!("a direction of width {}", v.len());
            let found = self.unit.len().to_string();
            return wrong(expected, found, "use directions of this model");
        }
        let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
        let before = norm(&v);
        let along: f64 = v.iter().zip(&self.unit).map(|(x, n)| x * n).sum();
        let left: Vec<f64> = v
            .iter()
            .zip(&self.unit)
            .map(|(x, n)| x - along * n)
            .collect();
        if norm(&left) <= 1e-6 * before {
            return wrong(
                "a direction that is more than the nuisance".into(),
                format!("{:e} of it left", norm(&left) / before),
                "give another nuisance, or none",
            );
        }
        Ok(left)
    }
}
