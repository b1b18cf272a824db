//! A grid is what the quantizer stores.

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
