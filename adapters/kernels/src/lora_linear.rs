//! A frozen linear layer with a low-rank update.

use crate::frozen_linear::FrozenMatrix;
use crate::gemm::{add_product, product_of, table};
use crate::product::{product, products_back};
use crate::slice::{contiguous, contiguous_mut, tensor, with_data};
use candle_core::{CpuStorage, CustomOp3, Device, InplaceOp3, Layout, Result, Shape, Tensor, bail};
use std::sync::Arc;

/// `y = x W^T + scale (x A^T) B^T`, differentiable in x, A and B.
///
/// Shapes: `x` (N, I), `a` (R, I), `b` (O, R), result (N, O).
///
/// # Errors
/// When the shapes do not fit.
pub fn lora_linear(
    x: &Tensor,
    matrix: &Arc<dyn FrozenMatrix>,
    (a, b): (&Tensor, &Tensor),
    scale: f64,
) -> Result<Tensor> {
    if x.dims2()?.1 != a.dims2()?.1 || a.dims2()?.0 != b.dims2()?.1 {
        let (x, a, b) = (x.dims(), a.dims(), b.dims());
        bail!("lora_linear: rows {x:?} with A {a:?} and B {b:?}")
    }
    let (x, a, b) = (x.contiguous()?, a.contiguous()?, b.contiguous()?);
    let scale = scale as f32;
    if ![&x, &a, &b].into_iter().any(Tensor::track_op) {
        return low_rank_product(&x, matrix, (&a, &b), scale);
    }
    let matrix = matrix.clone();
    x.apply_op3(&a, &b, LowRankLinear { matrix, scale })
}

/// [`lora_linear`] of contiguous tables on the CPU in f32. No gradient is recorded.
fn low_rank_product(
    x: &Tensor,
    matrix: &Arc<dyn FrozenMatrix>,
    (a, b): (&Tensor, &Tensor),
    scale: f32,
) -> Result<Tensor> {
    let y = matrix.product(x)?.contiguous()?;
    y.inplace_op3(&product(x, a)?.contiguous()?, b, &AddProduct(scale))?;
    Ok(y)
}

/// `y += scale x W^T`.
struct AddProduct(f32);

impl InplaceOp3 for AddProduct {
    fn name(&self) -> &'static str {
        "add_product"
    }

    fn cpu_fwd(
        &self,
        s1: &mut CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<()> {
        let name = self.name();
        let x = table(contiguous(name, s2, l2)?, l2.dims()[0]);
        let weight = table(contiguous(name, s3, l3)?, l3.dims()[0]);
        let y = contiguous_mut(name, s1, l1)?;
        add_product(y, (x, weight.reversed_axes()), self.0);
        Ok(())
    }
}

struct LowRankLinear {
    matrix: Arc<dyn FrozenMatrix>,
    scale: f32,
}

/// What the backward of an update computes.
pub(crate) struct Small {
    /// Gradient (R, I) of A.
    pub a: Vec<f32>,
    /// Gradient (O, R) of B.
    pub b: Vec<f32>,
    /// `scale g B` (N, R), by which the gradient of the rows goes through A.
    pub back: Tensor,
}

/// `gA = scale (g B)^T x`, `gB = scale g^T (x A^T)`, for rows `x` (N, I) and the gradient `g`
/// (N, O) of what the layer made of them.
pub(crate) fn small_gradients(
    x: &Tensor,
    g: &Tensor,
    (a, b): (&Tensor, &Tensor),
    scale: f32,
) -> Result<Small> {
    let (rows, (outputs, rank)) = (x.dim(0)?, b.dims2()?);
    let (ga, gb, back) = with_data([x, g, a, b], |[x, g, a, b]| {
        let (x, g) = (table(x, rows), table(g, rows));
        let back = product_of((g, table(b, outputs)), scale);
        let inner = product_of((x, table(a, rank).reversed_axes()), 1.);
        let gb = product_of((g.reversed_axes(), table(&inner, rows)), scale);
        let ga = product_of((table(&back, rows).reversed_axes(), x), 1.);
        (ga, gb, back)
    })?;
    Ok(Small {
        a: ga,
        b: gb,
        back: Tensor::from_vec(back, (rows, rank), x.device())?,
    })
}

impl CustomOp3 for LowRankLinear {
    fn name(&self) -> &'static str {
        "lora_linear"
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
        let of =
            |s, l: &Layout| Tensor::from_slice(contiguous(name, s, l)?, l.shape(), &Device::Cpu);
        let (x, a, b) = (of(s1, l1)?, of(s2, l2)?, of(s3, l3)?);
        let y = low_rank_product(&x, &self.matrix, (&a, &b), self.scale)?;
        let shape = y.shape().clone();
        Ok((with_data([&y], |[y]| CpuStorage::F32(y.to_vec()))?, shape))
    }

    /// With g the gradient of y: `gx = g W + scale (g B) A`.
    fn bwd(
        &self,
        x: &Tensor,
        a: &Tensor,
        b: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let small = small_gradients(x, grad, (a, b), self.scale)?;
        let gx = x.track_op().then(|| {
            let weight = self.matrix.weight()?;
            tensor(products_back(&[(grad, &weight), (&small.back, a)])?, x)
        });
        let gx = gx.transpose()?;
        Ok((gx, Some(tensor(small.a, a)?), Some(tensor(small.b, b)?)))
    }
}
