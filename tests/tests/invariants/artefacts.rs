//! Files we write: the same bytes twice, the same values back, and no damage that goes unnoticed.

use anyhow::Result;
use candle_core::Tensor;
use reptune_adapters::files;
use reptune_adapters::formats::tables::{self, Table};
use reptune_adapters::model::ModuleKind;
use reptune_adapters::steering::direction::{Direction, Provenance};
use reptune_adapters::{DirectionSet, HookedModel, ModelSpec, lora::peft};
use reptune_tests::{bits, fixture, llama, random_update};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::fmt::{Display, Write};
use std::path::Path;

/// The case and its message, with the directories left out.
fn note(notes: &mut String, directory: &Path, case: &str, error: impl Display) {
    let message = error.to_string();
    let name = directory.display().to_string();
    assert!(
        message.contains(&name),
        "{case}: the message names no file: {message}"
    );
    let model = fixture("tiny-llama2").display().to_string();
    let message = message.replace(&name, "[DIR]").replace(&model, "[MODEL]");
    let _ = writeln!(notes, "{case}\n    {message}");
}

fn directions(spec: &ModelSpec) -> Result<DirectionSet> {
    let direction = |l: usize| {
        let v: Vec<f64> = (0..spec.hidden)
            .map(|i| ((i * (l + 2)) as f64).sin())
            .collect();
        Ok((l, Direction::new(&v)?))
    };
    let layers = (1..spec.layers)
        .map(direction)
        .collect::<Result<BTreeMap<_, _>>>()?;
    Ok(DirectionSet {
        layers,
        provenance: Provenance {
            model: "tiny-llama2".into(),
            model_fingerprint: spec.fingerprint.clone(),
            model_layers: spec.layers,
            recipe: files::sha256([b"a recipe".as_slice()]),
            method: "pca".into(),
            rows: "last:7".into(),
            pairs: 512,
            pairs_captured: 600,
            residual_norms: (0..spec.layers).map(|l| (l, 1.5 + l as f64 / 3.)).collect(),
            ..Provenance::default()
        },
    })
}

#[test]
fn directions_come_back_as_they_were_and_in_the_same_bytes() -> Result<()> {
    let llama = llama("tiny-llama2")?;
    let set = directions(llama.spec())?;
    let directory = tempfile::tempdir()?;
    let paths =
        ["once", "twice", "again"].map(|n| directory.path().join(format!("{n}.safetensors")));
    set.save(&paths[0])?;
    set.save(&paths[1])?;
    let back = DirectionSet::load(&paths[0])?;
    assert_eq!(back, set);
    back.save(&paths[2])?;
    back.check_model(&paths[0], llama.spec())?;
    let bytes = std::fs::read(&paths[0])?;
    for path in &paths[1..] {
        assert!(
            bytes == std::fs::read(path)?,
            "{} has other bytes",
            path.display()
        );
    }
    assert_eq!(
        std::fs::read_dir(directory.path())?.count(),
        3,
        "no temporary file is left"
    );
    Ok(())
}

type Tables = BTreeMap<String, Table>;
type Metadata = HashMap<String, String>;

#[test]
fn a_damaged_or_foreign_direction_file_is_refused() -> Result<()> {
    let llama = llama("tiny-llama2")?;
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("honesty.safetensors");
    directions(llama.spec())?.save(&path)?;
    let good = std::fs::read(&path)?;
    let mut notes = String::new();

    let last = good.len() - 1;
    let mut flipped = good.clone();
    flipped[last] ^= 1;
    for (case, bytes) in [
        ("a tensor byte changed", &flipped[..]),
        ("truncated", &good[..last]),
        ("empty", &[]),
    ] {
        std::fs::write(&path, bytes)?;
        note(
            &mut notes,
            directory.path(),
            case,
            DirectionSet::load(&path).expect_err(case),
        );
    }

    std::fs::write(&path, &good)?;
    let (tables, metadata) = tables::read_tables(&path)?;
    type Edit = fn(&mut Tables, &mut Metadata);
    let edits: [(&str, Edit); 6] = [
        ("other layer convention", |_, m| {
            m.insert("layer_convention".into(), "hidden_states".into());
        }),
        ("no layer convention", |_, m| {
            m.remove("layer_convention");
        }),
        ("no hash", |_, m| {
            m.remove("content_sha256");
        }),
        ("a layer renamed", |t, _| {
            let table = t.remove("layer.1").expect("layer 1");
            t.insert("layer.0".into(), table);
        }),
        ("a layer left out", |t, _| {
            t.remove("layer.1");
        }),
        ("norms broken", |_, m| {
            m.insert("norms".into(), "{".into());
        }),
    ];
    for (case, edit) in edits {
        let (mut tables, mut metadata) = (tables.clone(), metadata.clone());
        edit(&mut tables, &mut metadata);
        tables::write_tables(&path, &tables, metadata)?;
        note(
            &mut notes,
            directory.path(),
            case,
            DirectionSet::load(&path).expect_err(case),
        );
    }

    std::fs::write(&path, &good)?;
    let set = DirectionSet::load(&path)?;
    let named = ModelSpec {
        name: "other-llama".into(),
        ..llama.spec().clone()
    };
    for (case, spec) in [
        (
            "other width",
            ModelSpec {
                hidden: 64,
                ..named.clone()
            },
        ),
        (
            "other layer count",
            ModelSpec {
                layers: 8,
                ..named.clone()
            },
        ),
        (
            "other fingerprint",
            ModelSpec {
                fingerprint: "0123456789abcdef".into(),
                ..named
            },
        ),
    ] {
        note(
            &mut notes,
            directory.path(),
            case,
            set.check_model(&path, &spec).expect_err(case),
        );
    }
    insta::assert_snapshot!(notes);
    Ok(())
}

#[test]
fn an_adapter_comes_back_as_it_was_and_in_the_same_bytes() -> Result<()> {
    let llama = llama("tiny-llama2")?;
    let update = random_update(llama.spec(), &[0, 3], &ModuleKind::ALL, 2)?;
    let directory = tempfile::tempdir()?;
    let (once, again) = (
        directory.path().join("once"),
        directory.path().join("again"),
    );
    peft::save(&once, &update, "tiny-llama2")?;
    let back = peft::load(&once, llama.spec())?;
    assert_eq!(
        back.modules.keys().collect::<Vec<_>>(),
        update.modules.keys().collect::<Vec<_>>()
    );
    for (module, l) in &back.modules {
        let expected = &update.modules[module];
        assert_eq!(bits(&l.a), bits(&expected.a), "{module}: A");
        assert_eq!(bits(&l.b), bits(&expected.b), "{module}: B");
        assert_eq!(l.scale, expected.scale, "{module}: scale");
    }
    peft::save(&again, &back, "tiny-llama2")?;
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        assert!(
            std::fs::read(once.join(file))? == std::fs::read(again.join(file))?,
            "{file} has other bytes"
        );
    }
    // PEFT's own adapter survives the way through our writer.
    let theirs = peft::load(&fixture("peft-adapter"), llama.spec())?;
    peft::save(&again, &theirs, "tiny-llama2")?;
    let back = peft::load(&again, llama.spec())?;
    assert_eq!(back.modules.len(), 4);
    for (module, l) in &back.modules {
        assert_eq!(
            bits(&l.delta()?),
            bits(&theirs.modules[module].delta()?),
            "{module}"
        );
        assert_eq!(l.scale, 2., "alpha 8 over rank 4");
    }
    Ok(())
}

#[test]
fn adapters_of_other_kinds_are_refused() -> Result<()> {
    let llama = llama("tiny-llama2")?;
    let directory = tempfile::tempdir()?;
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(
            fixture("peft-adapter").join(file),
            directory.path().join(file),
        )?;
    }
    let path = directory.path().join("adapter_config.json");
    let good: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    let mut notes = String::new();
    for (key, value) in [
        ("use_dora", json!(true)),
        ("bias", json!("all")),
        ("lora_bias", json!(true)),
        ("rank_pattern", json!({"v_proj": 8})),
        ("rank_pattern", json!({"(?!v)v_proj": 8})),
        ("alpha_pattern", json!({"v_proj": "8"})),
        ("modules_to_save", json!(["lm_head"])),
        ("init_lora_weights", json!("pissa")),
        ("peft_type", json!("IA3")),
        ("r", json!(8)),
        ("r", json!(0)),
        ("lora_alpha", Value::Null),
    ] {
        let mut config = good.clone();
        config[key] = value.clone();
        std::fs::write(&path, config.to_string())?;
        let case = format!("{key} = {value}");
        let error = peft::load(directory.path(), llama.spec()).expect_err(&case);
        note(&mut notes, directory.path(), &case, error);
    }
    std::fs::write(&path, "{\n\"r\": 4,\n}")?;
    let error = peft::load(directory.path(), llama.spec()).expect_err("not JSON");
    note(&mut notes, directory.path(), "not JSON", error);
    std::fs::write(&path, good.to_string())?;

    let weights = directory.path().join("adapter_model.safetensors");
    let bytes = std::fs::read(&weights)?;
    std::fs::write(&weights, &bytes[..bytes.len() - 4])?;
    let error = peft::load(directory.path(), llama.spec()).expect_err("truncated");
    note(&mut notes, directory.path(), "truncated", error);
    let tensors = candle_core::safetensors::load(
        fixture("peft-adapter").join("adapter_model.safetensors"),
        llama.device(),
    )?;
    let b = "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight";
    type Edit<'a> = &'a dyn Fn(&mut HashMap<String, Tensor>);
    let edits: [(&str, Edit); 3] = [
        ("B left out", &|t| {
            t.remove(b);
        }),
        ("A left out", &|t| {
            t.remove(&b.replace("lora_B", "lora_A"));
        }),
        ("an embedding", &|t| {
            let tensor = t[b].clone();
            t.insert(
                "base_model.model.model.embed_tokens.lora_A.weight".into(),
                tensor,
            );
        }),
    ];
    for (case, edit) in edits {
        let mut tensors = tensors.clone();
        edit(&mut tensors);
        candle_core::safetensors::save(&tensors, &weights)?;
        note(
            &mut notes,
            directory.path(),
            case,
            peft::load(directory.path(), llama.spec()).expect_err(case),
        );
    }
    std::fs::write(&weights, &bytes)?;
    let shallow = ModelSpec {
        layers: 2,
        ..llama.spec().clone()
    };
    note(
        &mut notes,
        directory.path(),
        "a model of two layers",
        peft::load(directory.path(), &shallow).expect_err("shallow"),
    );
    std::fs::remove_file(&weights)?;
    note(
        &mut notes,
        directory.path(),
        "no weights",
        peft::load(directory.path(), llama.spec()).expect_err("none"),
    );
    insta::assert_snapshot!(notes);
    Ok(())
}
