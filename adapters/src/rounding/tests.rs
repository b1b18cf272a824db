use super::*;
use rand::{Rng, SeedableRng};

/// Whole numbers; in blocks of 4, with or without saying so.
struct Whole {
    tells: bool,
}

impl BlockQuantizer for Whole {
    fn block(&self) -> usize {
        4
    }

    fn grid(&self, _: &[f32]) -> Option<BlockGrid> {
        let grid = BlockGrid {
            step: 1.,
            zero: -100.,
            top: 200.,
            pinned: [99; 2],
        };
        self.tells.then_some(grid)
    }

    fn round(&self, columns: &Tensor) -> Result<Tensor> {
        Ok(columns.round()?)
    }
}

fn random(rows: usize, columns: usize, seed: u64) -> Tensor {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f32> = (0..rows * columns)
        .map(|_| rng.random_range(-3f32..3.))
        .collect();
    Tensor::from_vec(values, (rows, columns), &Device::Cpu).expect("a table")
}

/// Rows of which a few make up all others, as activations are.
fn inputs(columns: usize) -> LayerInputs {
    let x = random(64, 5, 1).matmul(&random(5, columns, 2)).expect("x");
    let noise = (random(64, columns, 3) * 0.05).expect("noise");
    LayerInputs::of(&(x + noise).expect("x")).expect("inputs")
}

#[test]
fn feedback_loses_less_at_the_outputs_one_by_one_and_in_blocks() -> Result<()> {
    let (w, x) = (random(7, 12, 4), inputs(12));
    let lost = |stored: &Tensor| x.output_norm(&(&w - stored)?, None);
    let nearest = lost(&w.round()?)?;
    let blocks = gptq(&w, &x, &Whole { tells: false })?;
    let columns = gptq(&w, &x, &Whole { tells: true })?;
    // what is on the grid stays there
    let rounded: Vec<f32> = columns.round()?.flatten_all()?.to_vec1()?;
    assert_eq!(columns.flatten_all()?.to_vec1::<f32>()?, rounded);
    let (blocks, columns) = (lost(&blocks.round()?)?, lost(&columns)?);
    assert!(blocks < 0.8 * nearest, "{blocks} of {nearest}");
    assert!(columns < 0.5 * nearest, "{columns} of {nearest}");
    Ok(())
}

/// With the columns that are left free to be any number, the change must be the least
/// squares solution, which is computed here from the equation in the header.
#[test]
fn the_change_is_that_of_least_squares() -> Result<()> {
    let (w, x) = (random(3, 8, 5), inputs(8));
    let got = gptq(&w, &x, &Whole { tells: false })?;
    let values: Vec<f32> = x.gram.flatten_all()?.to_vec1()?;
    let mut gram = DMatrix::from_iterator(8, 8, values.iter().map(|v| f64::from(*v)));
    let mean = gram.diagonal().mean();
    for k in 0..8 {
        gram[(k, k)] += DAMPING * mean;
    }
    let as_matrix = |t: &Tensor| -> Result<DMatrix<f64>> {
        let values: Vec<f32> = t.flatten_all()?.to_vec1()?;
        let values = values.iter().map(|v| f64::from(*v));
        Ok(DMatrix::from_row_iterator(3, 8, values))
    };
    let (w, got) = (as_matrix(&w)?, as_matrix(&got)?);
    let error = w.columns(0, 4) - w.columns(0, 4).map(|v| v.round());
    let (cross, rest) = (gram.view((0, 4), (4, 4)), gram.view((4, 4), (4, 4)));
    let inverse = rest.clone_owned().try_inverse().expect("invertible");
    let expected = w.columns(4, 4) + error * cross * inverse;
    let off = (got.columns(4, 4) - expected).abs().max();
    assert!(off < 1e-3, "{off}");
    assert_eq!(got.columns(0, 4), w.columns(0, 4));
    Ok(())
}

#[test]
fn output_norms_are_those_of_the_outputs() -> Result<()> {
    let (x, d) = (random(20, 6, 6), random(4, 6, 7));
    let bias = random(1, 4, 8).squeeze(0)?;
    let out = x.matmul(&d.t()?)?.broadcast_add(&bias)?; // (N, O)
    let expected = total(&out.sqr()?)?.sqrt();
    let half = |from| LayerInputs::of(&x.narrow(0, from, 10)?);
    let got = half(0)?.and(&half(10)?)?.output_norm(&d, Some(&bias))?;
    assert!((got - expected).abs() < 1e-3, "{got} {expected}");
    let mean = half(0)?.and(&half(10)?)?.mean()?.to_vec1::<f32>()?;
    let expected = x.mean(0)?.to_vec1::<f32>()?;
    assert!(mean.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5));
    Ok(())
}

#[test]
fn inputs_that_are_not_finite_are_refused() {
    let x = Tensor::new(&[[f32::NAN, 1.]], &Device::Cpu).expect("x");
    let x = LayerInputs::of(&x).expect("inputs");
    let refused = gptq(&random(2, 2, 9), &x, &Whole { tells: false });
    let message = refused.expect_err("not finite").to_string();
    assert!(message.contains("calibration inputs"), "{message}");
}
