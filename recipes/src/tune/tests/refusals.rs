//! Numbers that are not finite, and recipes that cannot be.

use super::*;
use candle_core::Device;
use reptune_adapters::{ForwardOptions, ForwardOutput, KeyValueCache, ModelSpec, PrefixTree};
use std::cell::Cell;

/// The toy, whose residual rows or logits are multiplied after so many forwards.
struct Breaking<'a> {
    toy: &'a Toy,
    left: Cell<usize>,
    by: f64,
}

impl HookedModel for Breaking<'_> {
    fn spec(&self) -> &ModelSpec {
        self.toy.spec()
    }

    fn device(&self) -> &Device {
        self.toy.device()
    }

    fn forward(
        &self,
        tree: &PrefixTree,
        cache: &mut KeyValueCache,
        request: &ForwardOptions,
    ) -> reptune_adapters::Result<ForwardOutput> {
        let mut pass = self.toy.forward(tree, cache, request)?;
        if request.logits.is_empty() {
            return Ok(pass); // the activation cache
        }
        match self.left.get().checked_sub(1) {
            Some(left) => self.left.set(left),
            None => pass.logits = pass.logits.map(|l| l * self.by).transpose()?,
        }
        Ok(pass)
    }
}

#[test]
fn a_loss_or_gradient_that_is_not_finite_names_step_and_claims() -> Result<()> {
    let setting = setting()?;
    let recipe =
        recipe("batch = 2\nepochs = 2\nrank = 2\ncheckpoint_every = 2\nvalidate_every = 3");
    let plain = setting.tuner(&setting.model, &recipe, Mode::InPlusTruth)?;
    // Forwards: steps 1 to 3, a validation, steps 4 to 6.
    let cases = [
        (
            2,
            f64::NAN,
            "step 3, batch of the claims `",
            "a finite loss",
            true,
        ),
        (
            0,
            f64::INFINITY,
            "step 1, batch of the claims `",
            "a finite loss",
            false,
        ),
        (
            3,
            f64::NAN,
            "step 3, the validation claims",
            "a finite loss",
            true,
        ),
    ];
    for (left, by, place, expected, kept) in cases {
        let room = tempfile::tempdir().expect("room");
        let metrics = room.path().join("metrics.jsonl");
        let model = Breaking {
            toy: &setting.model,
            left: Cell::new(left),
            by,
        };
        let tuner = setting.tuner(&model, &recipe, Mode::InPlusTruth)?;
        let error = tuner.tune(tuner.fresh()?, &metrics, &mut |_| {});
        let message = error.expect_err("not finite").to_string();
        for part in ["metrics.jsonl", place, expected, "lower the learning rate"] {
            assert!(message.contains(part), "{part}: {message}");
        }
        let path = Tuner::checkpoint(&metrics);
        assert_eq!(
            message.contains(&path.display().to_string()),
            kept,
            "{message}"
        );
        assert_eq!(plain.can_resume(&metrics), kept, "{message}");
        if kept {
            let heard = Cell::new(0);
            plain.resume(&metrics, &mut |m| heard.set(m.step))?;
            assert_eq!(heard.get(), plain.steps());
        }
    }
    Ok(())
}

#[test]
fn a_gradient_that_is_not_finite_is_refused_though_the_loss_is() -> Result<()> {
    let setting = setting()?;
    let recipe = recipe("batch = 2\nrank = 2");
    let tuner = setting.tuner(&setting.model, &recipe, Mode::Truth)?;
    let mut update = tuner.fresh()?;
    // B is zero, so that the outputs are those of the base; the gradient of B is not.
    for adapter in update.modules.values_mut() {
        adapter.a = (&adapter.a * 1e38)?;
        adapter.scale = 1e30;
    }
    let room = tempfile::tempdir().expect("room");
    let metrics = room.path().join("metrics.jsonl");
    let error = tuner.tune(update, &metrics, &mut |_| {});
    let message = error.expect_err("not finite").to_string();
    assert!(
        message.contains("step 1, batch of the claims `") && message.contains("a finite"),
        "{message}"
    );
    Ok(())
}

#[test]
fn recipes_that_cannot_be_name_the_key() {
    let cases = [
        (
            "clip = 0.0",
            "key `tuning.clip`: expected a positive number, found 0",
        ),
        ("positions = \"answer\"", "key `tuning.positions`"),
        ("positions = \"at:-1,-2,-1\"", "each position once"),
        ("layers = [2, 3, 2]", "each value once, found 2 twice"),
        ("offset = 1", "did you mean `positions`?"),
        (
            "representation_layers = [0, 2]",
            "layers from 1, the first that is trained, found 0",
        ),
        ("schedule = \"cosinus\"", "did you mean `cosine`?"),
        (
            "early_stop = { patience = 2, window = 0 }",
            "key `tuning.early_stop.window`",
        ),
        ("cliip = 1.0", "did you mean `clip`?"),
        ("[[tuning.groups]]\nlayers = [3]", "key `tuning.groups[0]`"),
        (
            "[[tuning.groups]]\nlayers = [1]\n[[tuning.groups]]\ntarget_modules = [\"o_proj\"]",
            "found self_attn.o_proj of layer 1 also",
        ),
        (
            "[[tuning.groups]]\ntoken_weight = -1.0",
            "key `tuning.groups[0].token_weight`",
        ),
        (
            "[[tuning.groups]]\nlearning_rate = 0.0",
            "key `tuning.groups[0].learning_rate`",
        ),
        ("[[tuning.groups]]\nrate = 1.0", "unknown field `rate`"),
    ];
    let room = tempfile::tempdir().expect("room");
    let path = room.path().join("r.toml");
    for (tuning, expected) in cases {
        std::fs::write(&path, text(tuning)).expect("a recipe");
        let message = Recipe::read(&path).expect_err(tuning).to_string();
        assert!(message.contains(expected), "{tuning}: {message}");
    }
}
