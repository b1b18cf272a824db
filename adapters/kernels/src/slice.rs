//! Contiguous f32 data of CPU tensors and storages, and what is computed on it.

use candle_core::{CpuStorage, DType, Layout, Result, Storage, Tensor, bail};
use rayon::prelude::*;

/// Whether these operations compute with `t`: in f32 on the CPU.
pub fn takes(t: &Tensor) -> bool {
    t.device().is_cpu() && t.dtype() == DType::F32
}

/// The data of a contiguous f32 CPU storage, to be written.
pub(crate) fn data_mut<'a>(s: &'a mut CpuStorage, l: &Layout) -> Result<&'a mut [f32]> {
    match (s, l.contiguous_offsets()) {
        (CpuStorage::F32(data), Some((from, to))) => Ok(&mut data[from..to]),
        _ => bail!("op: takes contiguous f32 tensors only"),
    }
}

/// Runs `f` on the data of `tensors` (f32, CPU), made contiguous if they are not.
pub(crate) fn with_all<R>(tensors: &[&Tensor], f: impl FnOnce(&[&[f32]]) -> R) -> Result<R> {
    let whole = tensors.iter().map(|t| t.contiguous());
    let whole = whole.collect::<Result<Vec<_>>>()?;
    let read: Vec<_> = whole.iter().map(Tensor::storage_and_layout).collect();
    let data = read.iter().map(|(storage, layout)| match &**storage {
        Storage::Cpu(CpuStorage::F32(data)) => {
            let from = layout.start_offset();
            Ok(&data[from..from + layout.shape().elem_count()])
        }
        _ => bail!("op: takes f32 tensors on the CPU only"),
    });
    Ok(f(&data.collect::<Result<Vec<_>>>()?))
}

/// [`with_all`] of a number of tensors that is known.
pub(crate) fn with_data<const N: usize, R>(
    tensors: [&Tensor; N],
    f: impl FnOnce([&[f32]; N]) -> R,
) -> Result<R> {
    with_all(&tensors, |data| f(std::array::from_fn(|i| data[i])))
}

/// `data` as a tensor of the shape of `like`.
pub(crate) fn tensor(data: Vec<f32>, like: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(data, like.shape(), like.device())
}

/// A table of zeros, written by all threads of the pool where it is large.
pub(crate) fn zeros(n: usize) -> Vec<f32> {
    const LARGE: usize = 1 << 16;
    let zeros = rayon::iter::repeat_n(0., n).with_min_len(LARGE / 4);
    match n {
        LARGE.. => zeros.collect(),
        _ => vec![0.; n],
    }
}

/// `n` numbers, of which each part gives `size`, the last what is left; in parallel.
///
/// # Panics
/// When parts give other numbers of numbers.
pub(crate) fn gathered(
    n: usize,
    size: usize,
    parts: impl IndexedParallelIterator<Item: Iterator<Item = f32>>,
) -> Vec<f32> {
    let mut numbers = Vec::with_capacity(n);
    let places = &mut numbers.spare_capacity_mut()[..n];
    assert_eq!(parts.len(), n.div_ceil(size.max(1)));
    let parts = places.par_chunks_mut(size.max(1)).zip(parts);
    parts.for_each(|(places, part)| {
        let all = places.len();
        let written = places.iter_mut().zip(part).map(|(place, x)| place.write(x));
        assert_eq!(written.count(), all);
    });
    // SAFETY: every place was written
    #[allow(unsafe_code)]
    unsafe {
        numbers.set_len(n);
    }
    numbers
}

/// Dot product in eight lanes, summed in a fixed order.
#[inline]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; 8];
    let (ac, bc) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail = ac.remainder().iter().zip(bc.remainder());
    let tail: f32 = tail.map(|(x, y)| x * y).sum();
    for (x, y) in ac.zip(bc) {
        for i in 0..8 {
            lanes[i] += x[i] * y[i];
        }
    }
    lanes.iter().sum::<f32>() + tail
}

/// Sum in eight lanes, in a fixed order.
pub(crate) fn sum(x: &[f32]) -> f32 {
    let mut lanes = [0f32; 8];
    let chunks = x.chunks_exact(8);
    let tail: f32 = chunks.remainder().iter().sum();
    for x in chunks {
        lanes.iter_mut().zip(x).for_each(|(lane, x)| *lane += x);
    }
    lanes.iter().sum::<f32>() + tail
}

/// The largest, in eight lanes; minus infinity of none.
pub(crate) fn max(x: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; 8];
    let chunks = x.chunks_exact(8);
    let tail = chunks.remainder().iter().copied();
    let tail = tail.fold(f32::NEG_INFINITY, larger);
    for x in chunks {
        for (lane, x) in lanes.iter_mut().zip(x) {
            *lane = larger(*lane, *x);
        }
    }
    lanes.into_iter().fold(tail, larger)
}

/// `a + b`, in parallel.
pub(crate) fn sum_of(a: &[f32], b: &[f32]) -> Vec<f32> {
    const CHUNK: usize = 1 << 14;
    let parts = a.par_chunks(CHUNK).zip(b.par_chunks(CHUNK));
    let sums = parts.map(|(a, b)| a.iter().zip(b).map(|(a, b)| a + b));
    gathered(a.len(), CHUNK, sums)
}

/// `a * b + c`, in one rounding where the processor has it.
#[inline(always)]
pub(crate) fn fma(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
        a.mul_add(b, c)
    } else {
        a * b + c
    }
}

/// `e^x`, within 2 units in the last place, in a form that compilers vectorise: `2^n e^r`
/// with |r| at most ln 2 / 2 and a polynomial for `e^r` (the Taylor series to r^7).
///
/// Below -87 it is 0, above 88 infinite. n is rounded by adding a number so large that no place
/// is left behind the point, whose last bits are then n: a cast to an integer goes lane by lane.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const LARGE: f32 = 12_582_912.; // 1.5 * 2^23
    const HIGH: f32 = 0.693_359_4; // ln 2 in two parts, the first with few digits
    const LOW: f32 = -2.121_944_4e-4;
    let clamped = x.clamp(-87., 88.);
    let rounded = fma(clamped, std::f32::consts::LOG2_E, LARGE);
    let n = rounded - LARGE;
    let r = fma(n, -LOW, fma(n, -HIGH, clamped));
    let mut sum = 1. / 5040.;
    for factor in [1. / 720., 1. / 120., 1. / 24., 1. / 6., 0.5, 1., 1.] {
        sum = fma(sum, r, factor);
    }
    let power = f32::from_bits((rounded.to_bits() << 23).wrapping_add(127 << 23));
    let y = sum * power;
    if x < -87. {
        0.
    } else if x > 88. {
        f32::INFINITY
    } else {
        y
    }
}

#[cfg(test)]
mod tests;
