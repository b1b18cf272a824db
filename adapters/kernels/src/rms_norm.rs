//! Root-mean-square normalisation with a backward.

use crate::slice::{contiguous, dot, gathered, tensor, with_data};
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

/// Normalises every row and scales its columns.
///
/// `y[n] = w * x[n] / sqrt(mean(x[n]^2) + eps)`
///
/// Shapes: `x` (N, H), `weight` (H,), result (N, H).
///
/// # Errors
/// When the shapes do not fit, or a tensor is not f32 on the CPU.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    x.contiguous()?
        .apply_op2(&weight.contiguous()?, RmsNorm(eps as f32))
}

/// Result (N, H) of rows (N, H) and weights (H,).
fn forward(x: &[f32], w: &[f32], eps: f32) -> Vec<f32> {
    let h = w.len();
    let rows = x.par_chunks(h).with_min_len(16).map(|x| {
        let r = 1. / (dot(x, x) / h as f32 + eps).sqrt();
        x.iter().zip(w).map(move |(x, w)| x * r * w)
    });
    gathered(x.len(), h, rows)
}

/// Gradient (N, H) of the rows: `gx = r (g w - x (g w . x) r^2 / H)`, r = 1 / rms, where `g` lay;
/// plus the gradient `other` that reaches them another way.
pub(crate) fn backward(
    x: &[f32],
    w: &[f32],
    g: Vec<f32>,
    other: Option<&[f32]>,
    eps: f32,
) -> Vec<f32> {
    let h = w.len();
    let mut gx = g;
    gx.par_chunks_mut(h)
        .zip(x.par_chunks(h))
        .enumerate()
        .with_min_len(16)
        .for_each(|(row, (gx, x))| {
            let r = 1. / (dot(x, x) / h as f32 + eps).sqrt();
            for (gx, w) in gx.iter_mut().zip(w) {
                *gx *= w;
            }
            let c = dot(gx, x) * r * r / h as f32;
            for (gx, x) in gx.iter_mut().zip(x) {
                *gx = r * (*gx - x * c);
            }
            if let Some(other) = other {
                let other = &other[row * h..][..h];
                gx.iter_mut().zip(other).for_each(|(gx, b)| *gx += b);
            }
        });
    gx
}

/// Gradient (H,) of the weights: the sum over rows of `g x r`.
fn weight_gradient(x: &[f32], g: &[f32], h: usize, eps: f32) -> Vec<f32> {
    let mut gw = vec![0f32; h];
    for (x, g) in x.chunks_exact(h).zip(g.chunks_exact(h)) {
        let r = 1. / (dot(x, x) / h as f32 + eps).sqrt();
        for ((gw, x), g) in gw.iter_mut().zip(x).zip(g) {
            *gw += g * x * r;
        }
    }
    gw
}

struct RmsNorm(f32);

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, w) = (
            contiguous("rms_norm", s1, l1)?,
            contiguous("rms_norm", s2, l2)?,
        );
        Ok((CpuStorage::F32(forward(x, w, self.0)), l1.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let h = w.elem_count();
        let (gx, gw) = with_data([x, w, grad], |[x, weights, g]| {
            let gw = (w.track_op()).then(|| weight_gradient(x, g, h, self.0));
            (backward(x, weights, g.to_vec(), None, self.0), gw)
        })?;
        let gw = gw.map(|gw| tensor(gw, w)).transpose()?;
        Ok((Some(tensor(gx, x)?), gw))
    }
}
