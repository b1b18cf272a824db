//! Reading contiguous f32 data of CPU tensors and storages.

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor, bail};

/// The data of a contiguous f32 CPU storage.
pub(super) fn contiguous<'a>(name: &str, s: &'a CpuStorage, l: &Layout) -> Result<&'a [f32]> {
    let CpuStorage::F32(data) = s else {
        bail!("{name}: takes f32 only")
    };
    match l.contiguous_offsets() {
        Some((from, to)) => Ok(&data[from..to]),
        None => bail!("{name}: takes contiguous tensors only"),
    }
}

/// Runs `f` on the data of `tensor` (f32, CPU), made contiguous if it is not.
pub(super) fn with_data<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(cpu) => f(contiguous("op", cpu, layout)?),
        _ => bail!("op: takes CPU tensors only"),
    }
}

/// Dot product in eight lanes, summed in a fixed order.
#[inline]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; 8];
    let (ac, bc) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f32 = ac
        .remainder()
        .iter()
        .zip(bc.remainder())
        .map(|(x, y)| x * y)
        .sum();
    for (x, y) in ac.zip(bc) {
        for i in 0..8 {
            lanes[i] += x[i] * y[i];
        }
    }
    lanes.iter().sum::<f32>() + tail
}

/// `y += a * x`.
#[inline]
pub(super) fn axpy(y: &mut [f32], a: f32, x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += a * x;
    }
}
