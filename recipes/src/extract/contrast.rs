//! The rows of pairs at one position and layer, from which a method makes a direction.

use crate::error::{Error, Result};
use reptune_adapters::Direction;
use std::cmp::Ordering;

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
    pub(crate) fn empty(hidden: usize) -> Self {
        Self {
            hidden,
            positive: Vec::new(),
            negative: Vec::new(),
        }
    }

    /// Adds a pair. Shapes: both (H,).
    pub(crate) fn push(&mut self, positive: &[f32], negative: &[f32]) {
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
            let pairs = difference.iter().zip(&direction.unit);
            pairs.map(|(x, y)| f64::from(x * y)).sum::<f64>() > 0.
        });
        higher.count() as f64 / self.pairs() as f64
    }

    /// Projections `h . d` of the positive and of the negative rows.
    pub fn projections(&self, direction: &Direction) -> (Vec<f64>, Vec<f64>) {
        let project = |row: &[f32]| dot(row, &direction.unit);
        let positive = self.positive().map(project).collect();
        (positive, self.negative().map(project).collect())
    }

    /// Mean cosine with `direction` of the positive and of the negative rows.
    pub fn cosines(&self, direction: &Direction) -> (f64, f64) {
        let cosine = |row: &[f32]| dot(row, &direction.unit) / dot(row, row).sqrt().max(1e-30);
        let positive: f64 = self.positive().map(cosine).sum();
        let negative: f64 = self.negative().map(cosine).sum();
        let pairs = self.pairs() as f64;
        (positive / pairs, negative / pairs)
    }

    /// `v`, or its opposite: the sense in which most positive rows project higher
    /// than the negative row of their pair. An error if as many project lower.
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
            Ordering::Greater => Ok(v),
            Ordering::Less => Ok(v.into_iter().map(|x| -x).collect()),
            Ordering::Equal => {
                let expected = "a majority of pairs that project higher, or lower";
                let found = format!("{higher} higher and {lower} lower of {}", self.pairs());
                let hint = "take another component or method, or more pairs";
                Err(Error::value("sign of the direction", expected, found, hint))
            }
        }
    }
}

/// Sums over the pairs at one position and layer, where a method needs no more: their
/// memory does not grow with the pairs.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PairSums {
    /// Of `positive - negative` (H,): differences in f32, their sum in f64, pair by pair.
    differences: Vec<f64>,
    /// Of the L2 norms of all rows.
    norms: f64,
    pairs: usize,
}

impl PairSums {
    /// Of no pair, for rows of width `hidden`.
    pub fn new(hidden: usize) -> Self {
        Self {
            differences: vec![0.; hidden],
            norms: 0.,
            pairs: 0,
        }
    }

    /// Adds a pair. Shapes: both (H,).
    pub fn add(&mut self, positive: &[f32], negative: &[f32]) {
        let both = positive.iter().zip(negative);
        for (sum, (p, n)) in self.differences.iter_mut().zip(both) {
            *sum += f64::from(p - n);
        }
        self.norms += norm(positive) + norm(negative);
        self.pairs += 1;
    }

    /// `mean_p (positive[p] - negative[p])`. Shapes: result (H,).
    pub fn mean_difference(&self) -> Vec<f64> {
        let pairs = self.pairs as f64;
        self.differences.iter().map(|s| s / pairs).collect()
    }

    /// Mean L2 norm of all rows: the natural unit of a dose.
    pub fn mean_norm(&self) -> f64 {
        self.norms / (2 * self.pairs) as f64
    }
}

/// In single products, as the reference norms of direction files have always been.
fn norm(row: &[f32]) -> f64 {
    row.iter().map(|x| f64::from(x * x)).sum::<f64>().sqrt()
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
    let rest = a.remainder().iter().zip(b.remainder());
    let rest: f64 = rest.map(|(x, y)| x * y).sum();
    for (a, b) in a.zip(b) {
        for i in 0..LANES {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f64>() + rest
}
