//! Attention over a prefix tree: every token looks at its ancestors and at nothing else.

use candle_core::{DType, Result, Tensor};
use reptune_kernels::{self as kernels, Ancestors, takes};
use std::sync::Arc;

/// Softmax attention with grouped queries.
///
/// `y[m] = sum_j softmax_j(q[m] . k[j] / sqrt(D)) v[j]`, j over the ancestors of token m
///
/// Shapes: `q` (M, heads * D), `k` and `v` (N, kv_heads * D), `ancestors` of the M
/// querying tokens with numbers below N; result (M, heads * D).
///
/// # Errors
/// When the shapes do not fit.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    ancestors: &Arc<Ancestors>,
    head_dim: usize,
) -> Result<Tensor> {
    match takes(q) {
        true => kernels::attention(q, k, v, ancestors, head_dim),
        false => attention_composed(q, k, v, ancestors, head_dim),
    }
}

/// Querying tokens whose scores [`attention_composed`] holds at a time.
const PIECE: usize = 256;

/// [`attention`] composed of candle operations, with dense masks for 256 querying tokens at
/// a time.
///
/// When no backward follows, at most one such piece of scores (heads, 256, N) is in memory.
///
/// # Errors
/// When the shapes do not fit.
pub fn attention_composed(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    ancestors: &Ancestors,
    head_dim: usize,
) -> Result<Tensor> {
    in_pieces(q, k, v, (ancestors, PIECE), head_dim)
}

pub(super) fn in_pieces(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    (ancestors, piece): (&Ancestors, usize),
    head_dim: usize,
) -> Result<Tensor> {
    let ((m, width), (n, kv_width)) = (q.dims2()?, k.dims2()?);
    let (heads, kv_heads) = (width / head_dim, kv_width / head_dim);
    let split = |t: &Tensor, tokens: usize, heads: usize| {
        t.reshape((tokens, heads, head_dim))?
            .transpose(0, 1)?
            .contiguous() // (heads, tokens, D)
    };
    let repeat = |t: Tensor| {
        t.unsqueeze(1)?
            .repeat((1, heads / kv_heads, 1, 1))?
            .reshape((heads, n, head_dim))
    };
    let q = split(q, m, heads)?;
    let [k, v] = [k, v].map(|t| repeat(split(t, n, kv_heads)?));
    let (k, v) = (k?, v?);
    let scale = 1. / (head_dim as f64).sqrt();
    let mut pieces = Vec::new();
    for (i, mask) in ancestors.masks(piece, q.device())?.iter().enumerate() {
        let (_, tokens, n) = mask.dims3()?;
        let (k, v) = (k.narrow(1, 0, n)?, v.narrow(1, 0, n)?);
        let q = q.narrow(1, i * piece, tokens)?;
        let scores = (q.matmul(&k.t()?)?.to_dtype(DType::F32)? * scale)?;
        let scores = scores.broadcast_add(mask)?; // (heads, tokens, n)
        let weights = candle_nn::ops::softmax(&scores, 2)?;
        pieces.push(weights.to_dtype(v.dtype())?.matmul(&v)?);
    }
    let y = Tensor::cat(&pieces, 1)?; // (heads, M, D)
    y.transpose(0, 1)?.reshape((m, width))
}
