//! Operations on each token for itself: norm, rotation and gated activation.

use crate::recorded::recorded;
use crate::slice::{dot, exp, gathered, tensor, with_data};
use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;
use std::sync::{Arc, OnceLock};

/// Normalises every row: `y[n] = w * x[n] / sqrt(mean(x[n]^2) + eps)`.
///
/// Shapes: `x` (N, H), `weight` (H,), result (N, H).
///
/// # Errors
/// When the shapes do not fit, or a tensor is not f32 on the CPU.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let (x, w, eps) = (&x.contiguous()?, &weight.contiguous()?, eps as f32);
    let y = with_data([x, w], |[x, w]| {
        let h = w.len();
        let rows = x.par_chunks(h).with_min_len(16).map(|x| {
            let r = root(x, eps);
            x.iter().zip(w).map(move |(x, w)| x * r * w)
        });
        gathered(x.len(), h, rows)
    })?;
    let y = (y, x.shape().clone());
    recorded("rms_norm", [x, w], y, move |[x, w], _, g| {
        let (gx, gw) = with_data([x, w, g], |[x, weights, g]| {
            let gw = (w.track_op()).then(|| weight_gradient(x, g, weights.len(), eps));
            (norm_backward(x, weights, g.to_vec(), None, eps), gw)
        })?;
        let gw = gw.map(|gw| tensor(gw, w)).transpose()?;
        Ok([Some(tensor(gx, x)?), gw])
    })
}

/// The inverse of the root mean square of a row.
fn root(x: &[f32], eps: f32) -> f32 {
    1. / (dot(x, x) / x.len() as f32 + eps).sqrt()
}

/// Gradient (N, H) of the rows: `gx = r (g w - x (g w . x) r^2 / H)`, r = 1 / rms, where `g` lay;
/// plus their gradient `other` from elsewhere.
pub(crate) fn norm_backward(
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
            let r = root(x, eps);
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
        let r = root(x, eps);
        for ((gw, x), g) in gw.iter_mut().zip(x).zip(g) {
            *gw += g * x * r;
        }
    }
    gw
}

/// Cosines and sines of N tokens, each (N, D / 2) with D the head dimension.
///
/// One value serves all blocks of a forward; a clone shares its tables.
#[derive(Debug, Clone)]
pub struct Rotation(Arc<Tables>);

#[derive(Debug)]
struct Tables {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
    /// The same on a device, for composed operations.
    tensors: OnceLock<(Tensor, Tensor)>,
}

impl Rotation {
    /// From the cosines and sines of N tokens, row-major, `half` = D / 2 columns.
    pub fn new(cos: Vec<f32>, sin: Vec<f32>, half: usize) -> Self {
        Self(Arc::new(Tables {
            cos,
            sin,
            half,
            tensors: OnceLock::new(),
        }))
    }

    /// The rotation of some of these tokens.
    pub fn rows(&self, tokens: &[u32]) -> Self {
        let half = self.half();
        let pick = |table: &[f32]| {
            let rows = tokens.iter().map(|t| &table[*t as usize * half..][..half]);
            rows.flatten().copied().collect()
        };
        Self::new(pick(&self.0.cos), pick(&self.0.sin), half)
    }

    /// D / 2.
    pub fn half(&self) -> usize {
        self.0.half
    }

    /// Cosines and sines as tensors (N, 1, D / 2). Those made first are kept.
    ///
    /// # Errors
    /// When memory cannot be allocated on `device`.
    pub fn tensors(&self, dtype: DType, device: &Device) -> Result<(Tensor, Tensor)> {
        if let Some(known) = self.0.tensors.get()
            && known.0.dtype() == dtype
            && known.0.device().same_device(device)
        {
            return Ok(known.clone());
        }
        let half = self.half();
        let table = |t: &[f32]| {
            Tensor::from_slice(t, (t.len() / half.max(1), 1, half), device)?.to_dtype(dtype)
        };
        let tables = (table(&self.0.cos)?, table(&self.0.sin)?);
        let _ = self.0.tensors.set(tables.clone());
        Ok(tables)
    }
}

/// Rotates every head of every token by the angles of its position:
/// `y = (x1 cos - x2 sin, x2 cos + x1 sin)`; the pairs are (i, i + D / 2).
///
/// Shapes: `x` (N, heads * D), result the same.
///
/// # Errors
/// When the shapes do not fit, or `x` is not f32 on the CPU.
pub fn rotary(x: &Tensor, rotation: &Rotation) -> Result<Tensor> {
    let (x, rotation) = (&x.contiguous()?, rotation.clone());
    let rows = x.dims()[0];
    let y = with_data([x], |[x]| rotated(&rotation, x, rows, 1.))?;
    let y = (y, x.shape().clone());
    recorded("rotary", [x], y, move |[x], _, g| {
        let g = with_data([g], |[g]| rotated(&rotation, g, rows, -1.))?;
        Ok([Some(tensor(g, x)?)])
    })
}

/// `x` of `rows` tokens, rotated by the angles times `sign`: 1, or -1 for the gradient.
pub(crate) fn rotated(rotation: &Rotation, x: &[f32], rows: usize, sign: f32) -> Vec<f32> {
    let half = rotation.half();
    let of_row = x.len() / rows.max(1) / half; // halves of heads
    let halves = x.par_chunks(half).enumerate().with_min_len(512);
    let rotated = halves.map(|(i, own)| {
        let angles = i / of_row * half..(i / of_row + 1) * half;
        let (cos, sin) = (&rotation.0.cos[angles.clone()], &rotation.0.sin[angles]);
        let (other, sign) = match i % 2 {
            0 => (&x[(i + 1) * half..][..half], -sign),
            _ => (&x[(i - 1) * half..][..half], sign),
        };
        let pairs = own.iter().zip(other).zip(cos.iter().zip(sin));
        pairs.map(move |((own, other), (cos, sin))| own * cos + sign * other * sin)
    });
    gathered(x.len(), half, rotated)
}

/// Gates `up` with the SiLU of `gate`: `y = gate * sigmoid(gate) * up`.
///
/// Shapes: all (N, I).
///
/// # Errors
/// When the shapes differ, or a tensor is not f32 on the CPU.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let (gate, up) = (&gate.contiguous()?, &up.contiguous()?);
    let y = with_data([gate, up], |[g, u]| {
        let parts = g.par_chunks(CHUNK).zip(u.par_chunks(CHUNK));
        let parts = parts.map(|(g, u)| g.iter().zip(u).map(|(g, u)| g * sigmoid(*g) * u));
        gathered(g.len(), CHUNK, parts)
    })?;
    let y = (y, gate.shape().clone());
    recorded("swiglu", [gate, up], y, |[gate, up], _, g| {
        let (gg, gu) = with_data([gate, up, g], |[gate, up, g]| {
            swiglu_backward(gate, up, g.to_vec())
        })?;
        Ok([Some(tensor(gg, gate)?), Some(tensor(gu, up)?)])
    })
}

const CHUNK: usize = 4096;

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1. / (1. + exp(-x))
}

/// Gradients of gate and up; that of gate lies where `grad` lay.
pub(crate) fn swiglu_backward(gate: &[f32], up: &[f32], grad: Vec<f32>) -> (Vec<f32>, Vec<f32>) {
    let mut gg = grad;
    let inputs = gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK));
    let parts = gg.par_chunks_mut(CHUNK).zip(inputs).map(|(gg, (g, u))| {
        let numbers = gg.iter_mut().zip(g.iter().zip(u));
        numbers.map(|(gg, (g, u))| {
            let (s, d) = (sigmoid(*g), *gg);
            *gg = d * u * s * (1. + g * (1. - s));
            d * g * s
        })
    });
    let gu = gathered(gate.len(), CHUNK, parts);
    (gg, gu)
}
