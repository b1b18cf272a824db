use super::*;
use candle_core::Device;
use rand::{Rng, SeedableRng};

fn random(seed: u64, shape: &[usize]) -> Tensor {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let n = shape.iter().product();
    let data: Vec<f32> = (0..n).map(|_| rng.random_range(-1.5..1.5)).collect();
    Tensor::from_vec(data, shape, &Device::Cpu).expect("shape and data agree")
}

fn flat(t: &Tensor) -> Vec<f32> {
    t.flatten_all().and_then(|t| t.to_vec1()).expect("f32")
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    let (a, b) = (flat(a), flat(b));
    a.iter()
        .zip(&b)
        .map(|(a, b)| (a - b).abs())
        .fold(0., f32::max)
}

/// A product is candle's own, however many rows it has.
#[test]
fn products_with_a_weight_are_those_of_candle() -> Result<()> {
    for (rows, outputs, inputs) in [
        (1, 33, 20),
        (2, 33, 20),
        (17, 150, 20),
        (72, 20, 500),
        (73, 500, 20),
        (131, 33, 150),
        (65, 130, 20),
        (161, 300, 150),
        (300, 20, 33),
    ] {
        let weight = random(17, &[outputs, inputs]);
        let (x, g) = (random(18, &[rows, inputs]), random(19, &[rows, outputs]));
        let ours = product(&x, &weight)?;
        assert!(largest_difference(&ours, &x.matmul(&weight.t()?)?) < 2e-5);
        let ours = product_back(&g, &weight)?;
        assert!(largest_difference(&ours, &g.matmul(&weight)?) < 2e-5);
    }
    Ok(())
}

#[test]
fn products_of_other_shapes_are_refused() {
    let (x, weight) = (random(17, &[5, 8]), random(18, &[9, 7]));
    let error = product(&x, &weight).expect_err("7 is not 8").to_string();
    assert!(error.contains("weight (9, 7) reads rows (5, 8)"), "{error}");
    let error = product_back(&x, &weight).expect_err("9 is not 8");
    let error = error.to_string();
    assert!(
        error.contains("weight (9, 7) has a gradient of (5, 8)"),
        "{error}"
    );
}

/// A product is the same bytes, however many threads share it.
#[test]
fn products_do_not_depend_on_the_number_of_threads() -> Result<()> {
    for (rows, outputs, inputs) in [
        (6, 700, 600),
        (60, 320, 600),
        (161, 700, 600),
        (400, 16, 600),
    ] {
        let weight = random(31, &[outputs, inputs]);
        let (x, g) = (random(32, &[rows, inputs]), random(33, &[rows, outputs]));
        let by = |threads: usize| -> Result<[Vec<f32>; 2]> {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            pool.expect("a pool").install(|| {
                let y = product(&x, &weight)?;
                Ok([flat(&y), flat(&product_back(&g, &weight)?)])
            })
        };
        let alone = by(1)?;
        for threads in [2, 3, 16] {
            assert!(by(threads)? == alone, "{threads} threads, {rows} rows");
        }
    }
    Ok(())
}
