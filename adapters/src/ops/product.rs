//! Products of rows with a weight (O, I), as checkpoints hold it, and of small tables.

use super::fused;
use super::slice::{with_data, zeros};
use candle_core::{Result, Tensor};
pub(super) use faer::linalg::matmul::matmul as multiply;
use faer::{Accum, MatMut, MatRef, Par};

/// `x W^T`. Shapes: `x` (N, I), `weight` (O, I), result (N, O). No gradient is recorded.
///
/// candle's product first copies the whole weight into the order in which it reads the right
/// side, which takes most of the time where rows are few; faer's copies as it goes.
///
/// # Errors
/// When the shapes do not fit.
pub(super) fn product(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let ((rows, _), (outputs, _)) = (x.dims2()?, weight.dims2()?);
    if !fused(x) || !fused(weight) || rows == 1 {
        return x.detach().matmul(&weight.t()?);
    }
    let y = with_data(x, |x| {
        with_data(weight, |w| {
            let mut y = zeros(rows * outputs);
            add_product(&mut y, table(x, rows), table(w, outputs).transpose(), 1.);
            Ok(y)
        })
    })?;
    Tensor::from_vec(y, (rows, outputs), x.device())
}

/// `g W`, the gradient of what the layer read. Shapes: `g` (N, O), `weight` (O, I), result
/// (N, I). No gradient is recorded.
///
/// # Errors
/// When the shapes do not fit.
pub(super) fn product_back(g: &Tensor, weight: &Tensor) -> Result<Tensor> {
    if !fused(g) || !fused(weight) {
        return g.detach().matmul(&weight.detach());
    }
    let ((rows, _), (_, inputs)) = (g.dims2()?, weight.dims2()?);
    let mut sum = zeros(rows * inputs);
    add_product_back(&mut sum, g, weight)?;
    Tensor::from_vec(sum, (rows, inputs), g.device())
}

/// `sum += g W`, on the CPU in f32.
///
/// # Errors
/// When the shapes do not fit.
pub(super) fn add_product_back(sum: &mut [f32], g: &Tensor, weight: &Tensor) -> Result<()> {
    let ((rows, _), (outputs, _)) = (g.dims2()?, weight.dims2()?);
    with_data(g, |g| {
        with_data(weight, |w| {
            add_product(sum, table(g, rows), table(w, outputs), 1.);
            Ok(())
        })
    })
}

/// Data as a table of `rows` rows.
pub(super) fn table(data: &[f32], rows: usize) -> MatRef<'_, f32> {
    MatRef::from_row_major_slice(data, rows, data.len() / rows.max(1))
}

/// `sum += scale a b`, on the threads of the pool.
///
/// faer is asked for `b^T a^T`: with the columns of `b`, of which a weight has more than a batch
/// has rows, as what it goes through in vectors, it is up to a tenth faster.
pub(super) fn add_product(sum: &mut [f32], a: MatRef<f32>, b: MatRef<f32>, scale: f32) {
    let sum = MatMut::from_row_major_slice_mut(sum, a.nrows(), b.ncols()).transpose_mut();
    let (left, right) = (b.transpose(), a.transpose());
    multiply(sum, Accum::Add, left, right, scale, Par::rayon(0));
}
