//! Baked UQFF directories: that they are the intervention, in unmodified mistral.rs too.

use super::{MODELS, all_bits, copy, distance, in_stock, ours, prompts, said, same};
use anyhow::Result;
use candle_core::Tensor;
use mistralrs_quant::IsqType;
use rand::{Rng, SeedableRng};
use reptune::bake::{BakePlan, BakeReport, bake};
use reptune::model::uqff::{UQFF, WeightType};
use reptune::runtime::Engine;
use reptune::{Llama, LoadOptions};
use reptune_adapters::formats::safetensors::TensorFileWriter;
use reptune_adapters::model::ModuleKind;
use reptune_adapters::steering::direction::{Direction, DirectionSet, Provenance};
use reptune_adapters::{
    Dose, ForwardOptions, HookPoint, HookedModel, Intervention, Operator, Positions, TargetModule,
};
use reptune_tests::{Oracle, fixture, llama, logits, marked, pick, whole};
use safetensors::Dtype;
use std::path::Path;
use tempfile::TempDir;

/// Layers 1 and 2, with a different direction at each.
fn two_layers(coeff: f64) -> Result<Intervention> {
    let set = Oracle::read("oracle-llama2.safetensors")?.directions()?;
    Ok(Intervention::new(
        &set,
        &[1, 2],
        Dose::Total(coeff),
        Operator::Add,
    )?)
}

/// The modules whose biases are additions at the outputs of `layers`.
fn outputs<const N: usize>(layers: [usize; N]) -> [TargetModule; N] {
    layers.map(|layer| TargetModule {
        layer,
        kind: ModuleKind::DownProj,
    })
}

fn quantized(isq: IsqType) -> LoadOptions {
    LoadOptions {
        isq: Some(isq),
        ..LoadOptions::default()
    }
}

/// The same, each prompt alone: quantized activations are rounded per row, so packing
/// must not matter, but no other prompt should be able to hide that it does.
fn alone(llama: &dyn HookedModel, interventions: &[Intervention]) -> Result<Vec<Tensor>> {
    let prompts = prompts()?;
    let one = |prompt: &Vec<u32>| {
        let (tree, rows) = marked(std::slice::from_ref(prompt), interventions);
        let request = ForwardOptions {
            interventions,
            ..ForwardOptions::default()
        };
        pick(logits(&whole(llama, &tree, request)?), &rows[0])
    };
    prompts.iter().map(one).collect()
}

/// On the CPU a quantized layer rounds its input to 8 bits. That hides what is left
/// between two ways to the same sum (1e-7), unless a value falls on the other side of a
/// rounding step: from that row on logits move by up to 1e-1, as they do when anything
/// else is nudged by 1e-6. A wrong bias would move every row, by as much as it does.
pub(super) fn same_but_for_rounding(
    what: &str,
    left: &[Tensor],
    right: &[Tensor],
    effect: f32,
) -> Result<()> {
    let mut rows = Vec::new();
    for (l, r) in left.iter().zip(right) {
        rows.extend((l - r)?.abs()?.max(1)?.to_vec1::<f32>()?);
    }
    let equal = rows.iter().filter(|&&row| row < 1e-4).count();
    let (all, off) = (rows.len(), distance(left, right));
    println!("{what}: {equal} of {all} rows equal, largest difference {off:.1e} of {effect:.1e}");
    assert!(4 * equal > all, "{what}: {equal} of {all} rows are equal");
    assert!(off < effect / 10., "{what}: {off} of {effect}");
    Ok(())
}

fn quiet_bake(
    model: &str,
    interventions: &[Intervention],
    quantize: WeightType,
    out: &Path,
) -> reptune::Result<BakeReport> {
    bake(
        &fixture(model),
        interventions,
        quantize,
        out,
        &mut |_, _| (),
    )
}

#[test]
fn a_bake_is_the_intervention_in_stock_and_in_our_llama() -> Result<()> {
    for model in MODELS {
        let (room, name) = (tempfile::tempdir()?, format!("tiny-{model}"));
        let llama = llama(&name)?;
        let out = |n: &str| room.path().join(n);

        let plain = in_stock(&fixture(&name), None)?;
        quiet_bake(&name, &[two_layers(0.)?], WeightType::F32, &out("zero"))?;
        assert_eq!(
            all_bits(&in_stock(&out("zero"), None)?),
            all_bits(&plain),
            "{model}: coeff 0 is the base, bit for bit"
        );

        let steering = [two_layers(6.)?];
        let report = quiet_bake(&name, &steering, WeightType::F32, &out("two"))?;
        let biases = &report.biases["model"];
        assert_eq!(biases.keys().copied().collect::<Vec<_>>(), outputs([1, 2]));
        assert!(biases.values().all(|n| (n - 3.).abs() < 1e-5), "{report:?}");
        assert!(report.other.is_empty());
        let file = out("two").join(UQFF);
        assert_eq!(report.bytes[UQFF], std::fs::metadata(&file)?.len());
        let steered = ours(&llama, &steering, None)?;
        assert!(
            distance(&steered, &plain) > 0.1,
            "{model}: it does something"
        );
        let baked = in_stock(&out("two"), None)?;
        same(&format!("{model}, baked, in engine"), &baked, &steered);
        assert_eq!(
            all_bits(&in_stock(&file, None)?),
            all_bits(&baked),
            "directory and file are the same model"
        );
        let reloaded = Llama::load(&out("two"), LoadOptions::default())?;
        same(
            &format!("{model}, baked, in ours"),
            &ours(&reloaded, &[], None)?,
            &steered,
        );

        // The input of layer 2 is the output of layer 1, and additions add up.
        let set = Oracle::read("oracle-llama2.safetensors")?.directions()?;
        let input =
            Intervention::new(&set, &[2], Dose::Total(3.), Operator::Add)?.at(HookPoint::ResidPre);
        let both = [input, two_layers(-5.)?];
        let biases = BakePlan::of(llama.spec(), &both)?.biases;
        assert_eq!(biases.keys().copied().collect::<Vec<_>>(), outputs([1, 2]));
        quiet_bake(&name, &both, WeightType::F32, &out("both"))?;
        same(
            &format!("{model}, several, baked, in engine"),
            &in_stock(&out("both"), None)?,
            &ours(&llama, &both, None)?,
        );

        quiet_bake(&name, &steering, WeightType::F32, &out("again"))?;
        for file in [UQFF, "residual.safetensors"] {
            let (one, two) = (out("two").join(file), out("again").join(file));
            assert_eq!(
                std::fs::read(one)?,
                std::fs::read(two)?,
                "{file} is reproducible"
            );
        }
    }
    Ok(())
}

#[test]
fn a_quantized_bake_is_the_intervention_on_the_quantized_model() -> Result<()> {
    for model in MODELS {
        let (room, name) = (tempfile::tempdir()?, format!("tiny-{model}"));
        let out = |n: &str| room.path().join(n);
        let (isq, q8_0) = (IsqType::Q8_0, WeightType::parse("q8_0")?);
        let steering = [two_layers(6.)?];
        let report = quiet_bake(&name, &steering, q8_0, &out("baked"))?;
        // 56 is not made of blocks of 32.
        let others = &report.other;
        assert!(others.keys().all(|n| n.ends_with("down_proj.weight")));
        assert!(others.len() == 4 && others.values().all(|t| *t == WeightType::F32));

        let base = Llama::load(&fixture(&name), quantized(isq))?;
        let (plain, steered) = (alone(&base, &[])?, alone(&base, &steering)?);
        let full = ours(&llama(&name)?, &[], None)?;
        assert!(distance(&plain, &full) > 1e-3, "it is quantized");
        let effect = distance(&plain, &steered);
        assert!(effect > 1., "the intervention does something: {effect}");

        let baked = Llama::load(&out("baked"), LoadOptions::default())?;
        let (baked, served) = (alone(&baked, &[])?, in_stock(&out("baked"), None)?);
        let check = |which: &str, left: &[Tensor], right: &[Tensor]| {
            same_but_for_rounding(&format!("{model}, q8_0, {which}"), left, right, effect)
        };
        check("baked, in ours", &baked, &steered)?;
        check("baked, in engine", &served, &steered)?;
        quiet_bake(&name, &[], q8_0, &out("plain"))?;
        let unbiased = in_stock(&out("plain"), None)?;
        check("without bias, in engine", &unbiased, &plain)?;
        quiet_bake(&name, &[two_layers(0.)?], q8_0, &out("zero"))?;
        let zero = in_stock(&out("zero"), None)?;
        assert_eq!(all_bits(&zero), all_bits(&unbiased), "{model}: coeff 0");
    }
    Ok(())
}

/// A model whose rows are made of blocks of 256: two layers of random weights.
fn wide_model(room: &TempDir) -> Result<std::path::PathBuf> {
    let to = copy("tiny-llama2", room)?;
    let path = to.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    for (key, value) in [
        ("hidden_size", 256),
        ("intermediate_size", 512),
        ("num_hidden_layers", 2),
    ] {
        config[key] = value.into();
    }
    std::fs::write(path, serde_json::to_vec(&config)?)?;
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_owned(), vec![272, 256]),
        ("lm_head.weight".to_owned(), vec![272, 256]),
        ("model.norm.weight".to_owned(), vec![256]),
    ];
    for layer in 0..2 {
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            shapes.push((format!("model.layers.{layer}.{norm}.weight"), vec![256]));
        }
        for kind in ModuleKind::ALL {
            let shape = match kind {
                ModuleKind::QProj | ModuleKind::OProj => vec![256, 256],
                ModuleKind::KProj | ModuleKind::VProj => vec![128, 256],
                ModuleKind::GateProj | ModuleKind::UpProj => vec![512, 256],
                ModuleKind::DownProj => vec![256, 512],
            };
            shapes.push((format!("{}.weight", TargetModule { layer, kind }), shape));
        }
    }
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(3);
    let names = shapes.iter().map(|s| s.0.as_str());
    let path = &to.join("model.safetensors");
    let mut file = TensorFileWriter::create((path, path), names, 0)?;
    for (name, shape) in &shapes {
        let bytes: Vec<u8> = (0..shape.iter().product())
            .flat_map(|_| match shape.len() {
                1 => 1f32.to_le_bytes(),
                _ => rng.random_range(-0.12f32..0.12).to_le_bytes(),
            })
            .collect();
        file.push(name, Dtype::F32, shape, &bytes)?;
    }
    file.finish(Default::default())?;
    Ok(to)
}

#[test]
fn every_quantization_taken_bakes_into_what_stock_serves() -> Result<()> {
    let room = tempfile::tempdir()?;
    let model = wide_model(&room)?;
    let unit: Vec<f64> = (0..256).map(|i| f64::from(i).sin()).collect();
    let set = DirectionSet {
        layers: (0..2)
            .map(|l| Ok((l, Direction::new(&unit)?)))
            .collect::<Result<_>>()?,
        provenance: Provenance::default(),
    };
    let steering = [Intervention::new(
        &set,
        &[0, 1],
        Dose::Total(12.),
        Operator::Add,
    )?];
    for (name, wanted) in WeightType::ALL {
        if !wanted.takes_bias() {
            continue;
        }
        let out = |what: &str| room.path().join(format!("{name}-{what}"));
        bake(&model, &[], wanted, &out("base"), &mut |_, _| ())?;
        let report = bake(&model, &steering, wanted, &out("baked"), &mut |_, _| ())?;
        assert!(report.other.is_empty(), "{name}: {:?}", report.other);
        let base = Llama::load(&out("base"), LoadOptions::default())?;
        let (plain, steered) = (alone(&base, &[])?, alone(&base, &steering)?);
        let baked = alone(&Llama::load(&out("baked"), LoadOptions::default())?, &[])?;
        let served = in_stock(&out("baked"), None)?;
        let effect = distance(&plain, &steered);
        assert!(
            effect > 1.,
            "{name}: the intervention does something: {effect}"
        );
        same_but_for_rounding(&format!("{name}, baked, in ours"), &baked, &steered, effect)?;
        same_but_for_rounding(
            &format!("{name}, baked, in engine"),
            &served,
            &steered,
            effect,
        )?;
    }
    Ok(())
}

#[test]
fn baking_refuses_what_a_bias_cannot_do_and_leaves_nothing() -> Result<()> {
    let room = tempfile::tempdir()?;
    let out = room.path().join("out");
    let set = Oracle::read("oracle-llama2.safetensors")?.directions()?;
    let add = |layers: &[usize]| Intervention::new(&set, layers, Dose::Total(6.), Operator::Add);
    let refused = |interventions: &[Intervention], wanted: WeightType| -> String {
        let error = quiet_bake("tiny-llama2", interventions, wanted, &out).expect_err("refused");
        assert!(!out.exists(), "nothing is left");
        assert_eq!(std::fs::read_dir(room.path()).map_or(9, Iterator::count), 0);
        said(error, &room)
    };
    let ablation = Intervention::new(&set, &[1, 2], Dose::Total(0.), Operator::Ablate)?;
    insta::assert_snapshot!("bake_ablation", refused(&[ablation], WeightType::F32));
    let rows = add(&[1])?.on(Positions::Last(3));
    insta::assert_snapshot!("bake_rows", refused(&[add(&[2])?, rows], WeightType::F32));
    let one = Intervention::new(&set, &[1], Dose::Total(0.), Operator::Ablate)?;
    insta::assert_snapshot!("bake_one_ablation", refused(&[one], WeightType::F32));
    let everywhere = |l| Intervention::ablation_everywhere(&set, l, 4);
    let two = [everywhere(1)?, everywhere(2)?];
    insta::assert_snapshot!("bake_two_ablations", refused(&two, WeightType::F32));
    let order = [everywhere(1)?, add(&[1])?];
    insta::assert_snapshot!("bake_ablated_before", refused(&order, WeightType::F32));
    let q8_0 = WeightType::parse("q8_0")?;
    insta::assert_snapshot!("bake_rounded_ablation", refused(&[everywhere(1)?], q8_0));

    let mut far = set.clone();
    far.layers.insert(7, far.layers[&3].clone());
    let far = Intervention::new(&far, &[7], Dose::Total(1.), Operator::Add)?;
    insta::assert_snapshot!("bake_no_such_layer", refused(&[far], WeightType::F32));
    let mut narrow = set.clone();
    let short = narrow.layers.get_mut(&1).expect("layer 1");
    short.unit = vec![0.5; 4];
    let narrow = Intervention::new(&narrow, &[1], Dose::Total(1.), Operator::Add)?;
    insta::assert_snapshot!("bake_other_width", refused(&[narrow], WeightType::F32));

    insta::assert_snapshot!("bake_mxfp4", refused(&[add(&[1])?], WeightType::Mxfp4));

    quiet_bake("tiny-llama2", &[], WeightType::F32, &out)?;
    let adapter = Engine::load(&out, Some(&fixture("peft-adapter")));
    let adapter = adapter.err().expect("refused");
    insta::assert_snapshot!("stock_adapter_on_uqff", said(adapter, &room));
    Ok(())
}
