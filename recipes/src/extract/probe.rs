//! A logistic probe: the weights that tell positive rows from negative ones.

use super::contrast::{Contrast, dot64};
use super::pca::{centred, gram};
use crate::error::{Error, Result};
use crate::recipe::Probe;
use nalgebra::{Cholesky, DMatrix, DVector};

/// Most Newton steps, and halvings of one.
const STEPS: usize = 50;

/// Largest residual of the conditions of the minimum.
const SETTLED: f64 = 1e-9;

/// Least curvature of a row's loss, so that rows far on the right side stay finite.
const LEAST: f64 = 1e-10;

/// Weights w of a logistic probe, in the space of the rows.
///
/// With rows x = (h - mean) / s of mean square length one and t = 1 for positive
/// rows, 0 for negative ones, the minimum of
/// `sum log(1 + exp(f)) - t f + l2 / 2 |w|^2` with `f = w . x + b` is found by Newton
/// steps. There `w = sum a x` with `l2 a = t - sigmoid(f)`, so that the unknowns are
/// the n numbers a, however wide the rows are; a step solves
/// `(X X^T + l2 C^-1) a = f + C^-1 (t - sigmoid(f)) - b`, `sum a = 0`, with curvatures
/// `C = sigmoid(f) (1 - sigmoid(f))`. A step that raises the loss is halved.
///
/// Shapes: result (H,).
///
/// # Errors
/// When all rows are the same, or the steps do not settle.
pub(super) fn weights(contrast: &Contrast, probe: Probe) -> Result<Vec<f64>> {
    let (mut rows, _) = centred(contrast);
    let n = rows.len();
    let square: f64 = rows.iter().map(|r| dot64(r, r)).sum();
    let s = (square / n as f64).sqrt();
    if s == 0. || !s.is_finite() {
        return Err(failed("rows that differ", format!("a spread of {s}")));
    }
    rows.iter_mut().flatten().for_each(|x| *x /= s);
    let kernel = gram(&rows);
    let target = DVector::from_fn(n, |i, _| if i < n / 2 { 1. } else { 0. });
    let (l2, a, b) = (probe.l2, DVector::zeros(n), 0.);
    let fit = Fit { kernel, target, l2 };
    let mut at = Point { a, b };
    for _ in 0..STEPS {
        let f = fit.logits(&at);
        if fit.residual(&at, &f) < SETTLED {
            let mut w = vec![0f64; contrast.hidden()];
            for (row, a) in rows.iter().zip(at.a.iter()) {
                w.iter_mut().zip(row).for_each(|(w, x)| *w += a * x);
            }
            return Ok(w.into_iter().map(|x| x / s).collect());
        }
        at = fit.step(&at, &f)?;
    }
    let found = format!("{STEPS} that did not");
    Err(failed("Newton steps that settle", found))
}

fn failed(expected: &str, found: String) -> Error {
    let hint = "raise extraction.method.probe.l2";
    Error::value("logistic probe", expected, found, hint)
}

/// Coefficients of the rows, and the constant.
struct Point {
    a: DVector<f64>,
    b: f64,
}

struct Fit {
    kernel: DMatrix<f64>,
    target: DVector<f64>,
    l2: f64,
}

impl Fit {
    fn logits(&self, at: &Point) -> DVector<f64> {
        (&self.kernel * &at.a).add_scalar(at.b)
    }

    fn residual(&self, at: &Point, f: &DVector<f64>) -> f64 {
        let p = f.map(sigmoid);
        let rows = (&self.target - p - &at.a * self.l2).amax();
        rows.max(at.a.sum().abs() * self.l2)
    }

    fn loss(&self, at: &Point) -> f64 {
        let f = self.logits(at);
        let rows = f.iter().zip(self.target.iter());
        let losses = rows.map(|(f, t)| f.max(0.) + (-f.abs()).exp().ln_1p() - t * f);
        losses.sum::<f64>() + self.l2 / 2. * at.a.dot(&f.add_scalar(-at.b))
    }

    fn step(&self, at: &Point, f: &DVector<f64>) -> Result<Point> {
        let p = f.map(sigmoid);
        let curvature = p.map(|p| (p * (1. - p)).max(LEAST));
        let mut system = self.kernel.clone();
        for (i, c) in curvature.iter().enumerate() {
            system[(i, i)] += self.l2 / c;
        }
        let z = f + (&self.target - p).component_div(&curvature);
        let solver = Cholesky::new(system)
            .ok_or_else(|| failed("a positive definite system", "another".into()))?;
        let ones = solver.solve(&DVector::repeat(z.len(), 1.));
        let a = solver.solve(&z);
        let b = a.sum() / ones.sum();
        let goal = Point { a: a - ones * b, b };
        let loss = self.loss(at);
        let mut share = 1.;
        for _ in 0..STEPS {
            let next = Point {
                a: &at.a + (&goal.a - &at.a) * share,
                b: at.b + (goal.b - at.b) * share,
            };
            if self.loss(&next) <= loss + 1e-12 * loss.abs() {
                return Ok(next);
            }
            share /= 2.;
        }
        Err(failed("a step that lowers the loss", "none".into()))
    }
}

fn sigmoid(f: f64) -> f64 {
    1. / (1. + (-f).exp())
}
