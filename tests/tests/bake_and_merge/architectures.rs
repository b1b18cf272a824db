//! Every architecture: what is merged, quantized and baked is what the directory computes with
//! the adapter or the intervention, here and in unmodified mistral.rs. A bias that the model has
//! is added to.

use super::bake::same_but_for_rounding;
use super::{distance, in_stock, ours, prompts, said, same};
use anyhow::Result;
use reptune::bake::bake;
use reptune::model::uqff::WeightType;
use reptune::quantize::{ErrorCompensation, QuantizedMerge, WeightTypes};
use reptune::runtime::Engine;
use reptune::{Llama, LoadOptions, Source};
use reptune_adapters::lora::peft;
use reptune_adapters::model::ModuleKind;
use reptune_adapters::{Adapter, Dose, HookPoint, HookedModel, Intervention, Operator};
use reptune_recipes::Chat;
use reptune_recipes::generate::{Generation, generate};
use reptune_recipes::merge::merge;
use reptune_tests::{DECODERS, ModelFixture, Oracle, random_update};
use std::path::Path;

fn load(path: &Path) -> Result<Llama> {
    Ok(Llama::load(path, LoadOptions::default())?)
}

fn add(layers: &[usize], coeff: f64, point: HookPoint) -> Result<Intervention> {
    let set = Oracle::read("oracle-llama2.safetensors")?.directions()?;
    Ok(Intervention::new(&set, layers, Dose::Total(coeff), Operator::Add)?.at(point))
}

fn write(model: &Path, steering: &[Intervention], wanted: &str, out: &Path) -> Result<()> {
    let wanted = WeightType::parse(wanted)?;
    bake(model, steering, wanted, out, &mut |_, _| ())?;
    Ok(())
}

/// Every token of our greedy continuations is the likeliest in mistral.rs too, or as likely but for
/// rounding. Ids are compared, as the texts of these models are mostly parts of characters.
fn check_greedy(what: &str, directory: &Path) -> Result<()> {
    let (llama, chat) = (load(directory)?, Chat::load(directory)?);
    let engine = Engine::load(directory, None)?;
    let how = Generation {
        max_new_tokens: 24,
        stop: &chat.stop,
        ..Generation::default()
    };
    let prompts = prompts()?;
    let ours = generate(&llama, &prompts, &how, &mut |_| {})?;
    for (prompt, tokens) in prompts.iter().zip(&ours) {
        let logits = engine.logits(&[prompt.as_slice(), tokens].concat())?;
        let rows = logits.to_vec2::<f32>()?;
        for (row, token) in rows[prompt.len() - 1..].iter().zip(tokens) {
            let most = row.iter().copied().fold(f32::MIN, f32::max);
            let said = row[*token as usize];
            assert!(
                most - said < 1e-4,
                "{what}: {token} has {said}, another {most}"
            );
        }
    }
    Ok(())
}

#[test]
fn a_bake_is_the_intervention_in_every_architecture() -> Result<()> {
    let set = Oracle::read("oracle-llama2.safetensors")?.directions()?;
    let everywhere = |layer| Intervention::ablation_everywhere(&set, layer, 4);
    let cases = [
        ("nothing", vec![]),
        ("output", vec![add(&[1, 2], 6., HookPoint::ResidPost)?]),
        ("middle", vec![add(&[0, 2], 6., HookPoint::ResidMid)?]),
        (
            "all at once",
            vec![
                add(&[0], 5., HookPoint::ResidPre)?,
                add(&[1], -4., HookPoint::ResidMid)?,
                add(&[2, 3], 6., HookPoint::ResidPost)?,
                everywhere(1)?,
            ],
        ),
    ];
    for model in DECODERS {
        let room = tempfile::tempdir()?;
        let fixture = ModelFixture::of(model)?;
        let from = &fixture.path;
        let llama = load(from)?;
        let plain = ours(&llama, &[], None)?;
        for (what, steering) in &cases {
            let (out, what) = (room.path().join(what), format!("{model}, {what}"));
            write(from, steering, "f32", &out)?;
            let online = ours(&llama, steering, None)?;
            let effect = distance(&online, &plain);
            assert!(steering.is_empty() || effect > 0.1, "{what}: {effect}");
            let reloaded = load(&out)?;
            same(
                &format!("{what}, in ours"),
                &ours(&reloaded, &[], None)?,
                &online,
            );
            same(
                &format!("{what}, in engine"),
                &in_stock(&out, None)?,
                &online,
            );
            check_greedy(&what, &out)?;
        }
    }
    Ok(())
}

#[test]
fn every_type_holds_the_biases_of_a_model() -> Result<()> {
    for model in ["qwen2", "llama-bias"] {
        let room = tempfile::tempdir()?;
        let fixture = ModelFixture::of(model)?;
        let from = &fixture.path;
        let steering = [add(&[1, 2], 6., HookPoint::ResidPost)?];
        for name in ["q8_0", "q4_0", "hqq8", "afq8", "fp8", "f8q8"] {
            let out = |what: &str| room.path().join(format!("{name}-{what}"));
            write(from, &[], name, &out("plain"))?;
            write(from, &steering, name, &out("steered"))?;
            let base = load(&out("plain"))?;
            let (plain, steered) = (ours(&base, &[], None)?, ours(&base, &steering, None)?);
            let effect = distance(&plain, &steered);
            let check = |what: &str, expected: &[_]| -> Result<()> {
                let served = in_stock(&out(what), None)?;
                let what = format!("{model}, {name}, {what}, in engine");
                same_but_for_rounding(&what, &served, expected, effect)
            };
            check("plain", &plain)?;
            check("steered", &steered)?;
        }
        let out = room.path().join("out");
        let message = said(write(from, &[], "mxfp4", &out).expect_err("mxfp4"), &room);
        assert!(message.contains("adds a bias twice"), "{message}");
        assert!(!out.exists(), "nothing is left");
    }
    Ok(())
}

fn quantized(
    from: &Path,
    update: &Adapter,
    (wanted, compensation): (&str, ErrorCompensation),
    out: &Path,
) -> Result<()> {
    let merge = QuantizedMerge {
        source: &Source::open(from)?,
        update,
        types: WeightTypes::all(Some(WeightType::parse(wanted)?)),
        compensation,
        calibration: &prompts()?,
    };
    merge.write(out, &mut |_, _| ())?;
    Ok(())
}

#[test]
fn a_merge_is_the_update_in_every_architecture() -> Result<()> {
    for model in DECODERS {
        let room = tempfile::tempdir()?;
        let fixture = ModelFixture::of(model)?;
        let from = &fixture.path;
        let at = |name: &str| room.path().join(name);
        let llama = load(from)?;
        let update = random_update(llama.spec(), &[0, 3], &ModuleKind::ALL, 5)?;
        let (plain, tuned) = (ours(&llama, &[], None)?, ours(&llama, &[], Some(&update))?);
        let effect = distance(&plain, &tuned);
        assert!(effect > 0.1, "{model}: the update does something: {effect}");

        // rounded to bf16, as the checkpoint is
        merge(from, &update, &at("full"), &mut |_, _, _| ())?;
        let full = ours(&load(&at("full"))?, &[], None)?;
        assert!(distance(&full, &tuned) < effect / 20., "{model}");
        let adapter = at("adapter");
        peft::save(&adapter, &update, "base")?;
        if model == "llama-bias" {
            for (path, adapter) in [(from, Some(&*adapter)), (&at("full"), None)] {
                let message = Engine::load(path, adapter).err().expect("refused");
                let message = said(message, &room);
                assert!(message.contains("attention_bias"), "{message}");
                assert!(message.contains("UQFF"), "{message}");
            }
        } else {
            let what = format!("{model}, merged, in engine");
            same(&what, &in_stock(&at("full"), None)?, &full);
            check_greedy(&what, &at("full"))?;
            let what = format!("{model}, engine with the adapter");
            same(&what, &in_stock(from, Some(&adapter))?, &tuned);
        }

        let (none, bias) = (ErrorCompensation::None, ErrorCompensation::Bias);
        quantized(from, &update, ("f32", none), &at("f32"))?;
        let what = format!("{model}, merged to a UQFF, in engine");
        same(&what, &in_stock(&at("f32"), None)?, &tuned);
        check_greedy(&what, &at("f32"))?;
        for (how, name) in [
            (none, "nearest"),
            (bias, "bias"),
            (ErrorCompensation::Feedback, "gptq"),
        ] {
            let out = at(name);
            quantized(from, &update, ("q8_0", how), &out)?;
            let (here, served) = (ours(&load(&out)?, &[], None)?, in_stock(&out, None)?);
            let off = distance(&here, &tuned);
            assert!(off < effect / 3., "{model}, {name}: {off} of {effect}");
            same_but_for_rounding(&format!("{model}, {name}"), &served, &here, effect)?;
        }
        // merged again: what is in the UQFF is kept and added to
        quantized(&at("f32"), &update, ("f32", none), &at("twice"))?;
        let mut doubled = update.clone();
        doubled
            .modules
            .values_mut()
            .for_each(|delta| delta.scale *= 2.);
        let expected = ours(&llama, &[], Some(&doubled))?;
        same(
            &format!("{model}, merged twice"),
            &in_stock(&at("twice"), None)?,
            &expected,
        );
    }
    Ok(())
}

#[test]
fn a_merge_into_a_type_that_takes_no_bias_is_refused_where_the_model_has_some() -> Result<()> {
    let room = tempfile::tempdir()?;
    let out = room.path().join("out");
    for (model, refused) in [("qwen2", true), ("llama-bias", true), ("qwen3", false)] {
        let fixture = ModelFixture::of(model)?;
        let from = &fixture.path;
        let how = ("mxfp4", ErrorCompensation::None);
        let merged = quantized(from, &Adapter::default(), how, &out);
        assert_eq!(merged.is_err(), refused, "{model}");
        if let Err(error) = merged {
            let message = said(error, &room);
            assert!(message.contains("adds them twice"), "{message}");
            assert!(!out.exists(), "nothing is left");
        }
    }
    Ok(())
}

/// A UQFF is for mistral.rs: what that would compute wrongly is not written.
#[test]
fn nothing_is_written_that_mistralrs_would_compute_wrongly() -> Result<()> {
    let room = tempfile::tempdir()?;
    let out = room.path().join("out");
    for (model, key) in [
        ("llama-wide-heads", "head_dim"),
        ("qwen2-window", "sliding_window"),
    ] {
        let fixture = ModelFixture::of(model)?;
        let from = &fixture.path;
        let how = ("q8_0", ErrorCompensation::None);
        let merged = quantized(from, &Adapter::default(), how, &out);
        for result in [write(from, &[], "f32", &out), merged] {
            let message = said(result.expect_err(model), &room);
            assert!(message.contains(&format!("key `{key}`")), "{message}");
            assert!(!out.exists(), "nothing is left");
        }
    }
    Ok(())
}
