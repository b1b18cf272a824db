//! How operations enter candle's graph: a result is computed first and then recorded.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use std::sync::{Mutex, PoisonError};

struct Recorded<const N: usize, B> {
    name: &'static str,
    /// Taken out when the op is applied.
    result: Mutex<Option<(Vec<f32>, Shape)>>,
    backward: B,
}

/// The result `y` of an operation on `inputs`: one to three tensors on the CPU.
///
/// `backward` computes the gradients of the inputs from the inputs, the result and its gradient.
pub(crate) fn recorded<const N: usize, B>(
    name: &'static str,
    inputs: [&Tensor; N],
    (y, shape): (Vec<f32>, Shape),
    backward: B,
) -> Result<Tensor>
where
    B: Fn([&Tensor; N], &Tensor, &Tensor) -> Result<[Option<Tensor>; N]> + Send + Sync + 'static,
{
    if !inputs.iter().any(|t| t.track_op()) {
        return Tensor::from_vec(y, shape, inputs[0].device());
    }
    let op = Recorded::<N, B> {
        name,
        result: Mutex::new(Some((y, shape))),
        backward,
    };
    // An op of candle takes up to three tensors; the first one fills the places that are left.
    let [a, b, c] = std::array::from_fn(|i| *inputs.get(i).unwrap_or(&inputs[0]));
    a.apply_op3(b, c, op)
}

impl<const N: usize, B> CustomOp3 for Recorded<N, B>
where
    B: Fn([&Tensor; N], &Tensor, &Tensor) -> Result<[Option<Tensor>; N]>,
{
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let mut result = self.result.lock().unwrap_or_else(PoisonError::into_inner);
        match result.take() {
            Some((y, shape)) => Ok((CpuStorage::F32(y), shape)),
            None => bail!("{}: is applied once", self.name),
        }
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        y: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let inputs = std::array::from_fn(|i| [a, b, c][i]);
        let mut gradients = (self.backward)(inputs, y, g)?.into_iter();
        let mut next = || gradients.next().flatten();
        Ok((next(), next(), next()))
    }
}
