//! The rows of pairs at one position and layer, from which a method makes a direction.

use super::pair_sums::PairSums;
use crate::error::Result;
use reptune_adapters::{Direction, Error};

/// Share of a difference's length below which a projection is rounding, not a vote.
const ROUNDING: f64 = 1e-9;

/// The positive and the negative residual row of every pair, at one position and layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Contrast {
    hidden: usize,
    positive: Vec<f32>,
    negative: Vec<f32>,
}

impl Contrast {
    /// A contrast without pairs, of rows of width `hidden`.
    pub(super) fn empty(hidden: usize) -> Self {
        Self {
            hidden,
            positive: Vec::new(),
            negative: Vec::new(),
        }
    }

    /// A contrast of given rows.
    ///
    /// Shapes: `positive` and `negative` are each (P, H).
    ///
    /// # Errors
    /// When there is no pair, or the rows differ in number or width.
    pub fn new(positive: &[Vec<f32>], negative: &[Vec<f32>]) -> Result<Self> {
        let hidden = positive.first().map_or(0, Vec::len);
        let odd = positive.iter().chain(negative).find(|r| r.len() != hidden);
        if hidden == 0 || positive.len() != negative.len() || odd.is_some() {
            let found = odd.map_or(hidden, Vec::len);
            return Err(Error::value(
                "rows of pairs",
                "as many positive as negative rows, at least one, all of one width above 0",
                format!(
                    "{} positive and {} negative rows, a width of {found}",
                    positive.len(),
                    negative.len()
                ),
                "capture both rows of every pair",
            )
            .into());
        }
        Ok(Self {
            hidden,
            positive: positive.concat(),
            negative: negative.concat(),
        })
    }

    /// Adds a pair. Shapes: both (H,).
    pub(super) fn push(&mut self, positive: &[f32], negative: &[f32]) {
        self.positive.extend_from_slice(positive);
        self.negative.extend_from_slice(negative);
    }

    /// Width of the rows, H.
    pub fn hidden(&self) -> usize {
        self.hidden
    }

    /// Number of pairs, P.
    pub fn pairs(&self) -> usize {
        self.positive.len() / self.hidden
    }

    /// Positive rows, in the order of the pairs.
    pub fn positive(&self) -> impl Iterator<Item = &[f32]> {
        self.positive.chunks_exact(self.hidden)
    }

    /// Negative rows, in the order of the pairs.
    pub fn negative(&self) -> impl Iterator<Item = &[f32]> {
        self.negative.chunks_exact(self.hidden)
    }

    /// `positive - negative` of every pair.
    pub fn differences(&self) -> impl Iterator<Item = Vec<f32>> {
        let difference = |(p, n): (&[f32], &[f32])| p.iter().zip(n).map(|(p, n)| p - n).collect();
        self.positive().zip(self.negative()).map(difference)
    }

    /// Sums over the pairs.
    pub(super) fn sums(&self) -> PairSums {
        let mut sums = PairSums::new(self.hidden);
        for (positive, negative) in self.positive().zip(self.negative()) {
            sums.add(positive, negative);
        }
        sums
    }

    /// Share of pairs whose positive row projects higher on `direction`.
    pub fn ordered(&self, direction: &Direction) -> f64 {
        let higher = self.differences().filter(|difference| {
            let dot: f64 = difference
                .iter()
                .zip(&direction.unit)
                .map(|(x, y)| f64::from(x * y))
                .sum();
            dot > 0.
        });
        higher.count() as f64 / self.pairs() as f64
    }

    /// Projections `h . d` of the positive and of the negative rows.
    pub fn projections(&self, direction: &Direction) -> (Vec<f64>, Vec<f64>) {
        let project = |row: &[f32]| dot(row, &direction.unit);
        (
            self.positive().map(project).collect(),
            self.negative().map(project).collect(),
        )
    }

    /// Mean cosine with `direction` of the positive and of the negative rows.
    pub fn cosines(&self, direction: &Direction) -> (f64, f64) {
        let cosine = |row: &[f32]| dot(row, &direction.unit) / dot(row, row).sqrt().max(1e-30);
        let mean = |sum: f64| sum / self.pairs() as f64;
        (
            mean(self.positive().map(cosine).sum()),
            mean(self.negative().map(cosine).sum()),
        )
    }

    /// `v`, or its opposite: the sense in which most positive rows project higher
    /// than the negative row of their pair.
    ///
    /// # Errors
    /// When as many project lower: nothing says then which sense is right.
    pub(super) fn oriented(&self, v: Vec<f64>) -> Result<Vec<f64>> {
        let length = dot64(&v, &v).sqrt();
        let (mut higher, mut lower) = (0, 0);
        for difference in self.differences() {
            let difference: Vec<f64> = difference.into_iter().map(f64::from).collect();
            let along = dot64(&difference, &v);
            let rounding = ROUNDING * length * dot64(&difference, &difference).sqrt();
            higher += usize::from(along > rounding);
            lower += usize::from(along < -rounding);
        }
        match higher.cmp(&lower) {
            std::cmp::Ordering::Greater => Ok(v),
            std::cmp::Ordering::Less => Ok(v.into_iter().map(|x| -x).collect()),
            std::cmp::Ordering::Equal => Err(Error::value(
                "sign of the direction",
                "a majority of pairs that project higher, or lower",
                format!("{higher} higher and {lower} lower of {}", self.pairs()),
                "take another component or method, or more pairs",
            )
            .into()),
        }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    let products = a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y));
    products.sum()
}

/// Partial sums of [`dot64`].
const LANES: usize = 8;

/// `a . b` in a fixed order that lets the processor add several products at once.
pub(super) fn dot64(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0f64; LANES];
    let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f64 = a
        .remainder()
        .iter()
        .zip(b.remainder())
        .map(|(x, y)| x * y)
        .sum();
    for (a, b) in a.zip(b) {
        for i in 0..LANES {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f64>() + rest
}
