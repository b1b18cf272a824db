//! Products of rows with a weight (O, I), as checkpoints hold it, and of small tables.

use super::fused;
use super::slice::{data_of, with_data, zeros};
use candle_core::{Result, Tensor};
pub(super) use faer::linalg::matmul::matmul as multiply;
use faer::prelude::ReborrowMut;
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
    let mut sum = Vec::new();
    add_products_back(&mut sum, &[(g, weight)])?;
    Tensor::from_vec(sum, (g.dim(0)?, weight.dim(1)?), g.device())
}

/// `sum += sum_i g_i W_i`, the gradient (N, I) of what several layers read; an empty `sum` is
/// one of zeros. Shapes: `g_i` (N, O_i), `W_i` (O_i, I), on the CPU in f32.
///
/// # Errors
/// When the shapes do not fit.
pub(super) fn add_products_back(sum: &mut Vec<f32>, layers: &[(&Tensor, &Tensor)]) -> Result<()> {
    let Some((g, weight)) = layers.first() else {
        return Ok(());
    };
    let (rows, inputs) = (g.dim(0)?, weight.dim(1)?);
    if sum.is_empty() {
        *sum = zeros(rows * inputs);
    }
    let whole = layers.iter().flat_map(|(g, weight)| [g, weight]);
    let whole = whole.map(|t| t.contiguous()).collect::<Result<Vec<_>>>()?;
    let read: Vec<_> = whole.iter().map(Tensor::storage_and_layout).collect();
    let data = read
        .iter()
        .map(|(storage, layout)| data_of(storage, layout));
    let data = data.collect::<Result<Vec<_>>>()?;
    let pairs = data.chunks_exact(2);
    let pairs = pairs.map(|pair| (table(pair[0], rows), table(pair[1], pair[1].len() / inputs)));
    let pairs: Vec<_> = pairs.collect();
    add_products(sum, &pairs, 1.);
    Ok(())
}

/// Data as a table of `rows` rows.
pub(super) fn table(data: &[f32], rows: usize) -> MatRef<'_, f32> {
    MatRef::from_row_major_slice(data, rows, data.len() / rows.max(1))
}

/// `sum += scale a b`, in parts on the threads of the pool.
pub(super) fn add_product(sum: &mut [f32], a: MatRef<f32>, b: MatRef<f32>, scale: f32) {
    add_products(sum, &[(a, b)], scale);
}

/// Two tables that are multiplied.
type Pair<'a> = (MatRef<'a, f32>, MatRef<'a, f32>);

/// `sum += scale sum_i a_i b_i`, in parts on the threads of the pool.
fn add_products(sum: &mut [f32], pairs: &[Pair], scale: f32) {
    let Some((a, b)) = pairs.first() else { return };
    let sum = MatMut::from_row_major_slice_mut(sum, a.nrows(), b.ncols());
    // more parts than threads, so that one that is held up leaves its share to the others
    in_parts(sum, pairs, scale, 8 * rayon::current_num_threads());
}

/// A part is that of some columns of `b`, or of some rows of `a` where `b` has few columns.
fn in_parts(sum: MatMut<f32>, pairs: &[Pair], scale: f32, parts: usize) {
    // rows of a tile of faer's kernels divide it
    const SIDE: usize = 48;
    let half = |n: usize| (n / 2).next_multiple_of(SIDE);
    let (rows, columns) = (sum.nrows(), sum.ncols());
    if parts < 2 || rows.max(columns) < 2 * SIDE {
        return part(sum, pairs, scale);
    }
    let (left, right): (Vec<Pair>, Vec<Pair>);
    let (s, t) = match columns >= 2 * SIDE {
        true => {
            let at = half(columns);
            let halves = pairs.iter().map(|&(a, b)| {
                let (b, c) = b.split_at_col(at);
                ((a, b), (a, c))
            });
            (left, right) = halves.unzip();
            sum.split_at_col_mut(at)
        }
        false => {
            let at = half(rows);
            let halves = pairs.iter().map(|&(a, b)| {
                let (a, c) = a.split_at_row(at);
                ((a, b), (c, b))
            });
            (left, right) = halves.unzip();
            sum.split_at_row_mut(at)
        }
    };
    rayon::join(
        || in_parts(s, &left, scale, parts / 2),
        || in_parts(t, &right, scale, parts / 2),
    );
}

/// `sum += scale sum_i a_i b_i` on one thread. faer packs what it goes through in vectors: the
/// columns of `b`, of which a weight has more than a batch has rows. Where rows are few, packing
/// a weight that does not lie so takes as long as multiplying: it then goes through the rows of
/// `a`, into a table that is turned around when it is added.
fn part(mut sum: MatMut<f32>, pairs: &[Pair], scale: f32) {
    const FEW: usize = 72;
    for &(a, b) in pairs {
        if a.nrows() <= FEW && b.row_stride() == 1 {
            let mut turned = vec![0.; a.nrows() * b.ncols()];
            let to = MatMut::from_column_major_slice_mut(&mut turned, a.nrows(), b.ncols());
            multiply(to, Accum::Replace, a, b, scale, Par::Seq);
            sum += MatRef::from_column_major_slice(&turned, a.nrows(), b.ncols());
        } else {
            let sum = sum.rb_mut().transpose_mut();
            let (left, right) = (b.transpose(), a.transpose());
            multiply(sum, Accum::Add, left, right, scale, Par::Seq);
        }
    }
}
