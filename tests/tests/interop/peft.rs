//! Adapters that PEFT wrote (`tests/interop/peft_adapters.py`).

use super::{fixture, interop, ours, prompts, same, tensors};
use anyhow::Result;
use candle_core::Tensor;
use reptune::runtime::Engine;
use reptune_adapters::{Adapter, HookedModel, TargetModule, lora::peft};
use reptune_tests::{Oracle, Walk, bits, llama};
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

/// The prompts whose logits PEFT wrote.
const PROMPTS: usize = 2;

fn read(case: &str) -> reptune_adapters::Result<Adapter> {
    peft::read(&interop("peft").join(case))
}

#[test]
fn adapters_of_every_kind_we_take_compute_what_they_compute_in_peft() -> Result<()> {
    let model = llama("tiny-llama2")?;
    let theirs = tensors(&interop("peft/logits.safetensors"))?;
    for case in [
        "plain",
        "patterns",
        "rslora",
        "named",
        "bf16",
        "mica",
        "velora",
        "monteclora",
        "converted",
        "olora",
        "regex",
        "excluded",
        "layer",
    ] {
        let update = peft::load(&interop("peft").join(case), model.spec())?;
        same(
            case,
            &ours(&model, &prompts()?[..PROMPTS], &[], Some(&update))?,
            &theirs,
        )?;
    }
    Ok(())
}

/// `tests/interop/peft_architectures.py`: PEFT merges, transformers computes.
#[test]
fn what_peft_merges_is_our_update_in_every_architecture() -> Result<()> {
    let theirs = tensors(&interop("peft_architectures/logits.safetensors"))?;
    for name in ["mistral", "qwen2", "qwen3", "llama-bias"] {
        let model = llama(name)?;
        let prompts = Oracle::read(&format!("oracle-{name}.safetensors"))?.prompts()?;
        let directory = interop("peft_architectures").join(name);
        let update = peft::load(&directory, model.spec())?;
        assert_eq!(update.modules.len(), 7 * model.spec().layers, "{name}");
        let tuned = ours(&model, &prompts[..PROMPTS], &[], Some(&update))?;
        same(name, &tuned, &theirs)?;
    }
    Ok(())
}

#[test]
fn each_module_has_the_rank_and_the_scale_of_its_pattern() -> Result<()> {
    let of = |update: &Adapter, path: &str| -> (usize, f64) {
        let module = TargetModule::parse(path).expect("a module");
        let adapter = &update.modules[&module];
        (adapter.rank(), adapter.scale)
    };
    let (patterns, rslora) = (read("patterns")?, read("rslora")?);
    for (path, rank, alpha) in [
        ("model.layers.0.self_attn.q_proj", 2, 8.),
        ("model.layers.1.self_attn.q_proj", 3, 8.),
        ("model.layers.1.self_attn.v_proj", 4, 12.),
        ("model.layers.2.self_attn.v_proj", 4, 1.),
        ("model.layers.1.mlp.down_proj", 4, 6.),
        ("model.layers.3.mlp.up_proj", 5, 6.),
        ("model.layers.3.self_attn.o_proj", 4, 8.),
    ] {
        assert_eq!(of(&patterns, path), (rank, alpha / rank as f64), "{path}");
    }
    let (rank, scale) = of(&rslora, "model.layers.1.self_attn.q_proj");
    assert_eq!((rank, scale), (3, 3. / 3f64.sqrt()), "rank-stabilised");
    assert_eq!(
        of(&read("bf16")?, "model.layers.1.self_attn.k_proj").1,
        -5. / 3.
    );
    Ok(())
}

#[test]
fn dora_and_biases_of_peft_are_refused_by_name() {
    for (case, parts) in [
        ("dora", ["adapter with `use_dora`", "DoRA scales the rows"]),
        ("lora_bias", ["adapter with `lora_bias`", "biases"]),
    ] {
        let message = read(case).expect_err(case).to_string();
        for part in parts {
            assert!(message.contains(part), "{case}: {message}");
        }
    }
}

#[test]
fn their_tensors_are_refused_too_where_the_config_is_silent() -> Result<()> {
    for (case, key, kind) in [
        ("dora", "use_dora", "the magnitudes of DoRA"),
        ("lora_bias", "lora_bias", "found a bias"),
    ] {
        let room = tempfile::tempdir()?;
        let from = interop("peft").join(case);
        let weights = "adapter_model.safetensors";
        std::fs::copy(from.join(weights), room.path().join(weights))?;
        let config = std::fs::read_to_string(from.join("adapter_config.json"))?;
        let silent = config.replace(&format!("\"{key}\": true"), &format!("\"{key}\": false"));
        assert_ne!(config, silent);
        std::fs::write(room.path().join("adapter_config.json"), silent)?;
        let message = peft::read(room.path()).expect_err(case).to_string();
        assert!(message.contains(kind), "{case}: {message}");
    }
    Ok(())
}

/// A copy of an adapter of PEFT with another text in its configuration.
fn changed(case: &str, from: &str, to: &str) -> Result<tempfile::TempDir> {
    let room = tempfile::tempdir()?;
    let there = interop("peft").join(case);
    let config = std::fs::read_to_string(there.join("adapter_config.json"))?;
    assert!(config.contains(from), "{case}: {from}");
    std::fs::write(
        room.path().join("adapter_config.json"),
        config.replacen(from, to, 1),
    )?;
    let weights = "adapter_model.safetensors";
    std::fs::copy(there.join(weights), room.path().join(weights))?;
    Ok(room)
}

#[test]
fn what_would_be_something_else_in_peft_is_refused_by_name() -> Result<()> {
    let plain = "\"init_lora_weights\": true";
    for (case, from, to, said) in [
        // Relative to a base model without its largest directions.
        (
            "converted",
            plain,
            "\"init_lora_weights\": \"pissa\"",
            "path_initial_model_for_weight_conversion",
        ),
        (
            "olora",
            plain,
            "\"init_lora_weights\": \"olora\"",
            "changed base model",
        ),
        (
            "plain",
            "\"use_qalora\": false",
            "\"use_qalora\": true",
            "it pools its inputs",
        ),
        ("plain", "\"use_dora\": false", "\"use_dora\": true", "DoRA"),
        (
            "plain",
            "\"bias\": \"none\"",
            "\"bias\": \"all\"",
            "trains biases",
        ),
        (
            "plain",
            "\"use_dora\": false",
            "\"use_next\": true",
            "`use_next` is not supported: it is not known here",
        ),
        (
            "plain",
            "\"use_dora\": false",
            "\"next_config\": {\"a\": 1}",
            "`next_config`",
        ),
        // Tensors that PEFT would ignore.
        (
            "layer",
            "\"layers_to_transform\": 2",
            "\"layers_to_transform\": [1, 3]",
            "layers.2.mlp.gate_proj.lora_A.weight`: expected a module that its config targets",
        ),
        (
            "plain",
            "\"k_proj\",",
            "",
            "k_proj.lora_A.weight`: expected a module",
        ),
        (
            "regex",
            "(k|up)_proj",
            "(k|up)",
            "expected a module that its config targets",
        ),
        (
            "excluded",
            "\"q_proj\"",
            "\"k_proj\"",
            "k_proj.lora_A.weight`: expected a module",
        ),
    ] {
        let room = changed(case, from, to)?;
        let message = peft::read(room.path()).expect_err(said).to_string();
        assert!(message.contains(said), "{said}: {message}");
    }
    // Keys of later versions that are off, and those of other programs.
    let more =
        "\"use_dora\": false, \"use_next\": false, \"next_config\": null, \"made_by\": \"x\"";
    let room = changed("plain", "\"use_dora\": false", more)?;
    assert_eq!(
        peft::read(room.path())?.content_hash()?,
        read("plain")?.content_hash()?
    );
    Ok(())
}

#[test]
fn broken_saves_are_named_by_tensor() -> Result<()> {
    let model = llama("tiny-llama2")?;
    let module = "base_model.model.model.layers.2.self_attn.o_proj";
    let (a, b) = (
        format!("{module}.lora_A.weight"),
        format!("{module}.lora_B.weight"),
    );
    type Change<'a> = &'a dyn Fn(&mut HashMap<String, Tensor>) -> Result<Option<Tensor>>;
    let cases: [(Change, String, &str); 6] = [
        (
            &|t| Ok(t.remove(&b)),
            b.clone(),
            "expected a tensor, found nothing",
        ),
        (&|t| Ok(t.remove(&a)), b.clone(), "found a B without its A"),
        (
            &|t| Ok(t.insert(b.clone(), t[&b].narrow(0, 0, 8)?.contiguous()?)),
            b.clone(),
            "expected shape [32, 2]",
        ),
        (
            &|t| Ok(t.insert(a.clone(), t[&a].narrow(1, 0, 8)?.contiguous()?)),
            a.clone(),
            "expected shape [2, 32]",
        ),
        (
            &|t| Ok(t.insert(a.clone(), (&t[&a] * f64::NAN)?)),
            a.clone(),
            "expected finite numbers, found NaN",
        ),
        (
            &|t| {
                for (from, factor) in [(&a, "A"), (&b, "B")] {
                    let far = format!(
                        "{}.lora_{factor}.weight",
                        module.replace("layers.2", "layers.9")
                    );
                    let tensor = t[from].clone();
                    t.insert(far, tensor);
                }
                Ok(None)
            },
            "model.layers.9.self_attn.o_proj".into(),
            "",
        ),
    ];
    for (change, name, said) in cases {
        let room = changed(
            "layer",
            "\"layers_to_transform\": 2",
            "\"layers_to_transform\": [2, 9]",
        )?;
        let path = room.path().join("adapter_model.safetensors");
        let mut all = tensors(&path)?;
        change(&mut all)?;
        candle_core::safetensors::save(&all, &path)?;
        let message = peft::load(room.path(), model.spec())
            .expect_err(said)
            .to_string();
        assert!(
            message.contains(&name) && message.contains(said),
            "{name}, {said}: {message}"
        );
    }
    Ok(())
}

#[test]
fn an_adapter_that_changes_nothing_or_is_for_another_model_is_said() -> Result<()> {
    let model = llama("tiny-llama2")?;
    let noted = |directory: &Path| peft::load_noted(directory, model.spec());
    assert_eq!(noted(&interop("peft/plain"))?.1, [""; 0]);
    let base = "\"base_model_name_or_path\": \"";
    for same in ["/home/x/Tiny-Llama2/", "owner/tiny-llama2"] {
        let room = changed(
            "plain",
            &format!("{base}tiny-llama2"),
            &format!("{base}{same}"),
        )?;
        assert_eq!(noted(room.path())?.1, [""; 0], "{same}");
    }
    let room = changed(
        "plain",
        &format!("{base}tiny-llama2"),
        &format!("{base}owner/another"),
    )?;
    let notes = noted(room.path())?.1;
    assert!(
        notes.len() == 1 && notes[0].contains("was made for owner/another"),
        "{notes:?}"
    );
    let path = room.path().join("adapter_model.safetensors");
    let mut all = tensors(&path)?;
    for (name, tensor) in &mut all {
        if name.contains("lora_B") {
            *tensor = tensor.zeros_like()?;
        }
    }
    candle_core::safetensors::save(&all, &path)?;
    let notes = noted(room.path())?.1;
    assert!(
        notes[0].ends_with("every delta is zero; the adapter changes nothing"),
        "{notes:?}"
    );
    Ok(())
}

/// PEFT's `{name}/` of adapters that are not called "default".
#[test]
fn the_only_adapter_in_a_sub_directory_is_found_and_several_are_listed() -> Result<()> {
    let room = tempfile::tempdir()?;
    let copy = |name: &str| -> Result<()> {
        let to = room.path().join(name);
        std::fs::create_dir(&to)?;
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            std::fs::copy(interop("peft/named/honest").join(file), to.join(file))?;
        }
        Ok(())
    };
    copy("honest")?;
    std::fs::create_dir(room.path().join("checkpoints"))?;
    assert_eq!(peft::locate(room.path())?, room.path().join("honest"));
    let modules: BTreeSet<TargetModule> = peft::read(room.path())?.modules.into_keys().collect();
    assert_eq!(modules.len(), 4);

    copy("blunt")?;
    let message = peft::read(room.path()).expect_err("two").to_string();
    assert!(
        message.contains("several adapters: blunt, honest"),
        "{message}"
    );
    assert_eq!(peft::read(&room.path().join("blunt"))?.modules.len(), 4);
    Ok(())
}

#[test]
fn a_pickle_is_refused_by_name_with_what_to_do() -> Result<()> {
    let room = tempfile::tempdir()?;
    let config = interop("peft/patterns/adapter_config.json");
    std::fs::copy(config, room.path().join("adapter_config.json"))?;
    std::fs::write(room.path().join("adapter_model.bin"), "PK")?;
    let message = peft::read(room.path()).expect_err("a pickle").to_string();
    for part in ["adapter_model.bin", "runs code", "`save_pretrained`"] {
        assert!(message.contains(part), "{message}");
    }
    Ok(())
}

/// Several ranks and scales are written as one of each, so that mistral.rs, which knows no
/// patterns, computes what PEFT computes.
#[test]
fn several_ranks_and_scales_reach_stock_mistral_rs() -> Result<()> {
    let model = llama("tiny-llama2")?;
    let room = tempfile::tempdir()?;
    let theirs = tensors(&interop("peft/logits.safetensors"))?;
    for case in ["patterns", "rslora"] {
        let update = read(case)?;
        peft::save(room.path(), &update, "tiny-llama2")?;
        let back = peft::load(room.path(), model.spec())?;
        let mut walk = Walk::within(f32::EPSILON);
        for (module, l) in &back.modules {
            let largest = update.modules.values().map(|l| l.rank()).max();
            assert_eq!(Some(l.rank()), largest, "{module}");
            let before = &update.modules[module];
            let zeros = l.a.narrow(0, before.rank(), l.rank() - before.rank())?;
            assert!(
                bits(&zeros).iter().all(|b| *b == 0),
                "{module}: padded with zeros"
            );
            let kept = l.a.narrow(0, 0, before.rank())?;
            assert_eq!(bits(&kept), bits(&before.a), "{module}: A");
            let b = l.b.narrow(1, 0, before.rank())?;
            walk.check(
                &format!("{module}: scale * B"),
                &(b.contiguous()? * l.scale)?,
                &(&before.b * before.scale)?,
            );
        }
        walk.finish(&format!("{case}: scale * B"));
        let engine = Engine::load(&fixture("tiny-llama2"), Some(room.path()))?;
        let logits: Vec<Tensor> = prompts()?[..PROMPTS]
            .iter()
            .map(|p| engine.logits(p))
            .collect::<std::result::Result<_, _>>()?;
        same(case, &logits, &theirs)?;
    }
    Ok(())
}
