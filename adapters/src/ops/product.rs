//! Products of rows with a weight (O, I), as checkpoints hold it, and of small tables.

use super::fused;
use super::slice::{with_data, zeros};
use candle_core::{Result, Tensor};
pub(super) use faer::linalg::matmul::matmul as multiply;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

/// Fewest rows for which faer's product is the faster one.
const MANY: usize = 96;

/// `x W^T`. Shapes: `x` (N, I), `weight` (O, I), result (N, O). No gradient is recorded.
///
/// With few rows candle's product first copies the whole weight into the order in which it
/// reads the left side. It is asked for `W x^T` instead, whose columns are the rows of x, and
/// the two small tables are turned around. With many rows faer's product needs no turning.
///
/// # Errors
/// When the shapes do not fit.
pub(super) fn product(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let ((rows, _), (outputs, _)) = (x.dims2()?, weight.dims2()?);
    match rows {
        _ if !fused(x) || !fused(weight) || rows == 1 => x.detach().matmul(&weight.t()?),
        MANY.. => {
            let y = with_data(x, |x| {
                with_data(weight, |w| {
                    let mut y = zeros(rows * outputs);
                    let to = MatMut::from_row_major_slice_mut(&mut y, rows, outputs);
                    let (x, w) = (table(x, rows), table(w, outputs).transpose());
                    multiply(to, Accum::Replace, x, w, 1., Par::rayon(0));
                    Ok(y)
                })
            })?;
            Tensor::from_vec(y, (rows, outputs), x.device())
        }
        _ => transposed(&weight.matmul(&transposed(&x.detach())?)?),
    }
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
pub(super) fn add_product(sum: &mut [f32], a: MatRef<f32>, b: MatRef<f32>, scale: f32) {
    let sum = MatMut::from_row_major_slice_mut(sum, a.nrows(), b.ncols());
    multiply(sum, Accum::Add, a, b, scale, Par::rayon(0));
}

/// A copy (C, R) of `x` (R, C) with its sides exchanged.
fn transposed(x: &Tensor) -> Result<Tensor> {
    let (rows, columns) = x.dims2()?;
    let data = with_data(x, |x| Ok(transpose(x, rows, columns)))?;
    Tensor::from_vec(data, (columns, rows), x.device())
}

/// Tiles of 16 x 16, in parallel over bands of 16 columns.
fn transpose(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    const SIDE: usize = 16;
    let mut out = zeros(x.len());
    let bands = out.par_chunks_mut(SIDE * rows).enumerate();
    bands.with_min_len(4).for_each(|(band, out)| {
        let (left, width) = (band * SIDE, out.len() / rows);
        for top in (0..rows).step_by(SIDE) {
            let height = SIDE.min(rows - top);
            let mut tile = [[0f32; SIDE]; SIDE];
            for (r, row) in x[top * columns..].chunks(columns).take(height).enumerate() {
                for (c, value) in row[left..left + width].iter().enumerate() {
                    tile[c][r] = *value;
                }
            }
            for (column, tile) in out.chunks_exact_mut(rows).zip(&tile) {
                column[top..top + height].copy_from_slice(&tile[..height]);
            }
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use super::transpose;

    #[test]
    fn sides_are_exchanged_whatever_their_size() {
        for (rows, columns) in [(1, 1), (2, 5), (16, 16), (17, 33), (40, 15), (3, 130)] {
            let x: Vec<f32> = (0..rows * columns).map(|i| i as f32).collect();
            let y = transpose(&x, rows, columns);
            for (i, value) in y.iter().enumerate() {
                assert_eq!(*value, x[i % rows * columns + i / rows]);
            }
        }
    }
}
