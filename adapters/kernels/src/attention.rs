//! Attention over a prefix tree: every token looks at its ancestors and at nothing else.

use crate::ancestors::{Ancestors, Neighbours};
use crate::gemm::{Table, multiplied, multiply, multiply_add, row, table, table_mut};
use crate::recorded::recorded;
use crate::slice::{dot, exp, fma, max, sum, tensor, with_data, zeros};
use candle_core::{Result, Tensor, bail};
use ndarray::{ArrayViewMut2, Axis, s};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// Softmax attention with grouped queries.
///
/// `y[m] = sum_j softmax_j(q[m] . k[j] / sqrt(D)) v[j]`, j over the ancestors of token m
///
/// Shapes: `q` (M, heads * D), `k` and `v` (N, kv_heads * D), `ancestors` of the M
/// querying tokens with numbers below N; result (M, heads * D).
///
/// # Errors
/// When the shapes do not fit, or a tensor is not f32 on the CPU.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    ancestors: &Arc<Ancestors>,
    head_dim: usize,
) -> Result<Tensor> {
    let ((m, width), (_, kv_width)) = (q.dims2()?, k.dims2()?);
    let op = Attention::of((width, kv_width), ancestors, head_dim);
    let lists = ancestors.len();
    if lists != m || width % head_dim != 0 || !op.heads.is_multiple_of(op.kv_heads.max(1)) {
        bail!(
            "attention: {m} queries of width {width} with {lists} ancestor lists, head_dim {head_dim}, kv width {kv_width}"
        )
    }
    let (q, k, v) = (&q.contiguous()?, &k.contiguous()?, &v.contiguous()?);
    let y = with_data([q, k, v], |qkv| op.forward(qkv))?;
    let y = (y, q.shape().clone());
    recorded("attention", [q, k, v], y, move |[q, k, v], y, g| {
        let [gq, gk, gv] = with_data([q, k, v, y, g], |[q, k, v, y, g]| {
            op.backward([q, k, v], y, g, true)
        })?;
        let given = |data, like| tensor(data, like).map(Some);
        Ok([given(gq, q)?, given(gk, k)?, given(gv, v)?])
    })
}

/// Which heads there are, and which rows each row sees.
pub(crate) struct Attention {
    ancestors: Arc<Ancestors>,
    head_dim: usize,
    heads: usize,
    kv_heads: usize,
}

impl Attention {
    /// For queries, and for keys and values, of these widths.
    pub(crate) fn of(widths: (usize, usize), ancestors: &Arc<Ancestors>, head_dim: usize) -> Self {
        let (heads, kv_heads) = (widths.0 / head_dim, widths.1 / head_dim);
        let ancestors = ancestors.clone();
        Self {
            ancestors,
            head_dim,
            heads,
            kv_heads,
        }
    }

    fn scale(&self) -> f32 {
        1. / (self.head_dim as f32).sqrt()
    }

    /// The columns of one head, of all rows of a table.
    fn head<'a>(&self, data: &'a [f32], heads: usize, head: usize) -> Table<'a> {
        let d = self.head_dim;
        let rows = data.len() / (heads * d);
        table(data, rows).slice_move(s![.., head * d..(head + 1) * d])
    }

    /// Softmax weights of some rows over what they see; 0 where a row sees less than the others.
    fn weights(&self, q: Table, k: Table, n: &Neighbours) -> Vec<f32> {
        let mut weights = multiplied((q, k.reversed_axes()), self.scale());
        let rows = weights.chunks_exact_mut(n.width()).enumerate();
        rows.for_each(|(i, row)| softmax(row, n.seen(i)));
        weights
    }

    /// Result (M, heads * D).
    pub(crate) fn forward(&self, [q, k, v]: [&[f32]; 3]) -> Vec<f32> {
        let (d, group) = (self.head_dim, self.heads / self.kv_heads);
        let groups = self.ancestors.neighbours();
        // a row that is computed alone is one part of the work, or several, of some heads each
        let parts = rayon::current_num_threads().div_ceil(self.ancestors.len().max(1));
        let at_a_time = self.heads.div_ceil(parts).max(1);
        let mut all = zeros(q.len());
        let mut below = all.as_mut_slice();
        let (mut tasks, mut alone) = (Vec::new(), Vec::new());
        for n in groups {
            let (these, rest) = below.split_at_mut(n.rows.len() * self.heads * d);
            below = rest;
            if n.one_by_one() {
                for (m, y) in n.rows.clone().zip(these.chunks_exact_mut(self.heads * d)) {
                    let parts = y.chunks_mut(at_a_time * d).enumerate();
                    alone.extend(parts.map(|(part, y)| (m, part * at_a_time, y)));
                }
                continue;
            }
            let mut heads = table_mut(these, n.rows.len());
            for h in 0..self.heads {
                let (y, others) = heads.split_at(Axis(1), d);
                tasks.push((n, h, y));
                heads = others;
            }
        }
        tasks.into_par_iter().for_each(|(n, h, y)| {
            let q = (self.head(q, self.heads, h)).slice_move(s![n.rows.clone(), ..]);
            let [k, v] = [k, v].map(|t| n.seen_of(self.head(t, self.kv_heads, h / group)));
            let p = self.weights(q, k.view(), n);
            multiply(y, (table(&p, n.rows.len()), v.view()), 1.);
        });
        let alone = alone.into_par_iter();
        alone.for_each(|(m, from, y)| self.alone(m, from, [q, k, v], y));
        all
    }

    /// Adds to `y`, which is 0 before, the result of row `m` for as many heads from `from` on as
    /// `y` has. What the row sees is read where it lies, a whole row at a time.
    fn alone(&self, m: usize, from: usize, [q, k, v]: [&[f32]; 3], y: &mut [f32]) {
        let (d, group, scale) = (self.head_dim, self.heads / self.kv_heads, self.scale());
        let q = &q[(m * self.heads + from) * d..][..y.len()];
        let spans = self.ancestors.spans(m);
        let rows = || spans.iter().flat_map(|&(a, b)| a as usize..b as usize);
        let of = |head: usize, j: usize| (j * self.kv_heads + (from + head) / group) * d;
        let width = rows().count();
        let mut weights = vec![0.; y.len() / d * width];
        for (column, j) in rows().enumerate() {
            for (head, q) in q.chunks_exact(d).enumerate() {
                let k = &k[of(head, j)..][..d];
                weights[head * width + column] = scale * dot(q, k);
            }
        }
        let all = 0..width;
        for weights in weights.chunks_exact_mut(width) {
            softmax(weights, std::slice::from_ref(&all));
        }
        for (column, j) in rows().enumerate() {
            for (head, y) in y.chunks_exact_mut(d).enumerate() {
                let (p, v) = (weights[head * width + column], &v[of(head, j)..][..d]);
                y.iter_mut().zip(v).for_each(|(y, v)| *y = fma(p, *v, *y));
            }
        }
    }

    /// Gradients of q, k and v, given the result `y` and its gradient `g`; those of q and k are 0
    /// if none goes `through_scores`.
    ///
    /// With P the weights of some rows and G the gradient of what they gave: `gV += P^T G`,
    /// `S = P (G V^T - G . Y) / sqrt(D)`, `gQ = S K`, `gK += S^T Q`.
    pub(crate) fn backward(
        &self,
        [q, k, v]: [&[f32]; 3],
        y: &[f32],
        g: &[f32],
        through_scores: bool,
    ) -> [Vec<f32>; 3] {
        let (d, group, scale) = (self.head_dim, self.heads / self.kv_heads, self.scale());
        let groups = self.ancestors.neighbours();
        let (mut gq, mut gk, mut gv) = (zeros(q.len()), zeros(k.len()), zeros(v.len()));
        let (rows, seen) = (self.ancestors.len(), k.len() / (self.kv_heads * d));
        let mut tables = [(&mut gq, rows), (&mut gk, seen), (&mut gv, seen)]
            .map(|(data, rows)| table_mut(data, rows));
        let [queries, keys, values] = &mut tables;
        let tasks = queries
            .axis_chunks_iter_mut(Axis(1), group * d)
            .zip(keys.axis_chunks_iter_mut(Axis(1), d))
            .zip(values.axis_chunks_iter_mut(Axis(1), d));
        // One task a kv head: its columns are written by nobody else, and summed in the order
        // of rows.
        type Gradient<'a> = ArrayViewMut2<'a, f32>;
        let part = |(kv, ((mut gq, mut gk), mut gv)): (usize, ((Gradient, Gradient), Gradient))| {
            for n in groups {
                let [k, v] = [k, v].map(|t| n.seen_of(self.head(t, self.kv_heads, kv)));
                for i in 0..group {
                    let of = |t| {
                        let head = self.head(t, self.heads, kv * group + i);
                        head.slice_move(s![n.rows.clone(), ..])
                    };
                    let (q, y, g) = (of(q), of(y), of(g));
                    let p = self.weights(q, k.view(), n);
                    let weights = table(&p, n.rows.len());
                    for (run, columns) in n.runs() {
                        let p = weights.slice(s![.., columns]).reversed_axes();
                        multiply_add(gv.slice_mut(s![run, ..]), (p, g), 1.);
                    }
                    if !through_scores {
                        continue;
                    }
                    let mut s = multiplied((g, v.t()), 1.);
                    let rows = s.chunks_exact_mut(n.width()).zip(p.chunks_exact(n.width()));
                    for ((s, p), (g, y)) in rows.zip(g.rows().into_iter().zip(y.rows())) {
                        let gy = dot(row(g), row(y));
                        for (s, p) in s.iter_mut().zip(p) {
                            *s = p * (*s - gy) * scale;
                        }
                    }
                    let scores = table(&s, n.rows.len());
                    let to = gq.slice_mut(s![n.rows.clone(), i * d..(i + 1) * d]);
                    multiply(to, (scores, k.view()), 1.);
                    for (run, columns) in n.runs() {
                        let s = scores.slice(s![.., columns]).reversed_axes();
                        multiply_add(gk.slice_mut(s![run, ..]), (s, q), 1.);
                    }
                }
            }
        };
        let tasks: Vec<_> = tasks.enumerate().collect();
        tasks.into_par_iter().for_each(part);
        [gq, gk, gv]
    }
}

/// Makes scores weights, in what is seen; the rest becomes 0.
fn softmax(scores: &mut [f32], seen: &[Range<usize>]) {
    let max = seen.iter().map(|columns| max(&scores[columns.clone()]));
    let max = max.fold(f32::NEG_INFINITY, f32::max);
    let (mut total, mut at) = (0., 0);
    for columns in seen {
        scores[at..columns.start].fill(0.);
        let scores = &mut scores[columns.clone()];
        scores.iter_mut().for_each(|p| *p = exp(*p - max));
        total += sum(scores);
        at = columns.end;
    }
    scores[at..].fill(0.);
    let one = 1. / total;
    scores.iter_mut().for_each(|p| *p *= one);
}
