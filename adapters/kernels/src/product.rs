//! Products of rows with a weight (O, I), as checkpoints hold it.

use crate::gemm::{product_of, sum_of_products, table};
use crate::slice::{takes, with_all, with_data};
use candle_core::{Result, Tensor, bail};

/// `x W^T`. Shapes: `x` (N, I), `weight` (O, I), result (N, O). No gradient is recorded.
///
/// # Errors
/// When the shapes do not fit.
pub(crate) fn product(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let ((rows, read), (outputs, inputs)) = (x.dims2()?, weight.dims2()?);
    if !takes(x) || !takes(weight) || rows == 1 {
        return x.detach().matmul(&weight.t()?);
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
///
/// # Errors
/// When the shapes do not fit.
pub(crate) fn product_back(g: &Tensor, weight: &Tensor) -> Result<Tensor> {
    if !takes(g) || !takes(weight) {
        return g.detach().matmul(&weight.detach());
    }
    let gx = products_back(&[(g, weight)])?;
    Tensor::from_vec(gx, (g.dim(0)?, weight.dim(1)?), g.device())
}

/// `sum_i g_i W_i`, the gradient (N, I) of what several layers read. Shapes: `g_i` (N, O_i),
/// `W_i` (O_i, I), on the CPU in f32.
///
/// # Errors
/// When the shapes do not fit.
pub(crate) fn products_back(layers: &[(&Tensor, &Tensor)]) -> Result<Vec<f32>> {
    for (g, weight) in layers {
        let ((rows, made), (outputs, inputs)) = (g.dims2()?, weight.dims2()?);
        let (other, others) = layers[0];
        if made != outputs || rows != other.dim(0)? || inputs != others.dim(1)? {
            bail!("a layer of weight ({outputs}, {inputs}) has a gradient of ({rows}, {made})")
        }
    }
    let all: Vec<&Tensor> = layers
        .iter()
        .flat_map(|(g, weight)| [*g, *weight])
        .collect();
    with_all(&all, |data| {
        let tables = data
            .iter()
            .zip(&all)
            .map(|(data, t)| table(data, t.dims()[0]));
        let tables: Vec<_> = tables.collect();
        let pairs = tables.chunks_exact(2).map(|pair| (pair[0], pair[1]));
        sum_of_products(&pairs.collect::<Vec<_>>(), 1.)
    })
}

#[cfg(test)]
mod tests;
