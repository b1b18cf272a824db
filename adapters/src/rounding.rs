//! GPTQ: rounding a weight with error feedback, so that later columns compensate for the
//! rounding errors of earlier ones at the outputs of the layer
//! (Frantar et al., [arXiv 2210.17323](https://arxiv.org/abs/2210.17323)).
//!
//! The loss is that of the outputs, `|(W - Q) X|^2 = tr((W - Q) G (W - Q)^T)`, with
//! `G = X X^T` over calibration inputs. Where the columns B are rounded and their error
//! `E = W_B - Q_B` is fixed, the best change of the columns R that are left is
//! `W_R += E G_BR G_RR^-1`. With `G^-1 = U^T U`, U upper triangular, that is
//! `W_R -= E U_BB^-1 U_BR`, so one factorization serves all columns.
//!
//! Unlike the paper's code, [`gptq`] packs nothing. It returns a weight that the quantizer of
//! the runtime then rounds to the chosen codes. Where the grid of the quantizer is known
//! ([`BlockGrid`]), columns are rounded one by one to values of the grid, and the values
//! that determine the grid are not changed, so that the quantizer finds the same grid. Where
//! it is not known, the quantizer rounds whole blocks ([`BlockQuantizer`]).

use crate::error::{Error, Result};
use candle_core::{DType, Device, Tensor};
use nalgebra::DMatrix;
use rayon::prelude::*;

/// Added to the diagonal of G, as a share of its mean: an input that calibration never
/// shows must not count as free of cost.
const DAMPING: f64 = 0.01;

/// Sums over the inputs of a linear layer, from which [`gptq`] and mean errors are computed.
#[derive(Debug, Clone)]
pub struct LayerInputs {
    /// `X^T X` (I, I), f32.
    gram: Tensor,
    /// Sum of the rows (I,), f32.
    sum: Tensor,
    rows: usize,
}

impl LayerInputs {
    /// The sums over the rows of `x` (N, I).
    ///
    /// # Errors
    /// When `x` has not two dimensions.
    pub fn of(x: &Tensor) -> Result<Self> {
        let x = x.detach().to_dtype(DType::F32)?;
        let (rows, _) = x.dims2()?;
        Ok(Self {
            gram: x.t()?.contiguous()?.matmul(&x)?,
            sum: x.sum(0)?,
            rows,
        })
    }

    /// The sums over the rows of both.
    ///
    /// # Errors
    /// When the widths differ.
    pub fn and(&self, other: &Self) -> Result<Self> {
        Ok(Self {
            gram: (&self.gram + &other.gram)?,
            sum: (&self.sum + &other.sum)?,
            rows: self.rows + other.rows,
        })
    }

    /// The mean row (I,).
    ///
    /// # Errors
    /// When the tensor library fails.
    pub fn mean(&self) -> Result<Tensor> {
        Ok((&self.sum / self.rows.max(1) as f64)?)
    }

    /// The norm of what a change D (O, I) of the weight and a bias b (O,) add to the outputs:
    /// `|D X + b| = sqrt(tr(D G D^T) + 2 b D s + n |b|^2)`, s the sum of the n rows.
    ///
    /// # Errors
    /// When the shapes differ.
    pub fn output_norm(&self, change: &Tensor, bias: Option<&Tensor>) -> Result<f64> {
        let through = change.matmul(&self.gram)?; // (O, I)
        let mut sum = total(&(through * change)?)?;
        if let Some(bias) = bias {
            let shift = change.matmul(&self.sum.unsqueeze(1)?)?.squeeze(1)?; // (O,)
            sum += 2. * total(&(bias * shift)?)? + self.rows as f64 * total(&bias.sqr()?)?;
        }
        Ok(sum.max(0.).sqrt())
    }

    /// U (I, I), upper triangular, with `(G + damping)^-1 = U^T U`.
    fn factor(&self) -> Result<DMatrix<f64>> {
        let (i, _) = self.gram.dims2()?;
        let values: Vec<f32> = self.gram.flatten_all()?.to_vec1()?;
        let mut gram = DMatrix::from_iterator(i, i, values.iter().map(|x| f64::from(*x)));
        let mean = gram.diagonal().mean().max(f64::MIN_POSITIVE);
        for k in 0..i {
            gram[(k, k)] += DAMPING * mean;
        }
        let inverse = gram.cholesky().map(|c| c.inverse());
        let lower = inverse.and_then(|g| g.cholesky()).map(|c| c.l());
        let upper = lower.map(|l| l.transpose());
        upper.ok_or_else(|| {
            let found = format!("a Gram matrix ({i}, {i}) without a Cholesky factor");
            let hint = "check the calibration prompts and the model's activations";
            Error::value("calibration inputs", "finite numbers", found, hint)
        })
    }
}

/// The sum of all elements, in their order, in f64.
fn total(t: &Tensor) -> Result<f64> {
    let values: Vec<f32> = t.flatten_all()?.to_vec1()?;
    Ok(values.into_iter().map(f64::from).sum())
}

/// The values that a block of a row can take: `zero + step * code`, code from 0 to `top`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BlockGrid {
    /// Difference of consecutive values; may be negative.
    pub step: f32,
    /// Value of code 0.
    pub zero: f32,
    /// Largest code.
    pub top: f32,
    /// Elements of the block that determine the grid. They must not change, or the quantizer
    /// would find another grid.
    pub pinned: [usize; 2],
}

impl BlockGrid {
    fn nearest(&self, x: f32) -> f32 {
        if self.step == 0. || !self.step.is_finite() {
            return self.zero;
        }
        let code = ((x - self.zero) / self.step).round().clamp(0., self.top);
        self.zero + code * self.step
    }
}

/// A quantizer that rounds blocks of columns independently.
pub trait BlockQuantizer: Sync {
    /// The number of consecutive columns that are quantized together.
    fn block(&self) -> usize;

    /// The grid of a block of a row, where it has equal steps and is known.
    fn grid(&self, block: &[f32]) -> Option<BlockGrid>;

    /// The values of `columns` (O, B) after rounding.
    ///
    /// # Errors
    /// When the quantizer fails.
    fn round(&self, columns: &Tensor) -> Result<Tensor>;
}

/// The weight to quantize instead of `weight`, so that the error at the outputs for `inputs`
/// is small.
///
/// Shapes: `weight` (O, I), result (O, I), both f32.
///
/// # Errors
/// When the shapes differ, or `inputs` are not finite.
pub fn gptq(
    weight: &Tensor,
    inputs: &LayerInputs,
    quantizer: &dyn BlockQuantizer,
) -> Result<Tensor> {
    let (o, i) = weight.dims2()?;
    let upper = inputs.factor()?;
    let mut w: Vec<f32> = weight.flatten_all()?.to_vec1()?;
    let block = quantizer.block().clamp(1, i);
    for start in (0..i).step_by(block) {
        let end = (start + block).min(i);
        let b = end - start;
        // U_BB and U_BR, row-major
        let square = (0..b * b).map(|k| upper[(start + k / b, start + k % b)] as f32);
        let square: Vec<f32> = square.collect();
        let mut rows = w.chunks(i);
        let known = rows.all(|row| quantizer.grid(&row[start..end]).is_some());
        // `E U_BB^-1` (O, B), and the columns as they are to be
        let scaled: Vec<f32> = if known {
            w.par_chunks_mut(i)
                .flat_map_iter(|row| one_by_one(&mut row[start..end], &square, quantizer))
                .collect()
        } else {
            let columns: Vec<f32> = w.chunks(i).flat_map(|r| r[start..end].to_vec()).collect();
            let columns = Tensor::from_vec(columns, (o, b), &Device::Cpu)?;
            let rounded = quantizer.round(&columns)?;
            let mut errors: Vec<f32> = (columns - rounded)?.flatten_all()?.to_vec1()?;
            errors.par_chunks_mut(b).for_each(|e| solve(e, &square));
            errors
        };
        if end < i {
            let places = (start..end).flat_map(|r| (end..i).map(move |c| (r, c)));
            let rest: Vec<f32> = places.map(|at| upper[at] as f32).collect();
            let rest = Tensor::from_vec(rest, (b, i - end), &Device::Cpu)?;
            let scaled = Tensor::from_vec(scaled, (o, b), &Device::Cpu)?;
            let change: Vec<f32> = scaled.matmul(&rest)?.flatten_all()?.to_vec1()?;
            for (row, change) in w.chunks_mut(i).zip(change.chunks(i - end)) {
                for (x, change) in row[end..].iter_mut().zip(change) {
                    *x -= change;
                }
            }
        }
    }
    Ok(Tensor::from_vec(w, (o, i), &Device::Cpu)?)
}

/// Rounds a block of a row to its grid column by column, each compensating for those before;
/// returns `E U_BB^-1`.
fn one_by_one(row: &mut [f32], upper: &[f32], quantizer: &dyn BlockQuantizer) -> Vec<f32> {
    let b = row.len();
    let Some(grid) = quantizer.grid(row) else {
        return vec![0.; b];
    };
    let before = row.to_vec();
    let mut wanted = before.clone();
    let mut scaled = vec![0.; b];
    for j in 0..b {
        row[j] = match grid.pinned.contains(&j) {
            true => before[j],
            false => grid.nearest(wanted[j]),
        };
        scaled[j] = (wanted[j] - row[j]) / upper[j * b + j];
        for (k, wanted) in wanted.iter_mut().enumerate().skip(j + 1) {
            *wanted -= scaled[j] * upper[j * b + k];
        }
    }
    scaled
}

/// `e <- e U^-1` for an upper triangular U.
fn solve(e: &mut [f32], upper: &[f32]) {
    let b = e.len();
    for j in 0..b {
        e[j] /= upper[j * b + j];
        for k in j + 1..b {
            e[k] -= e[j] * upper[j * b + k];
        }
    }
}

#[cfg(test)]
mod tests;
