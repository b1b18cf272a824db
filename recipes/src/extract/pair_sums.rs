//! Sums over pairs, where a method needs no more: their memory does not grow with the pairs.

/// Sums over the pairs at one position and layer.
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
        for (sum, (p, n)) in self
            .differences
            .iter_mut()
            .zip(positive.iter().zip(negative))
        {
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
