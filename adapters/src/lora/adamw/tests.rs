use super::*;
use candle_core::Device;
use candle_nn::optim::{Optimizer, ParamsAdamW};

const CONSTANTS: Constants = Constants {
    beta1: 0.9,
    beta2: 0.999,
    epsilon: 1e-8,
    weight_decay: 0.1,
};

fn vars() -> Result<Vec<Var>> {
    let wave = |n: usize, phase: f32| (0..n).map(move |i| (i as f32 * 0.7 + phase).sin());
    let var = |shape: (usize, usize), phase| {
        let data: Vec<f32> = wave(shape.0 * shape.1, phase).collect();
        Ok(Var::from_tensor(&Tensor::from_vec(
            data,
            shape,
            &Device::Cpu,
        )?)?)
    };
    [((3, 5), 0.1), ((4, 3), 1.3), ((2, 2), 2.2)]
        .into_iter()
        .map(|(shape, phase)| var(shape, phase))
        .collect()
}

/// A loss that the third variable is not part of.
fn gradients(vars: &[Var], step: usize) -> Result<candle_core::backprop::GradStore> {
    let y = vars[1].as_tensor().matmul(vars[0].as_tensor())?;
    Ok((y.sin()? * (1. + step as f64 * 0.1))?
        .sqr()?
        .sum_all()?
        .backward()?)
}

fn bits(vars: &[Var]) -> Result<Vec<u32>> {
    let mut bits = Vec::new();
    for var in vars {
        let values: Vec<f32> = var.as_tensor().flatten_all()?.to_vec1()?;
        bits.extend(values.into_iter().map(f32::to_bits));
    }
    Ok(bits)
}

fn rate(step: usize) -> f64 {
    0.03 / (1. + step as f64)
}

fn ours(optimizer: &mut AdamW, vars: &[Var], step: usize) -> Result<()> {
    let store = gradients(vars, step)?;
    let gradients: Vec<_> = vars
        .iter()
        .map(|v| store.get(v.as_tensor()).cloned())
        .collect();
    optimizer.step(&gradients, &[rate(step); 3])
}

#[test]
fn fifty_steps_are_those_of_candle_bit_for_bit() -> Result<()> {
    let (a, b) = (vars()?, vars()?);
    let start = bits(&a)?;
    let mut ours_of_it = AdamW::new(a.clone(), CONSTANTS)?;
    let params = ParamsAdamW {
        lr: 0.,
        beta1: CONSTANTS.beta1,
        beta2: CONSTANTS.beta2,
        eps: CONSTANTS.epsilon,
        weight_decay: CONSTANTS.weight_decay,
    };
    let mut theirs = candle_nn::AdamW::new(b.clone(), params)?;
    for step in 0..50 {
        ours(&mut ours_of_it, &a, step)?;
        theirs.set_learning_rate(rate(step));
        theirs.step(&gradients(&b, step)?)?;
        assert_eq!(bits(&a)?, bits(&b)?, "step {step}");
    }
    let end = bits(&a)?;
    assert_ne!(start[..27], end[..27]);
    assert_eq!(start[27..], end[27..], "what has no gradient stays");
    Ok(())
}

#[test]
fn it_goes_on_from_written_moments() -> Result<()> {
    let whole = vars()?;
    let mut optimizer = AdamW::new(whole.clone(), CONSTANTS)?;
    for step in 0..6 {
        ours(&mut optimizer, &whole, step)?;
    }
    let cut = vars()?;
    let mut before = AdamW::new(cut.clone(), CONSTANTS)?;
    for step in 0..3 {
        ours(&mut before, &cut, step)?;
    }
    let mut after = AdamW::new(cut.clone(), CONSTANTS)?;
    after.restore(before.steps(), before.moments().cloned().collect())?;
    for step in 3..6 {
        ours(&mut after, &cut, step)?;
    }
    assert_eq!(bits(&whole)?, bits(&cut)?);
    let one = before.moments().take(1).cloned().collect();
    let message = after.restore(3, one).expect_err("too few").to_string();
    assert!(
        message.contains("moments of AdamW") && message.contains("another run"),
        "{message}"
    );
    let message = after.step(&[], &[]).expect_err("none").to_string();
    assert!(message.contains("3 gradients"), "{message}");
    Ok(())
}

#[test]
fn each_variable_has_its_own_rate() -> Result<()> {
    let (a, b) = (vars()?, vars()?);
    let start = bits(&a)?;
    let store = gradients(&a, 0)?;
    let given: Vec<_> = a
        .iter()
        .map(|v| store.get(v.as_tensor()).cloned())
        .collect();
    AdamW::new(a.clone(), CONSTANTS)?.step(&given, &[0.01, 0., 0.01])?;
    AdamW::new(b.clone(), CONSTANTS)?.step(&given, &[0.01; 3])?;
    assert_eq!(bits(&a[..1])?, bits(&b[..1])?);
    assert_eq!(start[15..], bits(&a)?[15..]);
    assert_ne!(start[15..27], bits(&b)?[15..27]);
    Ok(())
}
