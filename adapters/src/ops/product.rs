//! The product of rows with a weight (O, I), as checkpoints hold it.

use super::slice::with_data;
use candle_core::{DType, Result, Tensor};
use rayon::prelude::*;

/// `x W^T`. Shapes: `x` (N, I), `weight` (O, I), result (N, O). No gradient is recorded.
///
/// A product on the CPU reads its left side column by column: asked for `x W^T` it first
/// copies the whole weight into that order, which for a hundred rows takes as long as the
/// product. This asks for `W x^T` instead, whose columns are the rows of x, and turns the two
/// small tables around.
///
/// # Errors
/// When the shapes do not fit.
pub(super) fn product(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let rows = x.dims2()?.0;
    let here = x.device().is_cpu() && x.dtype() == DType::F32;
    match here && rows > 1 {
        true => transposed(&weight.matmul(&transposed(&x.detach())?)?),
        false => x.detach().matmul(&weight.t()?),
    }
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
    let mut out = vec![0f32; x.len()];
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
