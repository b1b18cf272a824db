//! Every way to a gradient against another one, or against finite differences.

use super::super::losses::Gradients;
use super::*;
use candle_core::Var;

/// Weights of the terms for every variable.
fn weights(tuner: &Tuner, shares: &[ModuleSettings]) -> Vec<Vec<f64>> {
    shares.iter().map(|s| tuner.objective.weights(s)).collect()
}

/// Gradients of the training claims with `parts` prompts at once.
fn gradients(
    tuner: &Tuner,
    update: &mut Adapter,
    shares: &dyn Fn(&Adapter) -> Vec<ModuleSettings>,
    together: usize,
) -> Result<(Vec<Var>, Vec<Vec<f32>>)> {
    let vars = update.trainable(tuner.model.device())?;
    let prompts: Vec<&TuningPrompt> = tuner.train.iter().collect();
    let mut sum: Option<Gradients> = None;
    for some in prompts.chunks(together) {
        let losses = tuner.losses(some, update)?;
        let part = some.len() as f64 / prompts.len() as f64;
        let of_part = Gradients::of(&losses, &vars, &weights(tuner, &shares(update)), part)?;
        sum = Some(match sum {
            Some(sum) => sum.add(of_part)?,
            None => of_part,
        });
    }
    let sum = sum.expect("prompts");
    let values = |g: &Option<Tensor>| -> Result<Vec<f32>> {
        Ok(g.as_ref().expect("a gradient").flatten_all()?.to_vec1()?)
    };
    let gradients = sum.0.iter().map(values).collect::<Result<_>>()?;
    Ok((vars, gradients))
}

/// Largest difference, as a share of the largest element.
fn off(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    let (a, b) = (a.concat(), b.concat());
    let largest = a.iter().fold(0f32, |m, x| m.max(x.abs()));
    assert!(a.len() == b.len() && largest > 0.);
    let pairs = a.iter().zip(&b);
    pairs.fold(0f32, |m, (x, y)| m.max((x - y).abs())) / largest
}

#[test]
fn parts_of_a_batch_sum_to_the_gradient_of_the_whole() -> Result<()> {
    let setting = setting()?;
    let recipe = recipe("positions = \"at:-1,-3\"\nrank = 4\ntoken_weight = 0.5");
    let all = |u: &Adapter| module_settings(&recipe.tuning, u);
    for mode in Mode::ALL {
        let tuner = setting.tuner(&setting.model, &recipe, mode)?;
        let (_, whole) = gradients(&tuner, &mut stirred(&tuner)?, &all, 8)?;
        for together in [1, 3, 4] {
            let (_, parts) = gradients(&tuner, &mut stirred(&tuner)?, &all, together)?;
            let pairs = whole.iter().flatten().zip(parts.iter().flatten());
            let off = pairs.fold(0f32, |m, (x, y)| m.max((x - y).abs()));
            assert!(off < 1e-6, "{mode}, {together} at once: {off}");
        }
    }
    Ok(())
}

#[test]
fn one_backward_a_loss_gives_the_gradient_of_their_sum() -> Result<()> {
    let setting = setting()?;
    let recipe = recipe("rank = 4\ntoken_weight = 0.5");
    let tuner = setting.tuner(&setting.model, &recipe, Mode::InMinusLie)?;
    let alike = |u: &Adapter| module_settings(&recipe.tuning, u);
    let (_, together) = gradients(&tuner, &mut stirred(&tuner)?, &alike, 8)?;
    // Another weight at the last variable alone makes it one backward a loss.
    let apart = |u: &Adapter| {
        let mut shares = alike(u);
        shares.last_mut().expect("a share").token_weight = 7.;
        shares
    };
    let (_, apart) = gradients(&tuner, &mut stirred(&tuner)?, &apart, 8)?;
    let n = together.len() - 1;
    let off_by = off(&together[..n], &apart[..n]);
    assert!(off_by < 1e-5, "{off_by}");
    assert!(off(&together[n..], &apart[n..]) > 1e-2);
    Ok(())
}

/// `d (weights of the module . losses) / d x` by central differences at some elements.
fn check_differences(tuning: &str, mode: Mode) -> Result<()> {
    let setting = setting()?;
    let recipe = recipe(tuning);
    let tuner = setting.tuner(&setting.model, &recipe, mode)?;
    let mut update = stirred(&tuner)?;
    let all = |u: &Adapter| module_settings(&recipe.tuning, u);
    let (vars, found) = gradients(&tuner, &mut update, &all, 8)?;
    let shares = all(&update);
    let prompts: Vec<&TuningPrompt> = tuner.train.iter().collect();
    for ((var, found), share) in vars.iter().zip(&found).zip(&shares) {
        let start: Vec<f32> = var.as_tensor().flatten_all()?.to_vec1()?;
        let largest = found.iter().fold(0f32, |m, x| m.max(x.abs()));
        let at = |value: &[f32]| -> Result<f64> {
            let dims = var.as_tensor().dims2()?;
            var.set(&Tensor::from_vec(
                value.to_vec(),
                dims,
                tuner.model.device(),
            )?)?;
            let losses = tuner.losses(&prompts, &update)?;
            let total = losses.total(&tuner.objective.weights(share))?;
            Ok(f64::from(total.to_scalar::<f32>()?))
        };
        for i in [0, start.len() / 3, start.len() - 1] {
            // Short, because |cos| has a kink.
            let step = 4e-3f32;
            let moved = |by: f32| {
                let mut moved = start.clone();
                moved[i] += by;
                at(&moved)
            };
            let slope = (moved(step)? - moved(-step)?) / f64::from(2. * step);
            let (found, largest) = (f64::from(found[i]), f64::from(largest));
            assert!(
                (slope - found).abs() < 2e-2 * largest + 2e-5,
                "{tuning} {mode} element {i}: {slope} {found} (largest {largest})"
            );
        }
        at(&start)?;
    }
    Ok(())
}

#[test]
fn gradients_are_those_of_finite_differences() -> Result<()> {
    for mode in [Mode::InPlusTruth, Mode::InMinus, Mode::Out, Mode::Lie] {
        check_differences(
            "positions = \"at:-1,-4\"\nrepresentation_layers = [1, 3]\nrank = 2\ntoken_weight = 0.5",
            mode,
        )?;
        check_differences("update = \"full\"\ntoken_weight = 0.5", mode)?;
        check_differences(
            "token_weight = 0.2\nrank = 2\n[[tuning.groups]]\ntarget_modules = [\"v_proj\"]\n\
             update = \"full\"\ntoken_weight = 0.6\nrepresentation_weight = 0.3",
            mode,
        )?;
    }
    Ok(())
}

#[test]
fn the_loss_is_the_mean_over_layers_and_offsets() -> Result<()> {
    let setting = setting()?;
    let representation = |tuning: &str| -> Result<f64> {
        let recipe = recipe(tuning);
        let tuner = setting.tuner(&setting.model, &recipe, Mode::InPlus)?;
        let update = tuner.fresh()?;
        let losses = tuner.losses(&tuner.train.iter().collect::<Vec<_>>(), &update)?;
        Ok(losses.numbers()?[0])
    };
    let mut each = 0.;
    for layer in [1, 3] {
        for offset in [0, 2, 5] {
            let tuning = format!(
                "positions = \"at:-{}\"\nrepresentation_layers = [{layer}]",
                offset + 1
            );
            each += representation(&tuning)? / 6.;
        }
    }
    let all = representation("positions = \"at:-1,-3,-6\"\nrepresentation_layers = [1, 3]")?;
    assert!((all - each).abs() < 1e-6, "{all} {each}");
    Ok(())
}

#[test]
fn clipping_keeps_the_direction_and_bounds_the_norm() -> Result<()> {
    let setting = setting()?;
    let recipe = recipe("rank = 4");
    let tuner = setting.tuner(&setting.model, &recipe, Mode::InPlusTruth)?;
    let mut update = stirred(&tuner)?;
    let vars = update.trainable(tuner.model.device())?;
    let losses = tuner.losses(&tuner.train.iter().collect::<Vec<_>>(), &update)?;
    let shares = module_settings(&recipe.tuning, &update);
    let of = || Gradients::of(&losses, &vars, &weights(&tuner, &shares), 1.);
    let norm = of()?.norm()?;
    assert!(norm > 0.);
    let half = of()?.clip(norm, norm / 2.)?;
    assert!((half.norm()? / norm - 0.5).abs() < 1e-6);
    let same = of()?.clip(norm, norm * 2.)?;
    for ((whole, half), same) in of()?.0.iter().zip(&half.0).zip(&same.0) {
        let values = |g: &Option<Tensor>| -> Result<Vec<f32>> {
            Ok(g.as_ref().expect("a gradient").flatten_all()?.to_vec1()?)
        };
        let (whole, half) = (values(whole)?, values(half)?);
        assert_eq!(whole, values(same)?);
        for (x, y) in whole.iter().zip(&half) {
            assert!((x / 2. - y).abs() <= 1e-6 * x.abs(), "{x} {y}");
        }
    }
    Ok(())
}
