//! The gated activation of a Llama MLP with a backward.

use crate::slice::{contiguous, exp, gathered, tensor, with_data};
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

/// Gates `up` with the SiLU of `gate`.
///
/// `y = gate * sigmoid(gate) * up`
///
/// Shapes: all (N, I).
///
/// # Errors
/// When the shapes differ, or a tensor is not f32 on the CPU.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.contiguous()?.apply_op2(&up.contiguous()?, SwiGlu)
}

struct SwiGlu;

const CHUNK: usize = 4096;

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1. / (1. + exp(-x))
}

/// Gradients of gate and up; that of gate lies where `grad` lay.
pub(crate) fn backward(gate: &[f32], up: &[f32], grad: Vec<f32>) -> (Vec<f32>, Vec<f32>) {
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

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (g, u) = (contiguous("swiglu", s1, l1)?, contiguous("swiglu", s2, l2)?);
        let parts = g.par_chunks(CHUNK).zip(u.par_chunks(CHUNK));
        let parts = parts.map(|(g, u)| g.iter().zip(u).map(|(g, u)| g * sigmoid(*g) * u));
        let out = gathered(g.len(), CHUNK, parts);
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (gg, gu) = with_data([gate, up, grad], |[g, u, d]| backward(g, u, d.to_vec()))?;
        Ok((Some(tensor(gg, gate)?), Some(tensor(gu, up)?)))
    }
}
