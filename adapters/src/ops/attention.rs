//! Attention over a forest: every row looks at its ancestors, and at nothing else.

use super::fused;
use super::neighbours::Neighbours;
use super::product::{multiply, table};
use super::slice::{contiguous, exp, max, sum, with_data};
use crate::forest::Ancestry;
use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result, Shape, Tensor, bail};
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;
use std::sync::Arc;

/// Softmax attention with grouped queries.
///
/// `y[m] = sum_j softmax_j(q[m] . k[j] / sqrt(D)) v[j]`, j over the ancestors of row m
///
/// Shapes: `q` (M, heads * D), `k` and `v` (N, kv_heads * D), `ancestry` of the M
/// querying rows with row numbers below N; result (M, heads * D).
///
/// # Errors
/// When the shapes do not fit.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    ancestry: &Arc<Ancestry>,
    head_dim: usize,
) -> Result<Tensor> {
    if !fused(q) {
        return attention_composed(q, k, v, ancestry, head_dim);
    }
    let op = Attention::new(q, k, ancestry.clone(), head_dim)?;
    q.contiguous()?
        .apply_op3(&k.contiguous()?, &v.contiguous()?, op)
}

/// Rows of queries whose scores [`attention_composed`] holds at a time.
const PIECE: usize = 256;

/// [`attention`] from candle ops, with dense masks of 256 rows of queries at a time.
///
/// Without a backward to come, no more than one such piece of scores (heads, 256, N) lies
/// in memory.
///
/// # Errors
/// When the shapes do not fit.
pub fn attention_composed(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    ancestry: &Ancestry,
    head_dim: usize,
) -> Result<Tensor> {
    in_pieces(q, k, v, ancestry, head_dim, PIECE)
}

pub(super) fn in_pieces(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    ancestry: &Ancestry,
    head_dim: usize,
    piece: usize,
) -> Result<Tensor> {
    let ((m, width), (n, kv_width)) = (q.dims2()?, k.dims2()?);
    let (heads, kv_heads) = (width / head_dim, kv_width / head_dim);
    let split = |t: &Tensor, rows: usize, heads: usize| {
        t.reshape((rows, heads, head_dim))?
            .transpose(0, 1)?
            .contiguous() // (heads, rows, D)
    };
    let repeat = |t: Tensor| {
        t.unsqueeze(1)?
            .repeat((1, heads / kv_heads, 1, 1))?
            .reshape((heads, n, head_dim))
    };
    let q = split(q, m, heads)?;
    let (k, v) = (
        repeat(split(k, n, kv_heads)?)?,
        repeat(split(v, n, kv_heads)?)?,
    );
    let scale = 1. / (head_dim as f64).sqrt();
    let mut pieces = Vec::new();
    for from in (0..m).step_by(piece) {
        let rows = piece.min(m - from);
        let spans = |row: usize| ancestry.spans(from + row);
        let seen = (0..rows).flat_map(spans).map(|&(_, to)| to as usize);
        let n = seen.max().unwrap_or(0);
        let mut mask = vec![f32::NEG_INFINITY; rows * n];
        for row in 0..rows {
            for &(from, to) in spans(row) {
                mask[row * n + from as usize..row * n + to as usize].fill(0.);
            }
        }
        let mask = Tensor::from_vec(mask, (1, rows, n), q.device())?;
        let (q, k, v) = (
            q.narrow(1, from, rows)?,
            k.narrow(1, 0, n)?,
            v.narrow(1, 0, n)?,
        );
        let scores = (q.matmul(&k.t()?)?.to_dtype(DType::F32)? * scale)?;
        let scores = scores.broadcast_add(&mask)?; // (heads, rows, n)
        let weights = candle_nn::ops::softmax(&scores, 2)?;
        pieces.push(weights.to_dtype(v.dtype())?.matmul(&v)?);
    }
    let y = Tensor::cat(&pieces, 1)?; // (heads, M, D)
    y.transpose(0, 1)?.reshape((m, width))
}

/// Which heads there are, and which rows each row sees.
pub(super) struct Attention {
    pub ancestry: Arc<Ancestry>,
    pub head_dim: usize,
    pub heads: usize,
    pub kv_heads: usize,
}

/// Data of q, k and v, or of their gradients.
pub(super) struct Heads<T> {
    pub q: T,
    pub k: T,
    pub v: T,
}

impl Attention {
    fn new(q: &Tensor, k: &Tensor, ancestry: Arc<Ancestry>, head_dim: usize) -> Result<Self> {
        let ((m, width), (_, kv_width)) = (q.dims2()?, k.dims2()?);
        let (heads, kv_heads) = (width / head_dim, kv_width / head_dim);
        if ancestry.len() != m || width % head_dim != 0 || heads % kv_heads.max(1) != 0 {
            bail!(
                "attention: {m} queries of width {width} with {} ancestries, head_dim {head_dim}, kv width {kv_width}",
                ancestry.len()
            )
        }
        Ok(Self {
            ancestry,
            head_dim,
            heads,
            kv_heads,
        })
    }

    fn scale(&self) -> f32 {
        1. / (self.head_dim as f32).sqrt()
    }

    /// The columns of one head, of all rows of a table.
    fn head<'a>(&self, data: &'a [f32], heads: usize, head: usize) -> MatRef<'a, f32> {
        let d = self.head_dim;
        let rows = data.len() / (heads * d);
        table(data, rows).submatrix(0, head * d, rows, d)
    }

    /// `sum_r a b[r]^T`, one below the other: products of some rows with all that they see.
    fn scores(&self, a: MatRef<f32>, b: MatRef<f32>, n: &Neighbours, scale: f32) -> Vec<f32> {
        let (rows, width) = (n.rows.len(), n.width());
        let mut scores = vec![0f32; rows * width];
        for (run, columns) in n.runs() {
            let b = b.subrows(run.start, run.len());
            let to = MatMut::from_row_major_slice_mut(&mut scores, rows, width);
            let to = to.subcols_mut(columns.start, columns.len());
            multiply(to, Accum::Replace, a, b.transpose(), scale, Par::Seq);
        }
        scores
    }

    /// Softmax weights of some rows over their ancestors; 0 where a row sees nothing.
    fn weights(&self, q: MatRef<f32>, k: MatRef<f32>, n: &Neighbours) -> Vec<f32> {
        let mut weights = self.scores(q, k, n, self.scale());
        for (i, p) in weights.chunks_exact_mut(n.width()).enumerate() {
            let seen = n.seen(i);
            let max = seen.iter().map(|c| max(&p[c.clone()]));
            let max = max.fold(f32::NEG_INFINITY, f32::max);
            let (mut total, mut at) = (0., 0);
            for columns in seen {
                p[at..columns.start].fill(0.);
                let p = &mut p[columns.clone()];
                p.iter_mut().for_each(|p| *p = exp(*p - max));
                total += sum(p);
                at = columns.end;
            }
            p[at..].fill(0.);
            let one = 1. / total;
            p.iter_mut().for_each(|p| *p *= one);
        }
        weights
    }

    /// Result (M, heads * D).
    pub(super) fn forward(&self, Heads { q, k, v }: Heads<&[f32]>) -> Vec<f32> {
        let (d, group) = (self.head_dim, self.heads / self.kv_heads);
        let groups = Neighbours::all(&self.ancestry);
        let tasks: Vec<(&Neighbours, usize)> = (groups.iter())
            .flat_map(|n| (0..self.heads).map(move |h| (n, h)))
            .collect();
        let part = |&(n, h): &(&Neighbours, usize)| {
            let q = (self.head(q, self.heads, h)).subrows(n.rows.start, n.rows.len());
            let k = self.head(k, self.kv_heads, h / group);
            let v = self.head(v, self.kv_heads, h / group);
            let p = self.weights(q, k, n);
            let p = table(&p, n.rows.len());
            let mut y = vec![0f32; n.rows.len() * d];
            for (run, columns) in n.runs() {
                let y = MatMut::from_row_major_slice_mut(&mut y, n.rows.len(), d);
                let p = p.subcols(columns.start, columns.len());
                let v = v.subrows(run.start, run.len());
                multiply(y, Accum::Add, p, v, 1., Par::Seq);
            }
            y
        };
        let parts: Vec<Vec<f32>> = tasks.par_iter().map(part).collect();
        let mut all = Vec::with_capacity(q.len());
        for (n, parts) in groups.iter().zip(parts.chunks_exact(self.heads)) {
            for i in 0..n.rows.len() {
                parts
                    .iter()
                    .for_each(|y| all.extend_from_slice(&y[i * d..][..d]));
            }
        }
        all
    }

    /// Gradients of q, k and v, given the result `y` and its gradient `g`.
    ///
    /// With P the weights of some rows and G the gradient of what they gave: `gV += P^T G`,
    /// `S = P (G V^T - G . Y) / sqrt(D)`, `gQ = S K`, `gK += S^T Q`.
    pub(super) fn backward(
        &self,
        Heads { q, k, v }: Heads<&[f32]>,
        y: &[f32],
        g: &[f32],
    ) -> Heads<Vec<f32>> {
        let d = self.head_dim;
        let (m, n) = (q.len() / (self.heads * d), k.len() / (self.kv_heads * d));
        let group = self.heads / self.kv_heads;
        let groups = Neighbours::all(&self.ancestry);
        // One task a kv head: its columns of gk and gv are written by nobody else,
        // and summed in the order of rows.
        let part = |kv: usize| {
            let mut gq = vec![0f32; m * group * d];
            let (mut gk, mut gv) = (vec![0f32; n * d], vec![0f32; n * d]);
            let k = self.head(k, self.kv_heads, kv);
            let v = self.head(v, self.kv_heads, kv);
            for near in &groups {
                let rows = near.rows.len();
                for i in 0..group {
                    let h = kv * group + i;
                    let of = |t| self.head(t, self.heads, h).subrows(near.rows.start, rows);
                    let (q, y, g) = (of(q), of(y), of(g));
                    let p = self.weights(q, k, near);
                    let mut s = self.scores(g, v, near, 1.);
                    let both = s.chunks_exact_mut(near.width());
                    for (i, (s, p)) in both.zip(p.chunks_exact(near.width())).enumerate() {
                        let gy: f32 = (g.row(i).iter())
                            .zip(y.row(i).iter())
                            .map(|(g, y)| g * y)
                            .sum();
                        for (s, p) in s.iter_mut().zip(p) {
                            *s = p * (*s - gy) * self.scale();
                        }
                    }
                    let (p, s) = (table(&p, rows), table(&s, rows));
                    for (run, columns) in near.runs() {
                        let p = p.subcols(columns.start, columns.len());
                        let s = s.subcols(columns.start, columns.len());
                        let below = |t| {
                            let t = MatMut::from_row_major_slice_mut(t, n, d);
                            t.subrows_mut(run.start, run.len())
                        };
                        multiply(below(&mut gv), Accum::Add, p.transpose(), g, 1., Par::Seq);
                        multiply(below(&mut gk), Accum::Add, s.transpose(), q, 1., Par::Seq);
                        let gq = MatMut::from_row_major_slice_mut(&mut gq, m, group * d);
                        let gq = gq.submatrix_mut(near.rows.start, i * d, rows, d);
                        let k = k.subrows(run.start, run.len());
                        multiply(gq, Accum::Add, s, k, 1., Par::Seq);
                    }
                }
            }
            Heads {
                q: gq,
                k: gk,
                v: gv,
            }
        };
        let parts: Vec<Heads<Vec<f32>>> = (0..self.kv_heads).into_par_iter().map(part).collect();
        let join = |width: usize, of: fn(&Heads<Vec<f32>>) -> &[f32]| {
            let rows = of(&parts[0]).len() / width;
            let mut all = vec![0f32; rows * width * self.kv_heads];
            for (kv, part) in parts.iter().enumerate() {
                for (row, part) in of(part).chunks_exact(width).enumerate() {
                    all[(row * self.kv_heads + kv) * width..][..width].copy_from_slice(part);
                }
            }
            all
        };
        Heads {
            q: join(group * d, |p| &p.q),
            k: join(d, |p| &p.k),
            v: join(d, |p| &p.v),
        }
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let out = self.forward(Heads {
            q: contiguous("attention", s1, l1)?,
            k: contiguous("attention", s2, l2)?,
            v: contiguous("attention", s3, l3)?,
        });
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let gradients = with_data(q, |q| {
            with_data(k, |k| {
                with_data(v, |v| {
                    with_data(res, |y| {
                        with_data(grad, |g| Ok(self.backward(Heads { q, k, v }, y, g)))
                    })
                })
            })
        })?;
        let tensor = |data, like: &Tensor| Tensor::from_vec(data, like.shape(), like.device());
        Ok((
            Some(tensor(gradients.q, q)?),
            Some(tensor(gradients.k, k)?),
            Some(tensor(gradients.v, v)?),
        ))
    }
}
