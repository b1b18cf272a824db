//! A frozen linear layer with a low-rank update on it.

use super::frozen_linear::{FrozenMatrix, frozen_linear};
use super::gemm::{add_product, product_of, table};
use super::product::product_back;
use super::slice::{contiguous, with_data};
use super::{beside, fused};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use std::sync::{Arc, OnceLock};

/// `y = x W^T + scale (x A^T) B^T`, differentiable in x, A and B.
///
/// Shapes: `x` (N, I), `a` (R, I), `b` (O, R), result (N, O).
///
/// # Errors
/// When the shapes do not fit.
pub fn low_rank_linear(
    x: &Tensor,
    matrix: &Arc<dyn FrozenMatrix>,
    (a, b): (&Tensor, &Tensor),
    scale: f64,
) -> Result<Tensor> {
    if ![x, a, b].into_iter().all(fused) {
        return low_rank_linear_composed(x, matrix, (a, b), scale);
    }
    if x.dims2()?.1 != a.dims2()?.1 || a.dims2()?.0 != b.dims2()?.1 {
        let (x, a, b) = (x.dims(), a.dims(), b.dims());
        bail!("low_rank_linear: rows {x:?} with A {a:?} and B {b:?}")
    }
    let op = LowRankLinear {
        matrix: matrix.clone(),
        scale: scale as f32,
        inner: OnceLock::new(),
    };
    x.contiguous()?
        .apply_op3(&a.contiguous()?, &b.contiguous()?, op)
}

/// [`low_rank_linear`] from single ops; rows in another dtype than the factors meet them in
/// their own.
///
/// # Errors
/// When the shapes do not fit.
pub fn low_rank_linear_composed(
    x: &Tensor,
    matrix: &Arc<dyn FrozenMatrix>,
    (a, b): (&Tensor, &Tensor),
    scale: f64,
) -> Result<Tensor> {
    let (a, b) = (beside(a, x)?, beside(b, x)?);
    frozen_linear(x, matrix)? + (x.matmul(&a.t()?)?.matmul(&b.t()?)? * scale)?
}

struct LowRankLinear {
    matrix: Arc<dyn FrozenMatrix>,
    scale: f32,
    /// `x A^T` (N, R), for the backward.
    inner: OnceLock<Vec<f32>>,
}

impl CustomOp3 for LowRankLinear {
    fn name(&self) -> &'static str {
        "low_rank_linear"
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
        let name = self.name();
        let x = contiguous(name, s1, l1)?;
        let (a, b) = (contiguous(name, s2, l2)?, contiguous(name, s3, l3)?);
        let (rows, rank, outputs) = (l1.dims()[0], l2.dims()[0], l3.dims()[0]);
        let frozen = Tensor::from_slice(x, l1.shape(), &candle_core::Device::Cpu)?;
        let mut y = with_data(&self.matrix.product(&frozen)?, |y| Ok(y.to_vec()))?;
        let inner = product_of((table(x, rows), table(a, rank).reversed_axes()), 1.);
        let pair = (table(&inner, rows), table(b, outputs).reversed_axes());
        add_product(&mut y, pair, self.scale);
        // set once, as an op is run once
        let _ = self.inner.set(inner);
        Ok((CpuStorage::F32(y), (rows, outputs).into()))
    }

    /// With g the gradient of y: `gx = g W + scale (g B) A`, `gA = scale (g B)^T x`,
    /// `gB = scale g^T (x A^T)`.
    fn bwd(
        &self,
        x: &Tensor,
        a: &Tensor,
        b: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (rows, (outputs, rank)) = (x.dim(0)?, b.dims2()?);
        let inner = self.inner.get().map(Vec::as_slice).unwrap_or_default();
        let (gb, back) = with_data(grad, |g| {
            let g = table(g, rows);
            let gb = product_of((g.reversed_axes(), table(inner, rows)), self.scale);
            let back = with_data(b, |b| Ok(product_of((g, table(b, outputs)), self.scale)))?;
            Ok((gb, back))
        })?;
        let back = table(&back, rows); // scale g B
        let ga = with_data(x, |x| {
            Ok(product_of((back.reversed_axes(), table(x, rows)), 1.))
        })?;
        let tensor = |data, like: &Tensor| Tensor::from_vec(data, like.shape(), like.device());
        let gx = match x.track_op() {
            false => None,
            true => {
                let frozen = product_back(grad, &self.matrix.weight()?)?;
                let mut gx = with_data(&frozen, |g| Ok(g.to_vec()))?;
                with_data(a, |a| {
                    add_product(&mut gx, (back, table(a, rank)), 1.);
                    Ok(())
                })?;
                Some(tensor(gx, x)?)
            }
        };
        Ok((gx, Some(tensor(ga, a)?), Some(tensor(gb, b)?)))
    }
}
