//! Attention over a forest: every row looks at its ancestors, and at nothing else.

use super::slice::{axpy, contiguous, dot, exp, with_data, zeros};
use crate::forest::Ancestry;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
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
/// When the shapes do not fit, or on the CPU when the dtype is not f32.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    ancestry: &Arc<Ancestry>,
    head_dim: usize,
) -> Result<Tensor> {
    if !q.device().is_cpu() {
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
        let mask = Tensor::from_vec(mask, (1, rows, n), q.device())?.to_dtype(q.dtype())?;
        let (q, k, v) = (
            q.narrow(1, from, rows)?,
            k.narrow(1, 0, n)?,
            v.narrow(1, 0, n)?,
        );
        let scores = (q.matmul(&k.t()?)? * scale)?.broadcast_add(&mask)?; // (heads, rows, n)
        pieces.push(candle_nn::ops::softmax(&scores, 2)?.matmul(&v)?);
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

/// One head's view of a table: row j is `data[j * stride + offset..][..head_dim]`.
#[derive(Clone, Copy)]
struct Head<'a> {
    data: &'a [f32],
    stride: usize,
    offset: usize,
    dim: usize,
}

impl<'a> Head<'a> {
    fn row(&self, j: usize) -> &'a [f32] {
        &self.data[j * self.stride + self.offset..][..self.dim]
    }
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

    fn head<'a>(&self, data: &'a [f32], heads: usize, head: usize) -> Head<'a> {
        Head {
            data,
            stride: heads * self.head_dim,
            offset: head * self.head_dim,
            dim: self.head_dim,
        }
    }

    /// Softmax weights of query `q` over its ancestors, into `p`.
    fn weights(&self, q: &[f32], k: Head, row: usize, p: &mut Vec<f32>) {
        let scale = self.scale();
        p.clear();
        for &(from, to) in self.ancestry.spans(row) {
            p.extend((from..to).map(|j| dot(q, k.row(j as usize)) * scale));
        }
        let max = p.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.;
        for p in p.iter_mut() {
            *p = exp(*p - max);
            sum += *p;
        }
        for p in p.iter_mut() {
            *p /= sum;
        }
    }

    fn ancestors(&self, row: usize) -> impl Iterator<Item = usize> + '_ {
        self.ancestry
            .spans(row)
            .iter()
            .flat_map(|&(from, to)| from as usize..to as usize)
    }

    /// Result (M, heads * D).
    pub(super) fn forward(&self, Heads { q, k, v }: Heads<&[f32]>) -> Vec<f32> {
        let width = self.heads * self.head_dim;
        let group = self.heads / self.kv_heads;
        let mut out = zeros(q.len());
        out.par_chunks_mut(width)
            .zip(q.par_chunks(width))
            .enumerate()
            .with_min_len(4)
            .for_each_init(Vec::new, |p, (row, (y, q))| {
                for h in 0..self.heads {
                    let k = self.head(k, self.kv_heads, h / group);
                    let v = self.head(v, self.kv_heads, h / group);
                    let range = h * self.head_dim..(h + 1) * self.head_dim;
                    self.weights(&q[range.clone()], k, row, p);
                    let y = &mut y[range];
                    for (j, p) in self.ancestors(row).zip(p.iter()) {
                        axpy(y, *p, v.row(j));
                    }
                }
            });
        out
    }

    /// Gradients of q, k and v, given the result `y` and its gradient `g`.
    ///
    /// With p the weights of row m and g the gradient of y[m]:
    /// gv[j] += p_j g; gs_j = p_j (g . v[j] - g . y[m]) / sqrt(D); gq += gs_j k[j]; gk[j] += gs_j q.
    pub(super) fn backward(
        &self,
        Heads { q, k, v }: Heads<&[f32]>,
        y: &[f32],
        g: &[f32],
    ) -> Heads<Vec<f32>> {
        let d = self.head_dim;
        let (m, n) = (q.len() / (self.heads * d), k.len() / (self.kv_heads * d));
        let group = self.heads / self.kv_heads;
        // One task a kv head: its columns of gk and gv are written by nobody else,
        // and summed in the order of rows.
        let part = |kv: usize| {
            let mut gq = vec![0f32; m * group * d];
            let (mut gk, mut gv) = (vec![0f32; n * d], vec![0f32; n * d]);
            let k = self.head(k, self.kv_heads, kv);
            let v = self.head(v, self.kv_heads, kv);
            let mut p = Vec::new();
            for row in 0..m {
                for i in 0..group {
                    let h = kv * group + i;
                    let q = self.head(q, self.heads, h).row(row);
                    let g = self.head(g, self.heads, h).row(row);
                    let gy = dot(g, self.head(y, self.heads, h).row(row));
                    let gq = &mut gq[(row * group + i) * d..][..d];
                    self.weights(q, k, row, &mut p);
                    for (j, p) in self.ancestors(row).zip(&p) {
                        axpy(&mut gv[j * d..][..d], *p, g);
                        let gs = p * (dot(g, v.row(j)) - gy) * self.scale();
                        axpy(gq, gs, k.row(j));
                        axpy(&mut gk[j * d..][..d], gs, q);
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
