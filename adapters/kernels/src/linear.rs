//! Linear layers whose weight takes no gradient, alone or with a low-rank update.
//!
//! candle's own matrix product computes the gradients of both factors. For a frozen weight
//! that doubles the work of the backward and makes a tensor as large as the weight. Here the
//! backward computes the gradient of the input only.

use crate::gemm::{add_product, product_of, sum_of_products, table};
use crate::recorded::recorded;
use crate::slice::{data_mut, takes, tensor, with_all, with_data};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp2, InplaceOp1, Layout, MetalStorage};
use candle_core::{Result, Shape, Tensor, bail};
use std::sync::Arc;

/// A weight matrix of any storage (full or quantized) that can be multiplied with.
pub trait FrozenMatrix: Send + Sync {
    /// `x W^T (+ b)`. Shapes: `x` (N, I), result (N, O). No gradient is recorded.
    ///
    /// # Errors
    /// When the product fails.
    fn product(&self, x: &Tensor) -> Result<Tensor>;

    /// The weight (O, I) in the dtype of the activations, for the backward.
    ///
    /// # Errors
    /// When it cannot be dequantized.
    fn weight(&self) -> Result<Tensor>;

    /// Whether the weight is stored in the dtype of the activations, so that
    /// [`FrozenMatrix::weight`] copies nothing.
    fn is_full(&self) -> bool;
}

/// Applies a frozen linear layer, differentiable in its input only.
///
/// `y = x W^T`, `gx = gy W`. A quantized product also rounds its input; the
/// backward ignores that rounding (straight-through estimator).
///
/// Shapes: `x` (N, I), result (N, O).
///
/// # Errors
/// When the product fails.
pub fn frozen_linear(x: &Tensor, matrix: &Arc<dyn FrozenMatrix>) -> Result<Tensor> {
    let y = matrix.product(&x.detach())?.contiguous()?;
    match x.track_op() {
        true => x.apply_op2(&y.detach(), FrozenProduct(matrix.clone())),
        false => Ok(y),
    }
}

/// Returns its second argument, the product with the first, and passes gradients to the first.
struct FrozenProduct(Arc<dyn FrozenMatrix>);

impl CustomOp2 for FrozenProduct {
    fn name(&self) -> &'static str {
        "frozen_linear"
    }

    fn cpu_fwd(
        &self,
        _s1: &CpuStorage,
        _l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        whole(s2, l2)
    }

    fn cuda_fwd(
        &self,
        _s1: &CudaStorage,
        _l1: &Layout,
        s2: &CudaStorage,
        l2: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        whole(s2, l2)
    }

    fn metal_fwd(
        &self,
        _s1: &MetalStorage,
        _l1: &Layout,
        s2: &MetalStorage,
        l2: &Layout,
    ) -> Result<(MetalStorage, Shape)> {
        whole(s2, l2)
    }

    fn bwd(
        &self,
        _x: &Tensor,
        _y: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(product_back(grad, &self.0.weight()?)?), None))
    }
}

/// A copy of a storage that begins with its tensor.
fn whole<S: BackendStorage>(storage: &S, layout: &Layout) -> Result<(S, Shape)> {
    match layout.is_contiguous() && layout.start_offset() == 0 {
        true => Ok((storage.try_clone(layout)?, layout.shape().clone())),
        false => bail!("frozen_linear: product is a view of another tensor"),
    }
}

/// A plain tensor is the simplest frozen matrix.
impl FrozenMatrix for Tensor {
    fn product(&self, x: &Tensor) -> Result<Tensor> {
        product(x, self)
    }

    fn weight(&self) -> Result<Tensor> {
        Ok(self.detach())
    }

    fn is_full(&self) -> bool {
        true
    }
}

/// `x W^T`. Shapes: `x` (N, I), `weight` (O, I), result (N, O). No gradient is recorded.
pub(crate) fn product(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let ((rows, read), (outputs, inputs)) = (x.dims2()?, weight.dims2()?);
    if !takes(x) || !takes(weight) || rows == 1 {
        return x.detach().matmul(&weight.detach().t()?);
    }
    if read != inputs {
        bail!("a layer of weight ({outputs}, {inputs}) reads rows ({rows}, {read})")
    }
    let y = with_data([x, weight], |[x, w]| {
        product_of((table(x, rows), table(w, outputs).reversed_axes()), 1.)
    })?;
    Tensor::from_vec(y, (rows, outputs), x.device())
}

/// `g W`, the gradient of what the layer read. Shapes: `g` (N, O), `weight` (O, I), result
/// (N, I). No gradient is recorded.
pub(crate) fn product_back(g: &Tensor, weight: &Tensor) -> Result<Tensor> {
    if !takes(g) || !takes(weight) {
        return g.detach().matmul(&weight.detach());
    }
    let gx = products_back(&[(g, weight)])?;
    Tensor::from_vec(gx, (g.dim(0)?, weight.dim(1)?), g.device())
}

/// `sum_i g_i W_i`, the gradient (N, I) of what several layers read. Shapes: `g_i` (N, O_i),
/// `W_i` (O_i, I), on the CPU in f32.
pub(crate) fn products_back(layers: &[(&Tensor, &Tensor)]) -> Result<Vec<f32>> {
    for (g, weight) in layers {
        let ((rows, columns), (outputs, inputs)) = (g.dims2()?, weight.dims2()?);
        let (other, others) = layers[0];
        if columns != outputs || rows != other.dim(0)? || inputs != others.dim(1)? {
            bail!("a layer of weight ({outputs}, {inputs}) has a gradient of ({rows}, {columns})")
        }
    }
    let all: Vec<_> = layers.iter().flat_map(|(g, w)| [*g, *w]).collect();
    with_all(&all, |data| {
        let table = |i: usize| table(data[i], all[i].dims()[0]);
        let pairs = (0..layers.len()).map(|i| (table(2 * i), table(2 * i + 1)));
        sum_of_products(&pairs.collect::<Vec<_>>(), 1.)
    })
}

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
    let (x, a, b) = (&x.contiguous()?, &a.contiguous()?, &b.contiguous()?);
    let (matrix, scale) = (matrix.clone(), scale as f32);
    let y = matrix.product(&x.detach())?.contiguous()?;
    y.inplace_op1(&AddProduct(&product(x, a)?, b, scale))?;
    if ![x, a, b].into_iter().any(Tensor::track_op) {
        return Ok(y);
    }
    let y = (with_data([&y], |[y]| y.to_vec())?, y.shape().clone());
    // With g the gradient of y: `gx = g W + scale (g B) A`.
    recorded("lora_linear", [x, a, b], y, move |[x, a, b], _, g| {
        let small = small_gradients(x, g, (a, b), scale)?;
        let gx = x.track_op().then(|| {
            let weight = matrix.weight()?;
            tensor(products_back(&[(g, &weight), (&small.back, a)])?, x)
        });
        let gx = gx.transpose()?;
        Ok([gx, Some(tensor(small.a, a)?), Some(tensor(small.b, b)?)])
    })
}

/// `y += scale x W^T`.
struct AddProduct<'a>(&'a Tensor, &'a Tensor, f32);

impl InplaceOp1 for AddProduct<'_> {
    fn name(&self) -> &'static str {
        "add_product"
    }

    fn cpu_fwd(&self, y: &mut CpuStorage, l: &Layout) -> Result<()> {
        let &Self(x, weight, scale) = self;
        let y = data_mut(y, l)?;
        with_data([x, weight], |[data, w]| {
            let w = table(w, weight.dims()[0]).reversed_axes();
            add_product(y, (table(data, x.dims()[0]), w), scale);
        })
    }
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
    let back = Tensor::from_vec(back, (rows, rank), x.device())?;
    Ok(Small { a: ga, b: gb, back })
}

#[cfg(test)]
mod tests;
