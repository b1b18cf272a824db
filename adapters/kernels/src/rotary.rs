//! Rotary position embedding with a backward.

use crate::rotation::Rotation;
use crate::slice::{contiguous, gathered, tensor, with_data};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

/// Rotates every head of every token by the angles of its position; the pairs are
/// (i, i + D / 2), as in Hugging Face's Llama.
///
/// `y = (x1 cos - x2 sin, x2 cos + x1 sin)`
///
/// Shapes: `x` (N, heads * D), result the same.
///
/// # Errors
/// When the shapes do not fit, or `x` is not f32 on the CPU.
pub fn rotary(x: &Tensor, rotation: &Rotation) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Rotary(rotation.clone()))
}

struct Rotary(Rotation);

/// Which way heads are rotated.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Turn {
    Forward,
    /// By the negative angles: the gradient of the forward rotation.
    Back,
}

/// `x` of `rows` tokens, rotated.
pub(crate) fn rotated(rotation: &Rotation, x: &[f32], rows: usize, turn: Turn) -> Vec<f32> {
    let half = rotation.half();
    let of_row = x.len() / rows.max(1) / half; // halves of heads
    let halves = x.par_chunks(half).enumerate().with_min_len(512);
    let rotated = halves.map(|(i, own)| {
        let angles = i / of_row * half..(i / of_row + 1) * half;
        let (cos, sin) = (&rotation.cos()[angles.clone()], &rotation.sin()[angles]);
        let other = match i % 2 {
            0 => &x[(i + 1) * half..][..half],
            _ => &x[(i - 1) * half..][..half],
        };
        let sign = match (i % 2 == 0, turn) {
            (true, Turn::Forward) | (false, Turn::Back) => -1.,
            (false, Turn::Forward) | (true, Turn::Back) => 1.,
        };
        let pairs = own.iter().zip(other).zip(cos.iter().zip(sin));
        pairs.map(move |((own, other), (cos, sin))| own * cos + sign * other * sin)
    });
    gathered(x.len(), half, rotated)
}

impl CustomOp1 for Rotary {
    fn name(&self) -> &'static str {
        "rotary"
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = contiguous("rotary", s, l)?;
        let out = rotated(&self.0, x, l.dims()[0], Turn::Forward);
        Ok((CpuStorage::F32(out), l.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let g = with_data([grad], |[g]| rotated(&self.0, g, x.dims()[0], Turn::Back))?;
        Ok(Some(tensor(g, x)?))
    }
}
