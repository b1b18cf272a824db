//! Rotary position embedding with a backward.

use super::fused;
use super::slice::{contiguous, gathered, with_data};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;
use std::sync::Arc;

/// Cosines and sines of some rows, each (N, D / 2) with D the head dimension.
#[derive(Debug, Clone)]
pub struct Rotation {
    cos: Arc<[f32]>,
    sin: Arc<[f32]>,
    half: usize,
}

impl Rotation {
    /// From the cosines and sines of N rows, row-major, `half` = D / 2 columns.
    pub fn new(cos: Vec<f32>, sin: Vec<f32>, half: usize) -> Self {
        Self {
            cos: cos.into(),
            sin: sin.into(),
            half,
        }
    }

    /// The rotation of some of these rows.
    pub fn rows(&self, rows: &[u32]) -> Self {
        let pick = |table: &[f32]| {
            let rows = rows.iter().map(|r| *r as usize * self.half);
            rows.flat_map(|at| table[at..at + self.half].iter().copied())
                .collect()
        };
        Self::new(pick(&self.cos), pick(&self.sin), self.half)
    }

    /// The rotation back.
    pub(super) fn inverse(&self) -> Self {
        Self {
            cos: self.cos.clone(),
            sin: self.sin.iter().map(|s| -s).collect(),
            half: self.half,
        }
    }
}

/// Rotates every head of every row by the angles of its position; the pairs are
/// (i, i + D / 2), as in Hugging Face's Llama.
///
/// `y = (x1 cos - x2 sin, x2 cos + x1 sin)`
///
/// Shapes: `x` (N, heads * D), result the same.
///
/// # Errors
/// When the shapes do not fit.
pub fn rotary(x: &Tensor, rotation: &Rotation) -> Result<Tensor> {
    if fused(x) {
        x.contiguous()?.apply_op1(Rotary(rotation.clone()))
    } else {
        rotary_composed(x, rotation)
    }
}

/// [`rotary`] from candle ops.
///
/// # Errors
/// When the shapes do not fit.
pub fn rotary_composed(x: &Tensor, rotation: &Rotation) -> Result<Tensor> {
    let (n, width) = x.dims2()?;
    let half = rotation.half;
    let table = |t: &[f32]| {
        Tensor::from_slice(t, (n, 1, half), x.device())?.to_dtype(x.dtype()) // (N, 1, D / 2)
    };
    let (cos, sin) = (table(&rotation.cos)?, table(&rotation.sin)?);
    let x = x.reshape((n, width / (2 * half), 2 * half))?; // (N, heads, D)
    let (x1, x2) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
    let y1 = (x1.broadcast_mul(&cos)? - x2.broadcast_mul(&sin)?)?;
    let y2 = (x2.broadcast_mul(&cos)? + x1.broadcast_mul(&sin)?)?;
    Tensor::cat(&[y1, y2], 2)?.reshape((n, width))
}

struct Rotary(Rotation);

impl Rotary {
    fn rotate(&self, x: &[f32], rows: usize) -> Vec<f32> {
        let half = self.0.half;
        // halves of heads
        let of_row = x.len() / rows.max(1) / half;
        let halves = x.par_chunks(half).enumerate().with_min_len(512);
        let rotated = halves.map(|(i, own)| {
            let angles = i / of_row * half..(i / of_row + 1) * half;
            let (cos, sin) = (&self.0.cos[angles.clone()], &self.0.sin[angles]);
            let (other, sign) = match i % 2 {
                0 => (&x[(i + 1) * half..][..half], -1.),
                _ => (&x[(i - 1) * half..][..half], 1.),
            };
            let pairs = own.iter().zip(other).zip(cos.iter().zip(sin));
            pairs.map(move |((own, other), (cos, sin))| own * cos + sign * other * sin)
        });
        gathered(x.len(), half, rotated)
    }
}

impl CustomOp1 for Rotary {
    fn name(&self) -> &'static str {
        "rotary"
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = contiguous("rotary", s, l)?;
        let out = self.rotate(x, l.dims()[0]);
        Ok((CpuStorage::F32(out), l.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let back = Rotary(self.0.inverse());
        let g = with_data(grad, |g| Ok(back.rotate(g, x.dims()[0])))?;
        Ok(Some(Tensor::from_vec(g, x.shape(), x.device())?))
    }
}
