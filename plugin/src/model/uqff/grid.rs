//! The grids of ggml's and afq's quantizers, which GPTQ rounds to.

use super::weight_type::WeightType;
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Tensor};
use half::f16;
use reptune_adapters::Result;
use reptune_adapters::rounding::{BlockGrid, BlockQuantizer};

/// A weight type as a quantizer of blocks, on rows of some length.
#[derive(Debug, Clone, Copy)]
pub struct Blocks {
    stored: WeightType,
    block: usize,
}

impl Blocks {
    /// The quantizer of `stored` on rows of `row` numbers; none for a type that has no
    /// independent blocks.
    pub fn of(stored: WeightType, row: usize) -> Option<Self> {
        let block = stored.block(row)?;
        Some(Self { stored, block })
    }
}

impl BlockQuantizer for Blocks {
    fn block(&self) -> usize {
        self.block
    }

    fn grid(&self, block: &[f32]) -> Option<BlockGrid> {
        use GgmlDType as G;
        match self.stored {
            WeightType::Ggml(G::Q8_0) => Some(symmetric(block, 127., 127.)),
            WeightType::Ggml(G::Q5_0) => Some(symmetric(block, -16., 15.)),
            WeightType::Ggml(G::Q4_0) => Some(symmetric(block, -8., 7.)),
            WeightType::Ggml(G::Q5_1) => Some(affine(block, 31.)),
            WeightType::Ggml(G::Q4_1) => Some(affine(block, 15.)),
            WeightType::Afq(bits) => Some(affine(block, f32::from((1u16 << bits) - 1))),
            _ => None,
        }
    }

    fn round(&self, columns: &Tensor) -> Result<Tensor> {
        let columns = columns.contiguous()?;
        Ok(match self.stored {
            // mistral.rs itself dequantizes through f16
            WeightType::Ggml(t) => QTensor::quantize(&columns, t)?.dequantize(columns.device())?,
            stored => {
                let stored = stored.quantize(&columns)?;
                stored.dequantize_w()?.to_dtype(DType::F32)?
            }
        })
    }
}

/// Scales are stored as f16.
fn as_f16(x: f32) -> f32 {
    f16::from_f32(x).to_f32()
}

/// The index of the first number that no other is better than.
fn first(block: &[f32], better: impl Fn(f32, f32) -> bool) -> usize {
    (0..block.len()).fold(0, |at, i| if better(block[i], block[at]) { i } else { at })
}

/// A grid around 0: the value of largest magnitude has the code `extreme`, and codes at the
/// other end go to `other`.
fn symmetric(block: &[f32], extreme: f32, other: f32) -> BlockGrid {
    let at = first(block, |x, best| x.abs() > best.abs());
    // q8_0 divides by the magnitude, the others by the value
    let largest = match extreme > 0. {
        true => block[at].abs(),
        false => block[at],
    };
    let step = as_f16(largest / extreme);
    BlockGrid {
        step,
        zero: -(extreme.abs()) * step,
        top: extreme.abs() + other,
        pinned: [at; 2],
    }
}

/// A grid from the least value, code 0, to the largest, code `top`.
fn affine(block: &[f32], top: f32) -> BlockGrid {
    let at = [
        first(block, |x, best| x < best),
        first(block, |x, best| x > best),
    ];
    let (least, most) = (as_f16(block[at[0]]), as_f16(block[at[1]]));
    BlockGrid {
        step: as_f16((most - least) / top),
        zero: least,
        top,
        pinned: at,
    }
}

#[cfg(test)]
mod tests;
