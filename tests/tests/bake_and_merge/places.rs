//! Everything that weights can say: additions at every place, the ablation of a direction,
//! and several doses beside shared weights.

use super::{MODELS, all_bits, distance, in_stock, ours, prompts, said, same};
use anyhow::Result;
use reptune::bake::{Baker, DoseFile, Exactness, SHARED, approximate, bake};
use reptune::model::uqff::{UQFF, UqffFile, WeightType};
use reptune::{Llama, LoadOptions, Source};
use reptune_adapters::{
    DirectionSet, Dose, ForwardOptions, HookPoint, Intervention, Operator, Positions,
};
use reptune_tests::{Oracle, fixture, flat, llama, logits, marked, whole};
use std::path::Path;

fn directions() -> Result<DirectionSet> {
    Oracle::read("oracle-llama2.safetensors")?.directions()
}

fn add(layers: &[usize], coeff: f64, point: HookPoint) -> Result<Intervention> {
    Ok(Intervention::new(&directions()?, layers, Dose::Total(coeff), Operator::Add)?.at(point))
}

fn everywhere(layer: usize) -> Result<Intervention> {
    Ok(Intervention::ablation_everywhere(&directions()?, layer, 4)?)
}

fn baked(
    model: &str,
    interventions: &[Intervention],
    wanted: &str,
    out: &Path,
) -> Result<reptune::bake::BakeReport> {
    let wanted = WeightType::parse(wanted)?;
    Ok(bake(
        &fixture(model),
        interventions,
        wanted,
        out,
        &mut |_, _| (),
    )?)
}

#[test]
fn additions_at_every_place_and_ablations_are_what_they_are_online() -> Result<()> {
    let cases = [
        ("middle", vec![add(&[0, 2], 6., HookPoint::ResidMid)?]),
        ("embeddings", vec![add(&[0, 1], 6., HookPoint::ResidPre)?]),
        ("everywhere", vec![everywhere(2)?]),
        (
            "all at once",
            vec![
                add(&[0], 5., HookPoint::ResidPre)?,
                add(&[1], -4., HookPoint::ResidMid)?,
                add(&[2, 3], 6., HookPoint::ResidPost)?,
                everywhere(1)?,
            ],
        ),
        // nothing comes after the last output, so the order does not matter there
        (
            "ablated, then added at the end",
            vec![everywhere(1)?, add(&[3], 6., HookPoint::ResidPost)?],
        ),
    ];
    for model in MODELS {
        let (room, name) = (tempfile::tempdir()?, format!("tiny-{model}"));
        let llama = llama(&name)?;
        let plain = ours(&llama, &[], None)?;
        for (what, interventions) in &cases {
            let out = room.path().join(what);
            let report = baked(&name, interventions, "f32", &out)?;
            let online = ours(&llama, interventions, None)?;
            let effect = distance(&online, &plain);
            assert!(effect > 0.1, "{model}, {what}: it does something: {effect}");
            same(
                &format!("{model}, {what}, in engine"),
                &in_stock(&out, None)?,
                &online,
            );
            let reloaded = Llama::load(&out, LoadOptions::default())?;
            same(
                &format!("{model}, {what}, in ours"),
                &ours(&reloaded, &[], None)?,
                &online,
            );
            let ablated = interventions
                .iter()
                .any(|x| x.point() == HookPoint::Everywhere);
            assert_eq!(report.left.is_some(), ablated);
            assert!(report.left.is_none_or(|l| l < 1e-6), "{:?}", report.left);
        }
    }
    Ok(())
}

#[test]
fn nothing_of_an_ablated_direction_is_left_anywhere() -> Result<()> {
    let llama = llama("tiny-llama2")?;
    let set = directions()?;
    let d = &set.layer(2)?.unit;
    for (interventions, most) in [(vec![everywhere(2)?], 1e-5), (vec![], f32::MAX)] {
        let (tree, _) = marked(&prompts()?, &interventions);
        let request = ForwardOptions {
            interventions: &interventions,
            capture: &[0, 1, 2, 3],
            ..ForwardOptions::default()
        };
        let pass = whole(&llama, &tree, request)?;
        let mut largest = 0f32;
        for h in pass.residuals.values() {
            for row in h.to_vec2::<f32>()? {
                let along: f32 = row.iter().zip(d).map(|(x, d)| x * d).sum();
                largest = largest.max(along.abs());
            }
        }
        println!("largest kind {largest:.1e}");
        assert!(largest < most);
        assert!(!interventions.is_empty() || largest > 0.1, "there was some");
    }
    Ok(())
}

fn doses(coeffs: &[f64]) -> Result<Vec<DoseFile>> {
    let each = coeffs.iter().map(|c| {
        Ok(DoseFile {
            name: format!("dose_{c}").replace('-', "minus_"),
            interventions: vec![add(&[1, 2], *c, HookPoint::ResidPost)?],
        })
    });
    each.collect()
}

#[test]
fn doses_share_what_they_have_in_common() -> Result<()> {
    for wanted in ["f32", "q8_0"] {
        let (room, source) = (tempfile::tempdir()?, Source::open(&fixture("tiny-llama2"))?);
        let out = room.path().join("doses");
        let baker = Baker {
            source: &source,
            quantize: Some(WeightType::parse(wanted)?),
            exactness: Exactness::Exact,
        };
        let coeffs = [0., 6., -4.5];
        let variants = doses(&coeffs)?;
        let report = baker.write_doses(&variants, &out, &mut |_, _| ())?;
        let shared = report.bytes[SHARED];
        for (variant, coeff) in variants.iter().zip(coeffs) {
            let alone = room.path().join(format!("{coeff}"));
            baked("tiny-llama2", &variant.interventions, wanted, &alone)?;
            let file = out.join(format!("{}.uqff", variant.name));
            assert_eq!(
                all_bits(&in_stock(&file, None)?),
                all_bits(&in_stock(&alone, None)?),
                "{wanted}, {coeff}: in engine"
            );
            let [one, two] = [&file, &alone].map(|f| Llama::load(f, LoadOptions::default()));
            assert_eq!(
                all_bits(&ours(&one?, &[], None)?),
                all_bits(&ours(&two?, &[], None)?),
                "{wanted}, {coeff}: in ours"
            );
            let own = report.bytes[&format!("{}.uqff", variant.name)];
            assert!(own < shared / 2, "{own} bytes beside {shared}");
        }
        let message = said(UqffFile::find(&out).err().expect("three models"), &room);
        assert!(message.contains("name the .uqff file"), "{message}");
    }
    Ok(())
}

#[test]
fn a_dose_written_later_is_the_one_that_was_written_with_the_others() -> Result<()> {
    for wanted in ["f32", "q8_0"] {
        let (room, source) = (tempfile::tempdir()?, Source::open(&fixture("tiny-llama2"))?);
        let baker = Baker {
            source: &source,
            quantize: Some(WeightType::parse(wanted)?),
            exactness: Exactness::Exact,
        };
        let [one, two] = ["one", "two"].map(|n| room.path().join(n));
        let (first, later) = (doses(&[6.])?, doses(&[-0.1 - 0.2])?);
        baker.write_doses(&first, &one, &mut |_, _| ())?;
        baker.write_doses(&later, &two, &mut |_, _| ())?;
        let shared = std::fs::read(one.join(SHARED))?;
        let name = format!("{}.uqff", later[0].name);
        let goal = std::fs::read(two.join(&name))?;
        baker.write_dose(&later[0], &one)?;
        assert!(std::fs::read(one.join(&name))? == goal, "{wanted}: bytes");
        assert!(
            std::fs::read(one.join(SHARED))? == shared,
            "it is untouched"
        );
        // one that is there is replaced
        let renamed = DoseFile {
            name: first[0].name.clone(),
            ..later[0].clone()
        };
        baker.write_dose(&renamed, &one)?;
        let replaced = one.join(format!("{}.uqff", renamed.name));
        assert!(std::fs::read(&replaced)? == goal, "{wanted}: replaced");
        let files = UqffFile::find(&replaced)?.expect("a uqff");
        files.verify(&mut |_, _| ())?;
        let left: Vec<_> = std::fs::read_dir(&one)?.collect();
        assert!(
            left.len() == std::fs::read_dir(&two)?.count() + 1,
            "{left:?}"
        );
    }
    Ok(())
}

#[test]
fn a_dose_that_does_not_fit_the_others_is_refused() -> Result<()> {
    let (room, source) = (tempfile::tempdir()?, Source::open(&fixture("tiny-llama2"))?);
    let out = room.path().join("doses");
    let baker = Baker {
        source: &source,
        quantize: None,
        exactness: Exactness::Exact,
    };
    baker.write_doses(&doses(&[6.])?, &out, &mut |_, _| ())?;
    let files = || Ok::<_, anyhow::Error>(std::fs::read_dir(&out)?.count());
    let before = files()?;
    let refused = |interventions: Vec<Intervention>| {
        let name = "another".to_owned();
        let dose = DoseFile {
            name,
            interventions,
        };
        said(baker.write_dose(&dose, &out).expect_err("refused"), &room)
    };
    let output = add(&[3], 6., HookPoint::ResidPost)?;
    insta::assert_snapshot!("dose_at_another_layer", refused(vec![output]));
    insta::assert_snapshot!("dose_of_ablation", refused(vec![everywhere(1)?]));
    let renamed = room.path().join("other");
    std::fs::create_dir(&renamed)?;
    for file in std::fs::read_dir(fixture("tiny-llama2"))? {
        let file = file?.path();
        std::fs::copy(&file, renamed.join(file.file_name().unwrap_or_default()))?;
    }
    let tokenizer = renamed.join("tokenizer.json");
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&tokenizer)?)?;
    json["added_tokens"][0]["content"] = "<another>".into();
    std::fs::write(&tokenizer, json.to_string())?;
    let other = Source::open(&renamed)?;
    let other = Baker {
        source: &other,
        ..baker
    };
    let error = other.write_dose(&doses(&[3.])?[0], &out);
    let message = said(error.expect_err("another model"), &room);
    assert!(message.contains("model fingerprint"), "{message}");
    assert_eq!(files()?, before, "nothing is left");

    // A bias that was changed by another program: the file no longer is what it says.
    let file = out.join(format!("{}.uqff", doses(&[6.])?[0].name));
    let index = reptune::model::uqff::index(1, reptune_adapters::model::ModuleKind::DownProj);
    let open = reptune_adapters::formats::safetensors::TensorFile::open(&file)?;
    let (offset, length) = open.place(&index.to_string()).expect("entry");
    let mut bytes = std::fs::read(&file)?;
    bytes[offset as usize + length - 2] ^= 1;
    std::fs::write(&file, &bytes)?;
    let uqff = UqffFile::find(&file)?.expect("a uqff");
    let message = said(uqff.verify(&mut |_, _| ()).expect_err("changed"), &room);
    assert!(
        message.contains("reptune.biases_sha256") && message.contains("damaged"),
        "{message}"
    );
    Ok(())
}

#[test]
fn a_uqff_is_baked_into_as_it_is() -> Result<()> {
    let room = tempfile::tempdir()?;
    let at = |n: &str| room.path().join(n);
    let steering = [add(&[1, 2], 6., HookPoint::ResidPost)?];
    baked("tiny-llama2", &[], "q8_0", &at("plain"))?;
    baked("tiny-llama2", &steering, "q8_0", &at("at once"))?;
    let baker = Baker {
        source: &Source::open(&at("plain"))?,
        quantize: None,
        exactness: Exactness::Exact,
    };
    baker.write(&steering, &at("after"), &mut |_, _| ())?;
    let read = |n: &str| std::fs::read(at(n).join(UQFF));
    assert!(read("after")? == read("at once")?, "the same bytes");

    let twice = Baker {
        source: &Source::open(&at("after"))?,
        ..baker
    };
    let twice = twice.write(&steering, &at("twice"), &mut |_, _| ());
    insta::assert_snapshot!(
        "bake_twice",
        said(twice.expect_err("steered already"), &room)
    );
    assert!(!at("twice").exists());
    Ok(())
}

#[test]
fn what_is_no_constant_becomes_its_mean_with_the_error_told() -> Result<()> {
    let llama = llama("tiny-llama2")?;
    let set = directions()?;
    let prompts = prompts()?;
    let named = |operator, layers: &[usize], coeff| {
        Intervention::new(&set, layers, Dose::Total(coeff), operator)
    };

    // What is a constant is found again.
    let constant = named(Operator::Add, &[1, 2], 6.)?;
    let near = approximate(&llama, &constant, &prompts)?;
    assert!(near.spread < 1e-3 && near.divergence < 1e-6, "{near:?}");
    same(
        "a constant",
        &ours(&llama, &near.additions, None)?,
        &ours(&llama, &[constant], None)?,
    );

    let ablation = named(Operator::Ablate, &[1], 0.)?;
    let near = approximate(&llama, &ablation, &prompts)?;
    println!(
        "ablation: {:.3} {:.4} {:.4}",
        near.spread, near.divergence, near.effect
    );
    assert!(near.spread > 0.01 && near.spread <= 1., "{}", near.spread);
    assert!(near.divergence > 0. && near.effect > 0., "{near:?}");
    let [mean] = near.additions.as_slice() else {
        panic!("one layer")
    };
    // The mean change along d takes the mean kind away.
    let request = ForwardOptions {
        capture: &[1],
        ..ForwardOptions::default()
    };
    let (tree, _) = marked(&prompts, &[]);
    let h = whole(&llama, &tree, request)?.residuals[&1].to_vec2::<f32>()?;
    let d = &set.layer(1)?.unit;
    let along = |row: &Vec<f32>| {
        row.iter()
            .zip(d)
            .map(|(x, d)| f64::from(x * d))
            .sum::<f64>()
    };
    let kind = h.iter().map(along).sum::<f64>() / h.len() as f64;
    assert!(
        (mean.dose().amount() - kind.abs()).abs() < 1e-4,
        "{} and {kind}",
        mean.dose().amount()
    );

    // On some rows: the same dose, but everywhere.
    let last = named(Operator::Add, &[1], 6.)?.on(Positions::Last(1));
    let near = approximate(&llama, &last, &prompts)?;
    assert!(near.spread < 1e-3 && near.divergence > 1e-4, "{near:?}");
    assert!((near.additions[0].dose().amount() - 6.).abs() < 1e-3);

    // Quantized weights cannot forget a direction exactly; how much is left is told.
    let (room, source) = (tempfile::tempdir()?, Source::open(&fixture("tiny-llama2"))?);
    let baker = Baker {
        source: &source,
        quantize: Some(WeightType::parse("q8_0")?),
        exactness: Exactness::Approximate,
    };
    let out = room.path().join("out");
    let left = baker.write(&[everywhere(1)?], &out, &mut |_, _| ())?.left;
    let left = left.expect("an ablation");
    println!("left in q8_0: {left:.4}");
    assert!(left > 1e-5 && left < 0.05, "{left}");
    let online = ours(&llama, &[everywhere(1)?], None)?;
    let plain = ours(&llama, &[], None)?;
    let served = in_stock(&out, None)?;
    assert!(distance(&served, &online) < distance(&served, &plain) / 4.);
    Ok(())
}

#[test]
fn the_middle_lies_between_attention_and_mlp() -> Result<()> {
    // What is added in the middle of a block is what a bias on o_proj adds: seen by the MLP.
    // Behind the block it differs from an addition at the output, unless the MLP is blind.
    let llama = llama("tiny-llama2")?;
    let middle = add(&[1], 6., HookPoint::ResidMid)?;
    let output = add(&[1], 6., HookPoint::ResidPost)?;
    let capture = |x: &Intervention| -> Result<Vec<f32>> {
        let interventions = std::slice::from_ref(x);
        let (tree, _) = marked(&prompts()?, interventions);
        let request = ForwardOptions {
            interventions,
            capture: &[0, 1],
            ..ForwardOptions::default()
        };
        let pass = whole(&llama, &tree, request)?;
        assert!(flat(logits(&pass)).iter().all(|x| x.is_finite()));
        let difference = |l: usize| flat(&pass.residuals[&l]);
        Ok([difference(0), difference(1)].concat())
    };
    let (one, two) = (capture(&middle)?, capture(&output)?);
    let half = one.len() / 2;
    assert_eq!(one[..half], two[..half], "layer 0 is below both");
    let most = one.iter().zip(&two).map(|(a, b)| (a - b).abs());
    assert!(most.fold(0., f32::max) > 1e-3, "the MLP sees the middle");
    Ok(())
}
