//! Invariants of operators and gates on plain tables of rows.

use super::*;
use crate::steering::direction::{Direction, Provenance};
use crate::steering::gate::Side;
use candle_core::Var;
use rand::{Rng, SeedableRng};

const ALL: [Operator; 4] = [
    Operator::Add,
    Operator::Ablate,
    Operator::AddNormPreserving,
    Operator::Clamp,
];

fn random(seed: u64, shape: &[usize]) -> Tensor {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let n = shape.iter().product();
    let data: Vec<f32> = (0..n).map(|_| rng.random_range(-1.5..1.5)).collect();
    Tensor::from_vec(data, shape, &Device::Cpu).expect("shape and data agree")
}

/// Two layers, 1 and 2, of width 8.
fn set(seed: u64) -> DirectionSet {
    let direction = |l: usize| {
        let v: Vec<f32> = random(seed + l as u64, &[8]).to_vec1().expect("a vector");
        let v: Vec<f64> = v.into_iter().map(f64::from).collect();
        (l, Direction::new(&v).expect("a direction"))
    };
    DirectionSet {
        layers: [direction(1), direction(2)].into(),
        provenance: Provenance::default(),
    }
}

fn bits(t: &Tensor) -> Vec<Vec<u32>> {
    let rows: Vec<Vec<f32>> = t.to_vec2().expect("a table");
    rows.iter()
        .map(|r| r.iter().map(|x| x.to_bits()).collect())
        .collect()
}

fn along(row: &[f32], d: &Tensor) -> f64 {
    let d: Vec<f32> = d.to_vec1().expect("a vector");
    row.iter()
        .zip(d)
        .map(|(x, d)| f64::from(*x) * f64::from(d))
        .sum()
}

fn norm(row: &[f32]) -> f64 {
    row.iter()
        .map(|x| f64::from(*x).powi(2))
        .sum::<f64>()
        .sqrt()
}

#[test]
fn coeff_zero_is_the_table_itself() -> Result<()> {
    let h = random(1, &[5, 8]);
    for operator in [Operator::Add, Operator::AddNormPreserving] {
        let x = Intervention::new(&set(2), &[1], Dose::Total(0.), operator)?;
        assert_eq!(bits(&x.apply(&h, 1, &[0, 1, 2, 3, 4])?), bits(&h));
    }
    Ok(())
}

#[test]
fn rows_and_layers_that_are_not_named_are_untouched() -> Result<()> {
    let h = random(1, &[5, 8]);
    for operator in ALL {
        let x = Intervention::new(&set(2), &[1], Dose::Total(3.), operator)?;
        let y = bits(&x.apply(&h, 1, &[1, 3])?);
        for (r, (y, h)) in y.iter().zip(bits(&h)).enumerate() {
            assert_eq!(*y == h, ![1, 3].contains(&r), "{operator}, row {r}");
        }
        assert_eq!(bits(&x.apply(&h, 2, &[1, 3])?), bits(&h));
    }
    Ok(())
}

#[test]
fn a_turn_keeps_the_norm_and_points_as_the_sum_does() -> Result<()> {
    let h = random(1, &[5, 8]);
    let x = Intervention::new(
        &set(2),
        &[1, 2],
        Dose::Total(6.),
        Operator::AddNormPreserving,
    )?;
    let sum = Intervention::new(&set(2), &[1, 2], Dose::Total(6.), Operator::Add)?;
    for rows in [&[0, 1, 2, 3, 4][..], &[2]] {
        let before: Vec<Vec<f32>> = h.to_vec2()?;
        let after: Vec<Vec<f32>> = x.apply(&h, 1, rows)?.to_vec2()?;
        let added: Vec<Vec<f32>> = sum.apply(&h, 1, rows)?.to_vec2()?;
        for r in rows.iter().map(|r| *r as usize) {
            let ratio = norm(&after[r]) / norm(&before[r]);
            assert!((ratio - 1.).abs() < 1e-6, "{ratio}");
            let cos = along(&after[r], &Tensor::new(added[r].as_slice(), &Device::Cpu)?)
                / (norm(&after[r]) * norm(&added[r]));
            assert!((cos - 1.).abs() < 1e-6, "{cos}");
        }
    }
    let zeros = Tensor::zeros((2, 8), candle_core::DType::F32, &Device::Cpu)?;
    let steered: Vec<Vec<f32>> = x.apply(&zeros, 1, &[0, 1])?.to_vec2()?;
    assert!(steered.iter().flatten().all(|x| x.is_finite()));
    Ok(())
}

#[test]
fn a_clamp_sets_the_projection_whole_at_every_layer() -> Result<()> {
    let h = random(1, &[5, 8]);
    let x = Intervention::new(&set(2), &[1, 2], Dose::Total(2.5), Operator::Clamp)?;
    let d = x.direction(2).expect("a direction").clone();
    let y: Vec<Vec<f32>> = x.apply(&h, 2, &[0, 4])?.to_vec2()?;
    for r in [0, 4] {
        assert!((along(&y[r], &d) - 2.5).abs() < 1e-6);
    }
    // Across d nothing changes: ablated, both are the same.
    let ablate = Intervention::new(&set(2), &[2], Dose::Total(0.), Operator::Ablate)?;
    let (a, b) = (
        ablate.apply(&x.apply(&h, 2, &[0])?, 2, &[0])?,
        ablate.apply(&h, 2, &[0])?,
    );
    let off: f32 = (a - b)?.abs()?.max_all()?.to_scalar()?;
    assert!(off < 1e-6, "{off}");
    Ok(())
}

/// Gradients of a random weighting of the result, against finite differences.
fn check_gradient(x: &Intervention, rows: &[u32]) -> Result<()> {
    let plain: Vec<f32> = random(5, &[40]).to_vec1()?;
    let weighting = random(6, &[5, 8]);
    let var = Var::from_tensor(&random(5, &[5, 8]))?;
    let y = x.apply(var.as_tensor(), 1, rows)?;
    let gradients = (y * &weighting)?.sum_all()?.backward()?;
    let ours: Vec<f32> = gradients
        .get(&var)
        .expect("a gradient")
        .flatten_all()?
        .to_vec1()?;
    for at in 0..plain.len() {
        let value = |by: f32| -> Result<f64> {
            let mut data = plain.clone();
            data[at] += by;
            let h = Tensor::from_vec(data, (5, 8), &Device::Cpu)?;
            let y = (x.apply(&h, 1, rows)? * &weighting)?;
            let y: Vec<f32> = y.flatten_all()?.to_vec1()?;
            Ok(y.into_iter().map(f64::from).sum())
        };
        let step = 5e-3;
        let numeric = (value(step)? - value(-step)?) / f64::from(2. * step);
        assert!(
            (numeric - f64::from(ours[at])).abs() < 2e-3 * (1. + numeric.abs()),
            "{} [{at}]: {numeric} by differences, {} by backward",
            x.operator(),
            ours[at]
        );
    }
    Ok(())
}

#[test]
fn every_operator_has_its_gradient_on_all_rows_on_some_and_behind_a_gate() -> Result<()> {
    for operator in ALL {
        let x = Intervention::new(&set(2), &[1], Dose::Total(3.), operator)?;
        check_gradient(&x, &[0, 1, 2, 3, 4])?;
        check_gradient(&x, &[1, 4])?;
        let gate = Gate::new(&set(30), Decide::EveryToken, Side::Above, 0.)?;
        let open = gate.rows(&random(5, &[5, 8]), 1, &[0, 1, 2, 3, 4])?;
        assert!((1..5).contains(&open.len()), "a gate open to some rows");
        check_gradient(&x.when(gate)?, &[0, 1, 2, 3, 4])?;
    }
    Ok(())
}

#[test]
fn a_gate_at_every_token_lets_through_the_rows_on_its_side() -> Result<()> {
    let h = random(1, &[5, 8]);
    let rows: Vec<Vec<f32>> = h.to_vec2()?;
    let gates = set(40);
    for (side, threshold) in [(Side::Above, 0.3), (Side::Below, 0.3)] {
        let gate = Gate::new(&gates, Decide::EveryToken, side, threshold)?;
        let g = gate.direction(1)?.clone();
        let x = Intervention::new(&set(2), &[1], Dose::Total(3.), Operator::Add)?.when(gate)?;
        let y = bits(&x.apply(&h, 1, &[0, 1, 2, 4])?);
        for r in 0..5 {
            let p = along(&rows[r], &g);
            let open = r != 3 && (p > threshold) == (side == Side::Above);
            assert_eq!(y[r] != bits(&h)[r], open, "row {r}, projection {p}");
        }
    }
    let shut = Gate::new(&gates, Decide::EveryToken, Side::Above, f64::INFINITY)?;
    let x = Intervention::new(&set(2), &[1], Dose::Total(3.), Operator::Clamp)?.when(shut)?;
    assert_eq!(bits(&x.apply(&h, 1, &[0, 1, 2, 3, 4])?), bits(&h));
    Ok(())
}

#[test]
fn a_decision_holds_from_the_last_prompt_token_on() -> Result<()> {
    let gate = Gate::new(
        &set(40),
        Decide::OncePerPrompt { layer: 2 },
        Side::Above,
        0.,
    )?;
    let add = |c| Intervention::new(&set(2), &[1], Dose::Total(c), Operator::Add);
    let interventions = [add(1.)?, add(2.)?.when(gate)?];
    let marked = |open| -> Vec<TokenMask> {
        (0..6)
            .map(|p| token_mask_gated(&interventions, open, p, 4))
            .collect()
    };
    assert_eq!(marked(0b10), [1, 1, 1, 3, 3, 3]);
    assert_eq!(marked(0b01), [1, 1, 1, 1, 1, 1]);
    assert_eq!(token_mask(&interventions, 5, 4), 1);
    Ok(())
}

#[test]
fn a_gate_that_cannot_be_read_is_refused() -> Result<()> {
    let mut narrow = set(40);
    narrow.layers.remove(&2);
    let gate = Gate::new(&narrow, Decide::EveryToken, Side::Above, 0.)?;
    let both = Intervention::new(&set(2), &[1, 2], Dose::Total(3.), Operator::Add)?;
    let message = both.when(gate).expect_err("no gate at layer 2").to_string();
    assert!(
        message.contains("layer 2") && message.contains("[1]"),
        "{message}"
    );
    let once = Decide::OncePerPrompt { layer: 2 };
    let message = Gate::new(&narrow, once, Side::Above, 0.).expect_err("no layer 2");
    assert!(message.to_string().contains("layer 2"), "{message}");
    let message = Gate::new(&narrow, Decide::EveryToken, Side::Above, f64::NAN);
    assert!(message.expect_err("NaN").to_string().contains("threshold"));
    Ok(())
}

#[test]
fn only_a_plain_addition_is_a_constant() -> Result<()> {
    for operator in ALL {
        let x = Intervention::new(&set(2), &[1], Dose::Total(3.), operator)?;
        assert!(x.addition(2)?.is_none());
        match x.addition(1) {
            Ok(d) => assert!(d.is_some() && operator == Operator::Add),
            Err(e) => assert!(e.to_string().contains(&operator.to_string()), "{e}"),
        }
    }
    let gate = Gate::new(&set(40), Decide::EveryToken, Side::Above, 0.)?;
    let gated = Intervention::new(&set(2), &[1], Dose::Total(3.), Operator::Add)?.when(gate)?;
    let message = gated.addition(1).expect_err("a gate").to_string();
    assert!(message.contains("with a gate"), "{message}");
    Ok(())
}
