//! Merging into quantized weights: what is written is what unmodified mistral.rs
//! computes with, and the report says what is there.

use anyhow::Result;
use candle_core::Tensor;
use reptune::model::uqff::{self, UqffFile, WeightType};
use reptune::quantize::{
    ErrorCompensation, Merger, QuantizedMerge, QuantizedReport, RetentionCheck, RoundedModule,
    SmallestMerge, WeightTypes, candidates,
};
use reptune::runtime::Engine;
use reptune::session::Session;
use reptune::{Llama, LoadOptions, Source};
use reptune_adapters::model::ModuleKind;
use reptune_adapters::{Adapter, ForwardOptions, HookedModel, PrefixTree};
use reptune_recipes::extract::extract;
use reptune_recipes::recipe::MergeRounding;
use reptune_recipes::recipe::Mode;
use reptune_recipes::score::ModelVariant;
use reptune_recipes::tune::Tuner;
use reptune_tests::{flat, logits, pick, random_update, whole};
use std::path::{Path, PathBuf};

fn mini() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/honest-mini")
}

fn prompts() -> Vec<Vec<u32>> {
    (0..8u32)
        .map(|p| {
            (0..24 + p)
                .map(|i| (p * 131 + i * i * 7 + i) % 750)
                .collect()
        })
        .collect()
}

fn write(
    from: &Path,
    update: &Adapter,
    (types, compensation): (WeightTypes, ErrorCompensation),
    out: &Path,
) -> Result<QuantizedReport> {
    let (source, calibration) = (Source::open(from)?, prompts());
    let merge = QuantizedMerge {
        source: &source,
        update,
        types,
        compensation,
        calibration: &calibration,
    };
    Ok(merge.write(out, &mut |_, _| ())?)
}

fn ours(path: &Path, adapter: Option<&Adapter>) -> Result<Vec<Tensor>> {
    let llama = Llama::load(path, LoadOptions::default())?;
    let one = |prompt: &Vec<u32>| {
        let (tree, rows) = PrefixTree::pack(std::slice::from_ref(prompt));
        let request = ForwardOptions {
            adapter,
            ..ForwardOptions::default()
        };
        pick(logits(&whole(&llama, &tree, request)?), &rows[0])
    };
    prompts().iter().map(one).collect()
}

fn engine(path: &Path) -> Result<Vec<Tensor>> {
    let engine = Engine::load(path, None)?;
    prompts().iter().map(|p| Ok(engine.logits(p)?)).collect()
}

/// Root of the mean square of the difference.
fn off(left: &[Tensor], right: &[Tensor]) -> f64 {
    let both = left.iter().flat_map(flat).zip(right.iter().flat_map(flat));
    let (sum, n) = both.fold((0., 0usize), |(sum, n), (l, r)| {
        (sum + f64::from(l - r).powi(2), n + 1)
    });
    (sum / n as f64).sqrt()
}

/// What may lie between two runtimes: ggml's layers round their inputs to 8 bits, so a
/// value near the middle of a step goes either way; all other types compute in f32.
fn between_runtimes(stored: WeightType, effect: f64) -> f64 {
    match stored {
        WeightType::Ggml(_) => 0.1 * effect,
        _ => 1e-4 * effect,
    }
}

fn update() -> Result<Adapter> {
    let spec = Llama::load(&mini(), LoadOptions::default())?.spec().clone();
    let all = [ModuleKind::VProj, ModuleKind::OProj, ModuleKind::DownProj];
    random_update(&spec, &[2, 3], &all, 11)
}

#[test]
fn an_unquantized_merge_is_the_update_and_every_type_is_what_stock_computes() -> Result<()> {
    let (room, update) = (tempfile::tempdir()?, update()?);
    let tuned = ours(&mini(), Some(&update))?;
    let effect = off(&tuned, &ours(&mini(), None)?);
    assert!(effect > 0.1, "the update does something: {effect}");
    let mut last = f64::INFINITY;
    for name in [
        "afq2", "afq3", "mxfp4", "q4_0", "hqq4", "q5_0", "q6k", "fp8", "f8q8", "q8_0", "afq8",
        "f32",
    ] {
        let wanted = WeightType::parse(name)?;
        let out = room.path().join(name);
        let report = write(
            &mini(),
            &update,
            (WeightTypes::all(Some(wanted)), ErrorCompensation::None),
            &out,
        )?;
        let (merged, served) = (ours(&out, None)?, engine(&out)?);
        let (error, between) = (off(&merged, &tuned), off(&merged, &served));
        let cosine = report.modules.values().map(|s| s.cosine).fold(1., f64::min);
        println!(
            "{name:5} {:5.2} bits, {} bytes, error {error:.4} of {effect:.4}, ours to engine {between:.1e}, least cosine {cosine:.3}",
            report.bits, report.bytes
        );
        assert!(
            between < between_runtimes(wanted.fitted((128, 128)), effect),
            "{name}: engine computes the same: {between}"
        );
        assert_eq!(report.modules.len(), 6);
        if name == "f32" {
            assert!(error < 1e-5 * effect, "{error}");
            assert!(cosine > 0.9999, "{cosine}");
        }
        if ["afq2", "afq3", "q4_0", "q5_0", "q8_0", "f32"].contains(&name) {
            assert!(error < last, "{name}: a finer type loses less");
            last = error;
        }
    }
    Ok(())
}

#[test]
fn each_way_of_rounding_loses_less_than_the_one_before() -> Result<()> {
    let (room, update) = (tempfile::tempdir()?, update()?);
    let tuned = ours(&mini(), Some(&update))?;
    for name in ["q4_0", "afq4", "afq3"] {
        let type_ = WeightType::parse(name)?;
        let mut errors = Vec::new();
        let mut noises = Vec::new();
        for way in [
            ErrorCompensation::None,
            ErrorCompensation::Bias,
            ErrorCompensation::Feedback,
        ] {
            let out = room.path().join(format!("{name}-{way:?}"));
            let report = write(&mini(), &update, (WeightTypes::all(Some(type_)), way), &out)?;
            errors.push(off(&ours(&out, None)?, &tuned));
            let noise = |s: &RoundedModule| s.noise.unwrap_or(f64::NAN);
            noises.push(report.modules.values().map(noise).sum::<f64>() / 6.);
            let between = off(&ours(&out, None)?, &engine(&out)?);
            let allowed = between_runtimes(type_, errors[0]);
            assert!(between < allowed, "engine adds the same biases: {between}");
        }
        println!("{name}: errors {errors:.4?}, noise {noises:.4?}");
        assert!(
            errors[1] < errors[0] && errors[2] < 0.9 * errors[1],
            "{errors:?}"
        );
        assert!(noises[1] < noises[0] && noises[2] < noises[1], "{noises:?}");
    }
    Ok(())
}

#[test]
fn onto_a_quantized_model_only_what_changes_is_written_anew() -> Result<()> {
    let (room, update) = (tempfile::tempdir()?, update()?);
    let (base, out) = (room.path().join("base"), room.path().join("out"));
    let q8_0 = Some(WeightType::parse("q8_0")?);
    let none = Adapter::default();
    write(
        &mini(),
        &none,
        (WeightTypes::all(q8_0), ErrorCompensation::None),
        &base,
    )?;
    let report = write(
        &base,
        &update,
        (WeightTypes::all(None), ErrorCompensation::None),
        &out,
    )?;
    assert!(report.modules.values().all(|s| Some(s.stored) == q8_0));
    let open = |path: &Path| -> Result<UqffFile> { Ok(UqffFile::find(path)?.expect("a uqff")) };
    let (before, after) = (open(&base)?, open(&out)?);
    let changed: Vec<usize> = before
        .indices()
        .filter(|i| before.entry(*i).expect("an entry") != after.entry(*i).expect("an entry"))
        .collect();
    let tuned: Vec<usize> = update
        .modules
        .keys()
        .map(|s| uqff::index(s.layer, s.kind))
        .collect();
    assert_eq!(changed, tuned);
    let (merged, wanted) = (ours(&out, None)?, ours(&base, Some(&update))?);
    let effect = off(&wanted, &ours(&base, None)?);
    assert!(off(&merged, &wanted) < 0.1 * effect);
    assert!(off(&merged, &engine(&out)?) < 0.1 * effect);
    Ok(())
}

#[test]
fn finer_types_go_to_the_sites_that_carry_the_delta_within_the_budget() -> Result<()> {
    let (room, update) = (tempfile::tempdir()?, update()?);
    let all = Some(WeightType::parse("afq3")?);
    let plain = write(
        &mini(),
        &update,
        (WeightTypes::all(all), ErrorCompensation::None),
        &room.path().join("a"),
    )?;
    let spec = Source::open(&mini())?.spec;
    for growth in [0., 0.05, 0.2] {
        let types = WeightTypes::mixed(all, &plain.modules, &spec, (plain.bytes, growth));
        assert!(types.modules.keys().all(|s| update.modules.contains_key(s)));
        assert_eq!(types.modules.is_empty(), growth == 0.);
        let out = room.path().join(format!("{growth}"));
        let report = write(&mini(), &update, (types, ErrorCompensation::None), &out)?;
        let grown = report.bytes as f64 / plain.bytes as f64 - 1.;
        println!("{growth}: grown by {grown:.4}, {:?}", report.types);
        assert!(grown <= growth + 0.005, "{grown}");
        let step = |r: &QuantizedReport| r.modules.values().map(|s| s.step_norm).sum::<f64>();
        assert!(growth == 0. || step(&report) < 0.8 * step(&plain));
    }
    Ok(())
}

#[test]
fn the_smallest_file_that_keeps_the_behaviour_is_taken_and_none_if_none_does() -> Result<()> {
    let parity = Path::new(env!("CARGO_MANIFEST_DIR")).join("parity");
    let session = Session::open(&parity.join("recipe.toml"), None, LoadOptions::default())?;
    let source = Source::open(&mini())?;
    let room = tempfile::tempdir()?;
    let directions = extract(
        &session.llama,
        &session.chat,
        &session.recipe,
        &session.items.train,
        &mut |_, _| {},
    )?
    .directions;
    let tuner = Tuner::new(
        &session.llama,
        &session.chat,
        &session.recipe,
        Mode::InMinusLie,
        &directions,
        &session.items.train[..80],
        &session.items.validation,
    )?;
    let update = tuner.tune(
        tuner.fresh()?,
        &room.path().join("metrics.jsonl"),
        &mut |_| {},
    )?;
    let calibration = session.calibration()?;
    let (chat, claims) = (&session.chat, &session.items.validation);
    let check = RetentionCheck::new(chat, &session.recipe, claims, Some(&directions))?;
    let take = |update: &Adapter, merges: &[(WeightType, MergeRounding)], out: &str| {
        let merger = Merger {
            source: &source,
            update,
            calibration: &calibration,
            growth: 0.05,
            retuner: None,
        };
        let search = SmallestMerge {
            merger: &merger,
            candidates: merges,
            model: &session.llama,
            check: &check,
            least: 0.95,
        };
        let (tried, taken) = search.write(&room.path().join(out), &mut |_, _| {})?;
        for c in &tried {
            println!(
                "{out}: {} {}: {:.3}",
                c.wanted, c.rounding, c.effect_retained
            );
        }
        Ok::<_, reptune::Error>((tried, taken))
    };
    let all = candidates(
        source.spec.hidden,
        &[MergeRounding::Nearest, MergeRounding::Gptq],
    );
    let (tried, taken) = take(&update, &all, "taken")?;
    let taken = &tried[taken.expect("eight bits keep all")];
    assert!(taken.effect_retained >= 0.95);
    let last = tried.last().expect("one").wanted;
    assert_eq!(taken.wanted, last, "it stops at the first type that does");
    assert!(
        tried
            .iter()
            .all(|c| c.wanted == last || c.effect_retained < 0.95)
    );
    let llama = Llama::load(&room.path().join("taken"), LoadOptions::default())?;
    let again = check.scores(&ModelVariant::base(&llama), None)?;
    assert_eq!(
        again.behaviour, taken.scores.behaviour,
        "the file is the one that was measured"
    );

    let coarse = [(WeightType::Afq(2), MergeRounding::Gptq)];
    let (tried, taken) = take(&update, &coarse, "coarse")?;
    assert!(
        taken.is_none() && tried[0].effect_retained < 0.95,
        "{}",
        tried[0].effect_retained
    );
    assert!(!room.path().join("coarse").exists());

    let none = Adapter::default();
    let message = take(&none, &coarse, "none")
        .expect_err("no effect")
        .to_string();
    assert!(
        message.contains("changes what the model answers"),
        "{message}"
    );
    assert!(!room.path().join("none").exists());
    Ok(())
}

#[test]
fn what_does_not_fit_is_refused_and_leaves_nothing() -> Result<()> {
    let (room, update) = (tempfile::tempdir()?, update()?);
    let out = room.path().join("out");
    let source = Source::open(&mini())?;
    let merge = QuantizedMerge {
        source: &source,
        update: &update,
        types: WeightTypes::all(None),
        compensation: ErrorCompensation::Feedback,
        calibration: &[],
    };
    let message = merge
        .write(&out, &mut |_, _| ())
        .expect_err("refused")
        .to_string();
    assert!(
        message.contains("calibration prompts") && message.contains("--recipe"),
        "{message}"
    );
    let other = reptune_tests::llama("tiny-llama2")?;
    let foreign = random_update(other.spec(), &[1], &[ModuleKind::QProj], 3)?;
    let message = write(
        &mini(),
        &foreign,
        (WeightTypes::all(None), ErrorCompensation::None),
        &out,
    );
    let message = message.expect_err("refused").to_string();
    assert!(
        message.contains("self_attn.q_proj") && message.contains("another model"),
        "{message}"
    );
    assert_eq!(std::fs::read_dir(room.path())?.count(), 0);
    Ok(())
}
