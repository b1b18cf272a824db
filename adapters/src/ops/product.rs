//! Matrix products with a weight that lies in memory as it is, in f32 on the CPU.
//!
//! A frozen weight is multiplied with from both sides: rows by its rows in the forward,
//! rows by its columns in the backward. A general product packs the weight anew each time
//! and gains by it only when it has many rows to multiply; the forests of a tuning have a
//! few hundred. Here one small kernel serves both: in the forward the weight is only read,
//! one row after another, and the activations are packed; in the backward the weight is
//! packed, a few cache lines at a time, and the activations are only read.
//!
//! Every number is a sum in the order of the inner dimension, whatever else is computed
//! beside it: a row's result does not depend on the other rows or on the number of threads.

use super::slice::fma;
use rayon::prelude::*;

/// Columns of a panel: two vectors of AVX, one of AVX-512.
const LANES: usize = 16;

/// Rows that a kernel holds: with two vectors each they fill AVX's registers.
const ROWS: usize = 6;

/// Inner indices that are summed at a time; a panel of so many lies in the L1 cache.
const DEPTH: usize = 256;

/// Output columns of one task.
const COLUMNS: usize = 96;

/// `x W^T`. Shapes: `x` (N, I), `w` (O, I), both row-major; result (N, O).
pub(super) fn by_rows(x: &[f32], w: &[f32], inner: usize) -> Vec<f32> {
    let (n, outputs) = (x.len() / inner, w.len() / inner);
    let packed = transposed_panels(x, inner);
    let mut y = vec![0f32; n * outputs];
    columns(&mut y, outputs).into_par_iter().for_each(|task| {
        let (first, mut y) = task;
        let width = y.first().map_or(0, |y| y.len());
        let w = &w[first * inner..][..width * inner];
        for from in (0..inner).step_by(DEPTH) {
            let depth = from..inner.min(from + DEPTH);
            for (panel, y) in packed.chunks_exact(inner).zip(y.chunks_mut(LANES)) {
                let panel = &panel[depth.clone()];
                for (block, w) in w.chunks(ROWS * inner).enumerate() {
                    let held = w.len() / inner;
                    let tile = tile(|r| &w[r.min(held - 1) * inner..][depth.clone()], panel);
                    for (lane, y) in y.iter_mut().enumerate() {
                        let y = &mut y[block * ROWS..][..held];
                        y.iter_mut().zip(&tile).for_each(|(y, t)| *y += t[lane]);
                    }
                }
            }
        }
    });
    y
}

/// `y += g W`. Shapes: `g` (N, O), `w` (O, I), `y` (N, I), all row-major; `inner` is O.
pub(super) fn by_columns(y: &mut [f32], g: &[f32], w: &[f32], inner: usize) {
    let outputs = w.len() / inner;
    columns(y, outputs).into_par_iter().for_each(|task| {
        let (first, mut y) = task;
        let width = y.first().map_or(0, |y| y.len());
        let mut packed = vec![[0f32; LANES]; width.div_ceil(LANES) * DEPTH];
        for from in (0..inner).step_by(DEPTH) {
            let depth = from..inner.min(from + DEPTH);
            for (k, row) in depth.clone().enumerate() {
                let row = &w[row * outputs + first..][..width];
                for (panel, lanes) in row.chunks(LANES).enumerate() {
                    packed[panel * DEPTH + k][..lanes.len()].copy_from_slice(lanes);
                }
            }
            for (block, y) in y.chunks_mut(ROWS).enumerate() {
                let g = &g[block * ROWS * inner..][..y.len() * inner];
                let held = y.len();
                for (panel, packed) in packed.chunks_exact(DEPTH).enumerate() {
                    let panel_rows = &packed[..depth.len()];
                    let row = |r: usize| &g[r.min(held - 1) * inner..][depth.clone()];
                    let tile = tile(row, panel_rows);
                    for (y, t) in y.iter_mut().zip(&tile) {
                        let (from, to) = (panel * LANES, width.min((panel + 1) * LANES));
                        y[from..to].iter_mut().zip(t).for_each(|(y, t)| *y += t);
                    }
                }
            }
        }
    });
}

/// `t[r] = sum_k a(r)[k] panel[k]`. Shapes: ROWS rows (K,), panel (K, LANES).
#[inline(always)]
fn tile<'a>(a: impl Fn(usize) -> &'a [f32], panel: &[[f32; LANES]]) -> [[f32; LANES]; ROWS] {
    let a: [&[f32]; ROWS] = std::array::from_fn(|r| &a(r)[..panel.len()]);
    let mut sums = [[0f32; LANES]; ROWS];
    for (k, b) in panel.iter().enumerate() {
        for (sums, a) in sums.iter_mut().zip(a) {
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum = fma(a[k], *b, *sum);
            }
        }
    }
    sums
}

/// Rows of `x` (N, K) in panels of LANES, each (K, LANES): lane l of panel p is row
/// `LANES p + l`; zeros beyond the last.
fn transposed_panels(x: &[f32], inner: usize) -> Vec<[f32; LANES]> {
    let n = x.len() / inner;
    let mut panels = vec![[0f32; LANES]; n.div_ceil(LANES) * inner];
    panels
        .par_chunks_exact_mut(inner)
        .zip(x.par_chunks(LANES * inner))
        .for_each(|(panel, rows)| {
            for (lane, row) in rows.chunks_exact(inner).enumerate() {
                panel.iter_mut().zip(row).for_each(|(p, x)| p[lane] = *x);
            }
        });
    panels
}

/// The columns of a table, cut into tasks: the first column of each, and its part of
/// every row.
fn columns(y: &mut [f32], width: usize) -> Vec<(usize, Vec<&mut [f32]>)> {
    let mut tasks: Vec<(usize, Vec<&mut [f32]>)> = (0..width)
        .step_by(COLUMNS)
        .map(|c| (c, Vec::new()))
        .collect();
    for row in y.chunks_exact_mut(width) {
        for (task, part) in tasks.iter_mut().zip(row.chunks_mut(COLUMNS)) {
            task.1.push(part);
        }
    }
    tasks
}
