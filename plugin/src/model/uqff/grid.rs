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
mod tests {
    use super::*;
    use candle_core::Device;
    use reptune_adapters::rounding::{LayerInputs, gptq};

    fn noise(rows: usize, columns: usize) -> Tensor {
        let values = (0..rows * columns).map(|i| ((i * 7919 % 1009) as f32 / 500. - 1.).powi(3));
        Tensor::from_iter(values, &Device::Cpu)
            .and_then(|t| t.reshape((rows, columns)))
            .expect("a table")
    }

    /// The quantizer finds the very grid that the feedback rounded on, and stores what it chose.
    #[test]
    fn what_is_put_on_the_grid_is_what_the_quantizer_stores() {
        let (w, x) = (noise(6, 128), noise(300, 128));
        let inputs = LayerInputs::of(&x).expect("inputs");
        let mut known = 0;
        for (name, stored) in WeightType::ALL {
            let Some(blocks) = Blocks::of(stored, 128) else {
                continue;
            };
            if !stored.fitted((6, 128)).eq(&stored) {
                continue;
            }
            let target = gptq(&w, &inputs, &blocks).expect("a target");
            let got = blocks.round(&target).expect("rounded");
            let lost = |q: &Tensor| {
                let e = (&w - q).expect("an error");
                inputs.output_norm(&e, None).expect("a norm")
            };
            let (fed, nearest) = (lost(&got), lost(&blocks.round(&w).expect("rounded")));
            println!("{name}: {fed:.4} with feedback, {nearest:.4} without");
            if stored != WeightType::F32 {
                assert!(fed < nearest, "{name}: {fed} {nearest}");
            }
            if blocks.grid(&[0.5, -1.]).is_none() {
                continue;
            }
            known += 1;
            let step = |row: &[f32]| blocks.grid(row).expect("a grid").step.abs();
            let (target, got) = (rows(&target), rows(&got));
            for (t, g) in target.iter().zip(&got) {
                for (t, g) in t.chunks(blocks.block()).zip(g.chunks(blocks.block())) {
                    for (a, b) in t.iter().zip(g) {
                        // far from the middle between two codes, so the code is the same
                        assert!((a - b).abs() < 0.26 * step(t), "{name}: {a} {b}");
                    }
                }
            }
        }
        assert_eq!(known, 10, "five of ggml and five of afq");
    }

    fn rows(t: &Tensor) -> Vec<Vec<f32>> {
        t.to_vec2().expect("a table")
    }

    /// What `BlockQuantizer::block` promises: blocks are rounded without regard to others.
    #[test]
    fn blocks_are_rounded_alone() {
        let w = noise(5, 512);
        for (name, stored) in WeightType::ALL {
            let Some(blocks) = Blocks::of(stored, 512) else {
                continue;
            };
            let whole = rows(&blocks.round(&w).expect("rounded"));
            let b = blocks.block().max(32);
            for start in (0..512).step_by(b) {
                let part = w.narrow(1, start, b).expect("columns");
                let part = rows(&blocks.round(&part).expect("rounded"));
                for (whole, part) in whole.iter().zip(&part) {
                    assert_eq!(&whole[start..start + b], part, "{name} at {start}");
                }
            }
        }
    }
}
