//! Where a quantizer puts the values of a block: what rounding with feedback has to
//! know of it.

use super::weight_type::WeightType;
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Tensor};
use half::f16;
use reptune_adapters::Result;
use reptune_adapters::rounding::{BlockGrid, BlockQuantizer};

/// A type on rows of a given length, as a rounding of blocks of columns.
#[derive(Debug, Clone, Copy)]
pub struct Blocks {
    stored: WeightType,
    block: usize,
}

impl Blocks {
    /// The blocks of `stored` on rows of `row` numbers; none for a type whose numbers
    /// all depend on each other.
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
            // mistral.rs's own dequantization goes through f16
            WeightType::Ggml(t) => QTensor::quantize(&columns, t)?.dequantize(columns.device())?,
            stored => {
                let stored = stored.quantize(&columns)?;
                stored.dequantize_w()?.to_dtype(DType::F32)?
            }
        })
    }
}

/// Scales are kept as f16.
fn kept(x: f32) -> f32 {
    f16::from_f32(x).to_f32()
}

/// The largest value, sign and all, is code `extreme` of those around 0; the other end
/// is `+-other`.
fn symmetric(block: &[f32], extreme: f32, other: f32) -> BlockGrid {
    let mut at = 0;
    for (i, x) in block.iter().enumerate() {
        if x.abs() > block[at].abs() {
            at = i;
        }
    }
    // q8_0 divides by the magnitude, the others by the value
    let largest = match extreme > 0. {
        true => block[at].abs(),
        false => block[at],
    };
    let step = kept(largest / extreme);
    BlockGrid {
        step,
        zero: -(extreme.abs()) * step,
        top: extreme.abs() + other,
        pinned: [at; 2],
    }
}

/// The least value is code 0, the largest code `top`.
fn affine(block: &[f32], top: f32) -> BlockGrid {
    let mut at = [0, 0];
    for (i, x) in block.iter().enumerate() {
        if *x < block[at[0]] {
            at[0] = i;
        }
        if *x > block[at[1]] {
            at[1] = i;
        }
    }
    let (least, most) = (kept(block[at[0]]), kept(block[at[1]]));
    BlockGrid {
        step: kept((most - least) / top),
        zero: least,
        top,
        pinned: at,
    }
}

#[cfg(test)]
mod tests;
