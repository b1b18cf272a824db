//! A model whose weights and stream are 16 bits wide computes what it does in f32, to the
//! bits that it has. On the CPU that is f16, whose ops are those of other devices: composed
//! of candle's.

use anyhow::Result;
use candle_core::{DType, Tensor};
use reptune::{Llama, LoadOptions};
use reptune_adapters::model::ModuleKind;
use reptune_adapters::{
    Adapter, Dose, ForwardOptions, HookedModel, Intervention, KeyValueCache, Operator, PrefixTree,
    Resume,
};
use reptune_recipes::recipe::Mode;
use reptune_tests::{
    ModelFixture, OTHERS, Objective, Oracle, Walk, device, flat, logits, marked, random_update,
    whole,
};

/// Largest difference, as a share of the largest value: f16 has 11 bits, a block some ten
/// roundings.
const HALF: f32 = 1e-2;
/// Least cosine of a gradient to that of f32.
const GRADIENT: f64 = 0.999;

fn pair(name: &str) -> Result<[Llama; 2]> {
    let model = ModelFixture::of(name)?;
    let load = |dtype| -> Result<Llama> {
        let options = LoadOptions {
            device: device()?,
            dtype,
            isq: None,
        };
        Ok(Llama::load(&model.path, options)?)
    };
    Ok([load(DType::F32)?, load(DType::F16)?])
}

#[test]
fn residuals_and_logits_stay_close_and_are_handed_out_in_f32() -> Result<()> {
    for name in ["llama2"].into_iter().chain(OTHERS) {
        stay_close(name)?;
    }
    Ok(())
}

fn stay_close(name: &str) -> Result<()> {
    let ([full, half], oracle) = (pair(name)?, Oracle::read("oracle-llama2.safetensors")?);
    let (set, prompts) = (oracle.directions()?, oracle.prompts()?);
    let update = random_update(full.spec(), &[0, 2], &ModuleKind::ALL, 3)?;
    let operators = [
        Operator::Add,
        Operator::Ablate,
        Operator::AddNormPreserving,
        Operator::Clamp,
    ];
    let steered = operators.map(|o| Some(Intervention::new(&set, &[1, 2], Dose::Total(3.), o)));
    for steered in steered.into_iter().chain([None]) {
        let interventions: Vec<Intervention> = steered.into_iter().collect::<Result<_, _>>()?;
        let (tree, _) = marked(&prompts, &interventions);
        let request = ForwardOptions {
            interventions: &interventions,
            adapter: Some(&update),
            ..ForwardOptions::default()
        };
        let (ours, expected) = (whole(&half, &tree, request)?, whole(&full, &tree, request)?);
        let mut walk = Walk::within(HALF);
        for (layer, rows) in &ours.residuals {
            assert_eq!(rows.dtype(), DType::F32);
            let place = format!("{name}: layer {layer}");
            walk.check(&place, rows, &expected.residuals[layer]);
        }
        assert_eq!(logits(&ours).dtype(), DType::F32);
        walk.check(&format!("{name}: logits"), logits(&ours), logits(&expected));
        assert_ne!(
            flat(logits(&ours)),
            flat(logits(&expected)),
            "computed in f32"
        );
    }
    Ok(())
}

#[test]
fn every_gradient_points_where_that_of_f32_does() -> Result<()> {
    let ([full, half], oracle) = (pair("llama2")?, Oracle::read("oracle-llama2.safetensors")?);
    let (directions, prompts) = (oracle.directions()?, oracle.prompts()?);
    let labels = oracle.tokens("labels")?;
    let mut update = random_update(full.spec(), &[0, 2], &ModuleKind::ALL, 5)?;
    update.trainable(full.device())?;
    let gradients = |llama: &Llama, mode, update: &Adapter| -> Result<Vec<Tensor>> {
        let objective = Objective {
            mode,
            directions: &directions,
            interventions: &[],
        };
        let store = (objective.loss(llama, &prompts, &labels, Some(update))?).backward()?;
        let factors = update.modules.values().flat_map(|l| [&l.a, &l.b]);
        let found = factors.map(|f| store.get(f).expect("a gradient").clone());
        Ok(found.collect())
    };
    let mut least = 1f64;
    for mode in Mode::ALL {
        let pairs = gradients(&half, mode, &update)?;
        let pairs = pairs.into_iter().zip(gradients(&full, mode, &update)?);
        for (i, (ours, expected)) in pairs.enumerate() {
            assert_eq!(ours.dtype(), DType::F32, "factors are trained in f32");
            let cos = cosine(&flat(&ours), &flat(&expected));
            assert!(cos >= GRADIENT, "{mode}: factor {i}: cosine {cos}");
            least = least.min(cos);
        }
    }
    println!("least cosine of a gradient: {least:.5}");
    Ok(())
}

/// Rows are handed out and taken back in f32 without loss, and a cache holds what is needed.
#[test]
fn a_forward_from_a_layer_or_a_cache_is_the_forward() -> Result<()> {
    let ([_, half], oracle) = (pair("llama2")?, Oracle::read("oracle-llama2.safetensors")?);
    let (tree, _) = PrefixTree::pack(&oracle.prompts()?);
    let expected = whole(&half, &tree, ForwardOptions::default())?;
    let rows: Vec<u32> = (0..tree.len() as u32).collect();
    let request = ForwardOptions {
        start: Some(Resume {
            layer: 1,
            rows: &expected.residuals[&1],
        }),
        logits: &rows,
        ..ForwardOptions::default()
    };
    let above = half.forward(&tree, &mut KeyValueCache::none(), &request)?;
    assert_eq!(flat(logits(&above)), flat(logits(&expected)));

    let prompt = &oracle.prompts()?[0];
    let (mut grown, _) = PrefixTree::pack(&[&prompt[..prompt.len() - 1]]);
    let mut cache = KeyValueCache::keeping(half.spec().layers, 16);
    half.forward(&grown, &mut cache, &ForwardOptions::default())?;
    let end = grown.len() as u32 - 1;
    let last = grown.insert(Some(end), &prompt[prompt.len() - 1..], |_| 0)[0];
    let request = ForwardOptions {
        logits: &[last],
        ..ForwardOptions::default()
    };
    let ours = half.forward(&grown, &mut cache, &request)?;
    let (alone, _) = PrefixTree::pack(&[prompt]);
    let expected = half.forward(&alone, &mut KeyValueCache::none(), &request)?;
    Walk::within(HALF).check("the next token", logits(&ours), logits(&expected));
    Ok(())
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        let pairs = a.iter().zip(b);
        pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}
