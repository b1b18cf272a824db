use super::control_vector::Length;
use super::*;
use crate::formats::gguf::{GgufWriter, Value};
use crate::model::{Architecture, ModelSpec};
use crate::steering::direction::{Direction, Provenance};
use crate::steering::operator::Operator;
use crate::{Dose, Intervention, files};
use std::path::PathBuf;

fn directory() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("x.gguf");
    (directory, path)
}

fn spec() -> ModelSpec {
    ModelSpec {
        name: "small".into(),
        fingerprint: "f".into(),
        architecture: Architecture::Llama,
        former_fingerprint: String::new(),
        layers: 4,
        hidden: 8,
        intermediate: 12,
        heads: 2,
        kv_heads: 1,
        head_dim: 4,
        vocab: 9,
        context: 16,
    }
}

fn set() -> Result<DirectionSet> {
    let layer = |l: usize| {
        let v: Vec<f64> = (0..8).map(|i| ((3 * l + i) as f64).sin() * 7.).collect();
        Ok((l, Direction::new(&v)?))
    };
    Ok(DirectionSet {
        layers: (0..4).map(layer).collect::<Result<_>>()?,
        provenance: Provenance {
            model: "small".into(),
            model_fingerprint: "f".into(),
            model_layers: 4,
            recipe: "r".into(),
            method: "mean difference".into(),
            rows: "offset 0".into(),
            pairs: 3,
            pairs_captured: 5,
            residual_norms: [(1, 0.1), (2, 1. / 3.)].into(),
            ..Provenance::default()
        },
    })
}

#[test]
fn a_control_vector_of_ours_is_read_back_bit_for_bit() -> Result<()> {
    let (_directory, path) = directory();
    let mut set = set()?;
    control_vector::write(&path, &set, &[1, 2, 3], Length::Unit)?;
    set.layers.remove(&0);
    assert_eq!(open_directions(&path)?, set);
    set.check_model(&path, &spec())?;
    // a bit of a vector, and nothing else
    let mut bytes = files::read(&path)?;
    let at = bytes.len() - 30;
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).expect("written");
    let message = open_directions(&path).expect_err("changed").to_string();
    assert!(message.contains("`content_sha256`"), "{message}");
    // another norm
    control_vector::write(&path, &set, &[1, 2, 3], Length::Unit)?;
    let mut bytes = files::read(&path)?;
    let key = b"reptune.norms";
    let at = bytes.windows(key.len()).position(|w| w == key);
    let digit = at.expect("norms") + key.len() + 4 + 8 + "{'1':'".len();
    bytes[digit] = b'9' - (bytes[digit] - b'0');
    std::fs::write(&path, bytes).expect("written");
    let message = open_directions(&path).expect_err("changed").to_string();
    assert!(message.contains("`content_sha256`"), "{message}");
    Ok(())
}

#[test]
fn a_dose_is_what_the_steering_adds() -> Result<()> {
    let (_directory, path) = directory();
    let set = set()?;
    let steering = Intervention::new(&set, &[1, 3], Dose::Total(5.), Operator::Add)?;
    control_vector::write(&path, &set, &[1, 3], Length::Dose(Dose::Total(5.)))?;
    let read = open_directions(&path)?;
    let mut expected = set.provenance.clone();
    expected.origin = "GGUF control vector of reptune, coeff 5 over 2 layers".into();
    assert_eq!(
        read.provenance, expected,
        "the model's fingerprint among it"
    );
    let stored = Intervention::new(&read, &[1, 3], Dose::Strength(1.), Operator::Add)?;
    for layer in [1, 3] {
        let both = [&steering, &stored].map(|x| x.addition(layer).expect("one"));
        let [Some(one), Some(two)] = both else {
            panic!("both act")
        };
        let off = (one - two)?.abs()?.max(0)?.to_scalar::<f32>()?;
        assert!(off < 1e-6, "{off}");
    }
    let twice = Intervention::new(&read, &[1, 3], Dose::Strength(2.), Operator::Add)?;
    let norm = |x: &Intervention| -> Result<f32> {
        let all = x.addition(3)?.expect("it acts");
        Ok(all.sqr()?.sum_all()?.sqrt()?.to_scalar::<f32>()?)
    };
    assert!((norm(&twice)? - 5.).abs() < 1e-5 && (norm(&stored)? - 2.5).abs() < 1e-5);
    Ok(())
}

#[test]
fn vectors_of_others_stay_as_long_as_they_were() -> Result<()> {
    let (_directory, path) = directory();
    let set = set()?;
    control_vector::write(&path, &set, &[1, 3], Length::Stored)?;
    let back = open_directions(&path)?;
    for layer in [1, 3] {
        let (before, after) = (&set.layers[&layer], &back.layers[&layer]);
        assert!((before.norm - after.norm).abs() < 1e-5 * before.norm);
        let pairs = before.unit.iter().zip(&after.unit);
        assert!(pairs.map(|(a, b)| (a - b).abs()).fold(0., f32::max) < 1e-6);
        let file = crate::formats::gguf::Gguf::open(&path)?;
        let stored = file.floats(&format!("direction.{layer}"))?;
        let norm = stored.iter().map(|x| f64::from(x * x)).sum::<f64>().sqrt();
        assert!((norm - before.norm).abs() < 1e-5 * before.norm, "{norm}");
    }
    Ok(())
}

#[test]
fn block_0_is_refused_for_llama_cpp() -> Result<()> {
    let (_directory, path) = directory();
    let message = control_vector::write(&path, &set()?, &[0, 1], Length::Unit)
        .expect_err("block 0")
        .to_string();
    assert!(
        message.contains("layer 0") && message.contains("block 1"),
        "{message}"
    );
    assert!(!path.exists());
    Ok(())
}

/// A file as others write it: repeng with u32 and a layer 0, cvector-generator with i32.
fn theirs(path: &Path, change: impl FnOnce(&mut GgufWriter)) -> Result<()> {
    let mut file = GgufWriter::new("controlvector");
    file.text("controlvector.model_hint", "llama");
    change(&mut file);
    file.write(path)?;
    Ok(())
}

#[test]
fn files_of_others_are_taken_with_a_note_on_their_layers() -> Result<()> {
    let (_directory, path) = directory();
    let row = |x: f32| [x, 0., 0., 0., 0., 0., 0., 0.];
    theirs(&path, |file| {
        file.set("controlvector.layer_count", Value::U32(2));
        file.floats("direction.0", &[8], &row(2.)).expect("fits");
        file.floats("direction.3", &[8], &row(-0.5)).expect("fits");
    })?;
    let read = super::read(&path, 0, Operator::Add)?;
    let norms: Vec<(usize, f64)> = read.set.layers.iter().map(|(l, d)| (*l, d.norm)).collect();
    assert_eq!(norms, [(0, 2.), (3, 0.5)]);
    assert_eq!(read.set.layers[&3].unit[0], -1.);
    let notes = read.notes.join("\n");
    assert!(
        notes.contains("direction.0") && notes.contains("output of block N,"),
        "{notes}"
    );
    read.set.check_model(&path, &spec())?;

    theirs(&path, |file| {
        file.set("controlvector.layer_count", Value::I32(1));
        file.floats("direction.3", &[8], &row(1.)).expect("fits");
    })?;
    let moved = super::read(&path, -1, Operator::Add)?;
    assert_eq!(moved.set.layers.keys().copied().collect::<Vec<_>>(), [2]);
    assert!(moved.set.provenance.origin.ends_with("layers moved by -1"));
    let message = super::read(&path, -4, Operator::Add)
        .expect_err("below")
        .to_string();
    assert!(message.contains("layer 3 with offset -4"), "{message}");
    let message = super::read(&path, 1, Operator::Add)?
        .set
        .check_model(&path, &spec());
    let message = message.expect_err("above").to_string();
    assert!(
        message.contains("layer 4") && message.contains("0 to 3"),
        "{message}"
    );
    Ok(())
}

#[test]
fn what_is_no_addition_behind_blocks_is_refused_by_name() -> Result<()> {
    let (_directory, path) = directory();
    let row = [1f32; 8];
    type Change = fn(&mut GgufWriter) -> Result<&mut GgufWriter>;
    let cases: [(Change, &str); 14] = [
        (|f| Ok(f.set("glp.mode", Value::U8(1))), "`glp.mode`"),
        (
            |f| Ok(f.text("glp.content_sha256", "00")),
            "`glp.content_sha256`: expected `",
        ),
        (
            |f| Ok(f.text("glp.layer_ids_zero_based", "2")),
            "expected `1`, the layers of its tensors, found `2`",
        ),
        (
            |f| Ok(f.set("glp.layer_ids_zero_based", Value::Bool(false))),
            "a layer offset of -1",
        ),
        (
            |f| f.floats("direction.02", &[8], &[1.; 8]),
            "`direction.02`",
        ),
        (|f| Ok(f.text("glp.mode", "project")), "--operator ablate"),
        (
            |f| Ok(f.text("glp.mode", "multiply")),
            "`glp.mode` = multiply",
        ),
        (
            |f| Ok(f.text("glp.hook_point", "ffn_out_pre_residual")),
            "ffn_out_pre_residual",
        ),
        (
            |f| Ok(f.set("glp.spec_version", Value::U32(2))),
            "rank above 1",
        ),
        (
            |f| f.floats("direction.1.0", &[8], &[1.; 8]),
            "direction.1.0",
        ),
        (|f| f.floats("other", &[8], &[1.; 8]), "`other`"),
        (|f| f.floats("direction.2", &[2, 4], &[1.; 8]), "one row"),
        (|f| f.floats("direction.2", &[4], &[1.; 4]), "8 numbers"),
        (
            |f| f.floats("direction.2", &[8], &[f32::NAN; 8]),
            "non-zero, finite vector, found norm NaN",
        ),
    ];
    for (change, said) in cases {
        theirs(&path, |file| {
            file.floats("direction.1", &[8], &row).expect("fits");
            change(file).expect("fits");
        })?;
        let message = open_directions(&path).expect_err(said).to_string();
        assert!(message.contains(said), "{said}: {message}");
    }
    let model = GgufWriter::new("llama");
    model.write(&path)?;
    let message = open_directions(&path).expect_err("a model").to_string();
    assert!(
        message.contains("`llama`") && message.contains("does not hold directions"),
        "{message}"
    );
    theirs(&path, |file| {
        file.text("general.name", "empty");
    })?;
    let message = open_directions(&path).expect_err("empty").to_string();
    assert!(message.contains("at least one"), "{message}");
    Ok(())
}

#[test]
fn what_a_file_tells_truly_is_no_reason_to_refuse_it() -> Result<()> {
    let (_directory, path) = directory();
    let rows = [[1f32, 0., 0., 0., 0., 0., 0., 2.], [0f32; 8]];
    let bytes: Vec<u8> = rows
        .iter()
        .flatten()
        .flat_map(|x| x.to_le_bytes())
        .collect();
    theirs(&path, |file| {
        file.text("glp.mode", "project");
        file.text("glp.layer_ids_zero_based", "2, 10");
        file.text("glp.content_sha256", files::sha256([bytes.as_slice()]));
        file.text("glp.derived_at", "attn_out_pre_residual");
        file.set("glp.alpha_default", Value::F32(0.5));
        // layers are in the order of their numbers, not of their names
        file.floats("direction.10", &[8], &rows[1]).expect("fits");
        file.floats("direction.2", &[8], &rows[0]).expect("fits");
    })?;
    let read = control_vector::read(&path, 0, Operator::Ablate)?;
    assert_eq!(read.set.layers.keys().copied().collect::<Vec<_>>(), [2]);
    let notes = read.notes.join("\n");
    for said in [
        "attn_out_pre_residual",
        "strength of 0.5",
        "layer 10 is all zeros",
    ] {
        assert!(notes.contains(said), "{said}: {notes}");
    }
    assert_eq!(open_directions_for(&path, Operator::Ablate)?, read.set);
    let message = open_directions_for(&path, Operator::AddNormPreserving).expect_err("projections");
    assert!(message.to_string().contains("--operator ablate"));
    Ok(())
}

#[test]
fn a_hint_that_names_no_other_architecture_is_taken_with_a_note() -> Result<()> {
    let (_directory, path) = directory();
    let opened = |hint: Option<&str>| -> Result<(DirectionSet, Vec<String>)> {
        theirs(&path, |file| {
            if let Some(hint) = hint {
                file.text("controlvector.model_hint", hint);
            }
            file.floats("direction.1", &[8], &[1.; 8]).expect("fits");
            file.floats("direction.4", &[8], &[2.; 8]).expect("fits");
        })?;
        open_directions(&path)?.for_model(&path, &spec())
    };
    let (plain, notes) = opened(None)?;
    let left = "layer 4 is left out: the last layer of small is 3";
    assert!(notes.len() == 1 && notes[0].ends_with(left), "{notes:?}");
    assert_eq!(plain.layers.keys().collect::<Vec<_>>(), [&1]);
    for hint in ["unknown", "llama-3.1", "mistral", "meta-llama/Llama-3.2-1B"] {
        let (set, notes) = opened(Some(hint))?;
        assert_eq!(set.layers, plain.layers, "{hint}");
        let said = format!("made for `{hint}`, as it says; used for small");
        assert!(notes[0].ends_with(&said), "{notes:?}");
    }
    for hint in ["qwen2", "Qwen/Qwen2.5-7B-Instruct", "gemma2"] {
        let message = opened(Some(hint)).expect_err(hint).to_string();
        assert!(
            message.contains(&format!("expected `llama`, found `{hint}`")),
            "{message}"
        );
    }
    Ok(())
}

#[test]
fn vectors_of_attention_heads_are_refused() -> Result<()> {
    let (_directory, path) = directory();
    let native =
        |component: &str| format!("{{\"version\":1,\"component\":{component},\"metadata\":null}}");
    let written = |key: &str, value: Value| {
        theirs(&path, |file| {
            file.set(key, value);
            file.floats("direction.1", &[8], &[1.; 8]).expect("fits");
        })
    };
    for component in ["\"hidden_states\"", "null"] {
        let text = Value::String(native(component));
        written("controlvector.easysteer", text)?;
        assert_eq!(open_directions(&path)?.layers.len(), 1, "{component}");
    }
    for (key, value, said) in [
        (
            "easysteer",
            Value::String(native("\"attention_heads\"")),
            "component `attention_heads`",
        ),
        (
            "easysteer",
            Value::String(native("\"router_logits\"")),
            "component `router_logits`",
        ),
        (
            "easysteer",
            Value::String("{".into()),
            "metadata `controlvector.easysteer`: expected JSON",
        ),
        (
            "component",
            Value::String("attention_heads".into()),
            "component `attention_heads`",
        ),
        ("num_heads", Value::U32(4), "component `attention_heads`"),
    ] {
        written(&format!("controlvector.{key}"), value)?;
        let message = open_directions(&path).expect_err(said).to_string();
        assert!(message.contains(said), "{said}: {message}");
    }
    let path = path.with_extension("svec");
    for more in [
        "\"num_heads\": 2, \"head_dim\": 4",
        "\"probe_accuracies\": {\"1:0\": 0.9}",
    ] {
        let text = format!("{{\"directions\": {{\"1\": [1, 2]}}, {more}}}");
        std::fs::write(&path, text).expect("written");
        let message = open_directions(&path).expect_err(more).to_string();
        assert!(message.contains("attention heads"), "{message}");
    }
    Ok(())
}

#[test]
fn svec_goes_both_ways() -> Result<()> {
    let (directory, _) = directory();
    let (path, set) = (directory.path().join("x.svec"), set()?);
    svec::write(&path, &set, &[0, 2])?;
    let read = open_directions(&path)?;
    assert_eq!(read.layers.keys().copied().collect::<Vec<_>>(), [0, 2]);
    for (layer, d) in &read.layers {
        let before = &set.layers[layer];
        assert!((d.norm - before.norm).abs() < 1e-6);
        let off = d.unit.iter().zip(&before.unit).map(|(a, b)| (a - b).abs());
        assert!(off.fold(0., f32::max) < 1e-6);
    }
    let write = |text: &str| std::fs::write(&path, text).expect("written");
    write(
        r#"{"model_type": "llama", "directions": {"1": [ [1, 2]], "2": [3, 4.5]}, "probe_accuracies": {}}"#,
    );
    assert_eq!(open_directions(&path)?.layers.len(), 2);
    for (text, said) in [
        (r#"{"directions": {"1": [[1, 2], [3, 4]]}}"#, "2 vectors"),
        (r#"{"directions": {"x": [1, 2]}}"#, "`directions.x`"),
        (r#"{"directions": {"1": [1, "2"]}}"#, "`directions.1`"),
        (r#"{"directions": {"1": 1}}"#, "`directions.1`"),
        (r#"{"directions": {"1": [1, 2], "2": [1]}}"#, "layer 2"),
        (r#"{"directions": {}}"#, "at least one"),
        (r#"{"directions": {"1": [1e99, 2]}}"#, "finite"),
        (r#"{"layers": {}}"#, "directions"),
        ("{", "line 1"),
    ] {
        write(text);
        let message = open_directions(&path).expect_err(text).to_string();
        assert!(
            message.contains(said) && message.contains("x.svec"),
            "{said}: {message}"
        );
    }
    Ok(())
}

/// Both kinds of file name the kind of model, in llama.cpp's words.
#[test]
fn files_name_the_architecture_and_are_refused_for_another() -> Result<()> {
    let (_directory, path) = directory();
    for (architecture, hint) in [
        (Architecture::Llama, "llama"),
        (Architecture::Mistral, "llama"),
        (Architecture::Qwen2, "qwen2"),
        (Architecture::Qwen3, "qwen3"),
    ] {
        let mut ours = set()?;
        if architecture != Architecture::Llama {
            ours.provenance.architecture = architecture.to_string();
        }
        control_vector::write(&path, &ours, &[1, 2], Length::Unit)?;
        let file = crate::formats::gguf::Gguf::open(&path)?;
        assert_eq!(file.text("controlvector.model_hint")?, Some(hint));
        let back = open_directions(&path)?;
        assert_eq!(back.provenance, ours.provenance);

        let row = [1f32, 0., 0., 0., 0., 0., 0., 0.];
        theirs(&path, |file| {
            file.text("controlvector.model_hint", hint);
            file.floats("direction.3", &[8], &row).expect("fits");
        })?;
        let foreign = super::read(&path, 0, Operator::Add)?.set;
        for model in Architecture::ALL {
            let model = ModelSpec {
                architecture: model,
                ..spec()
            };
            let fits = crate::model::llama_cpp::architecture(model.architecture) == hint;
            let checked = foreign.check_model(&path, &model);
            assert_eq!(checked.is_ok(), fits, "{hint} for {}", model.architecture);
        }
    }
    Ok(())
}
