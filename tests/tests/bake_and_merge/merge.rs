//! Merged checkpoints: what is in their files, and that they are the unmerged model.

use super::{MODELS, adapter, copy, distance, in_stock, ours, said, same};
use anyhow::Result;
use candle_core::{DType, Tensor};
use reptune::{Llama, LoadOptions};
use reptune_adapters::formats::safetensors::{TensorFile, TensorFileWriter, shards};
use reptune_adapters::lora::WeightDelta;
use reptune_adapters::model::ModuleKind;
use reptune_adapters::{Adapter, TargetModule};
use reptune_recipes::merge::{FILE, Merged, merge};
use reptune_tests::{bits, fixture, flat, llama};
use safetensors::Dtype;
use std::path::Path;

fn quiet_merge(model: &Path, update: &Adapter, out: &Path) -> Result<()> {
    merge(model, update, out, &mut |_, _, _| ())?;
    Ok(())
}

#[test]
fn merged_equals_unmerged() -> Result<()> {
    for model in MODELS {
        let (room, base) = (tempfile::tempdir()?, llama(&format!("tiny-{model}"))?);
        let update = adapter(model, &base)?;
        let out = room.path().join("merged");
        quiet_merge(&fixture(&format!("tiny-{model}")), &update, &out)?;
        let merged = Llama::load(&out, LoadOptions::default())?;
        let (merged, unmerged) = (ours(&merged, &[], None)?, ours(&base, &[], Some(&update))?);
        let effect = distance(&ours(&base, &[], None)?, &unmerged);
        let off = distance(&merged, &unmerged);
        println!("{model}: merged to unmerged {off:.1e}, effect of the update {effect:.1e}");
        assert!(effect > 0.1, "{model}: the update does something: {effect}");
        match model {
            "llama2" => same("llama2, merged", &merged, &unmerged),
            // Rounded to bf16, to 8 bits: the weights are compared bit for bit below.
            _ => assert!(off < effect / 20., "{off} of {effect}"),
        }
        same(
            &format!("{model}, merged, in engine"),
            &in_stock(&out, None)?,
            &merged,
        );
    }
    Ok(())
}

/// f32 to bf16 and back, to nearest, ties to even; written out, as the code under test
/// uses a library.
fn through_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    let odd = (bits >> 16) & 1;
    f32::from_bits((bits + 0x7fff + odd) & 0xffff_0000)
}

#[test]
fn a_merged_checkpoint_has_the_same_files_names_dtypes_and_untouched_bytes() -> Result<()> {
    for model in MODELS {
        let (room, base) = (tempfile::tempdir()?, llama(&format!("tiny-{model}"))?);
        let from = copy(&format!("tiny-{model}"), &room)?;
        std::fs::write(from.join("LICENSE"), "text")?;
        std::fs::write(from.join("pytorch_model.bin"), "weights")?;
        std::fs::write(from.join("pytorch_model.bin.index.json"), "{}")?;
        std::fs::write(from.join("consolidated.safetensors"), "weights")?;
        std::fs::create_dir(from.join("original"))?;
        let update = adapter(model, &base)?;
        let (out, mut heard) = (room.path().join("merged"), Vec::new());
        let report = merge(&from, &update, &out, &mut |path, done, of| {
            heard.push((path.to_owned(), done, of));
        })?;

        let names = |directory: &Path| -> Result<Vec<String>> {
            let entries = std::fs::read_dir(directory)?;
            let mut names = entries
                .map(|e| Ok(e?.file_name().to_string_lossy().into_owned()))
                .collect::<Result<Vec<_>>>()?;
            names.sort();
            Ok(names)
        };
        let mut expected = names(&fixture(&format!("tiny-{model}")))?;
        expected.push("LICENSE".into());
        expected.sort();
        let mut and_told = expected.clone();
        and_told.push(FILE.into());
        and_told.sort();
        assert_eq!(names(&out)?, and_told);
        assert_eq!(report.files, and_told.len());
        let all = shards(&from)?;
        let told = all.iter().cloned().zip(1..).map(|(p, i)| (p, i, all.len()));
        assert_eq!(heard, told.collect::<Vec<_>>());

        let mut changed = Vec::new();
        for name in expected.iter().map(String::as_str) {
            let (before, after) = (from.join(name), out.join(name));
            if !name.ends_with(".safetensors") {
                assert_eq!(std::fs::read(before)?, std::fs::read(after)?, "{name}");
                continue;
            }
            let (before, after) = (TensorFile::open(&before)?, TensorFile::open(&after)?);
            assert_eq!(before.names(), after.names(), "{name}");
            for tensor in before.names() {
                let what = |f: &TensorFile| format!("{:?}", f.info(&tensor));
                assert_eq!(what(&before), what(&after), "{tensor}");
                if before.bytes(&tensor)? != after.bytes(&tensor)? {
                    changed.push(tensor);
                }
            }
            // Beside the changed tensors, header and metadata are the same to the byte.
            let start = before.names().iter().filter_map(|n| before.place(n)).min();
            let start = start.map_or(0, |(offset, _)| offset as usize);
            let (b, a) = (from.join(name), out.join(name));
            assert_eq!(std::fs::read(b)?[..start], std::fs::read(a)?[..start]);
        }
        changed.sort();
        let mut modules: Vec<String> = update
            .modules
            .keys()
            .map(|s| format!("{s}.weight"))
            .collect();
        modules.sort();
        assert_eq!(
            changed, modules,
            "{model}: exactly the updated tensors differ"
        );

        for (module, adapter) in &update.modules {
            let find = |directory: &Path| -> Result<Tensor> {
                let name = format!("{module}.weight");
                for shard in shards(directory)? {
                    let file = TensorFile::open(&shard)?;
                    if file.info(&name).is_some() {
                        return Ok(file.tensor(&name)?);
                    }
                }
                anyhow::bail!("{name} is nowhere")
            };
            let (before, after) = (find(&from)?, find(&out)?);
            let sum = (before.to_dtype(DType::F32)? + adapter.delta()?)?;
            let round = |x: f32| {
                if before.dtype() == DType::BF16 {
                    through_bf16(x)
                } else {
                    x
                }
            };
            let expected: Vec<u32> = flat(&sum).into_iter().map(|x| round(x).to_bits()).collect();
            assert_eq!(bits(&after.to_dtype(DType::F32)?), expected, "{module}");
            let m = &report.modules[module];
            let norm = f64::from(
                adapter
                    .delta()?
                    .sqr()?
                    .sum_all()?
                    .sqrt()?
                    .to_scalar::<f32>()?,
            );
            assert!(
                (m.delta_norm / norm - 1.).abs() < 1e-5,
                "{module}: {m:?}, {norm}"
            );
            assert!(m.changed > 0.5 && m.changed <= 1., "{module}: {m:?}");
        }
        let (module, ratio) = report.largest().expect("modules");
        println!("{model}: largest delta {ratio:.2} of its weight's norm, {module}");
    }
    Ok(())
}

#[test]
fn merging_refuses_what_does_not_fit_and_leaves_nothing() -> Result<()> {
    let (room, base) = (tempfile::tempdir()?, llama("tiny-llama2")?);
    let update = adapter("llama2", &base)?;
    let out = room.path().join("out");
    let refused = |model: &Path, update: &Adapter| -> String {
        let error = merge(model, update, &out, &mut |_, _, _| ()).expect_err("refused");
        assert!(!out.exists(), "nothing is left");
        said(error, &room)
    };
    let module = TargetModule {
        layer: 1,
        kind: ModuleKind::OProj,
    };
    let adapter = update.modules[&module].clone();
    let only = |module: TargetModule, adapter: WeightDelta| Adapter {
        modules: [(module, adapter)].into(),
    };

    let away = only(TargetModule { layer: 9, ..module }, adapter.clone());
    insta::assert_snapshot!(
        "merge_no_such_site",
        refused(&fixture("tiny-llama2"), &away)
    );
    let kind = ModuleKind::DownProj;
    let wide = only(TargetModule { kind, ..module }, adapter.clone());
    insta::assert_snapshot!("merge_other_shape", refused(&fixture("tiny-llama2"), &wide));

    let cut = copy("tiny-llama32", &room)?;
    let shard = cut.join("model-00002-of-00003.safetensors");
    let bytes = std::fs::read(&shard)?;
    std::fs::write(&shard, &bytes[..bytes.len() - 100])?;
    insta::assert_snapshot!("merge_truncated", refused(&cut, &update));

    // One weight alone, in other dtypes.
    let name = format!("{module}.weight");
    let odd = room.path().join("odd");
    std::fs::create_dir(&odd)?;
    let write = |dtype: Dtype, bytes: &[u8]| -> Result<()> {
        let path = odd.join("model.safetensors");
        let mut file = TensorFileWriter::create((&path, &path), [name.as_str()], 0)?;
        file.push(&name, dtype, &[32, 32], bytes)?;
        file.finish(Default::default())?;
        Ok(())
    };
    write(Dtype::I8, &[1; 1024])?;
    let one = only(module, adapter.clone());
    insta::assert_snapshot!("merge_quantized", refused(&odd, &one));
    write(Dtype::F16, &[0; 2048])?;
    let scale = 1e6;
    let large = only(module, WeightDelta { scale, ..adapter });
    insta::assert_snapshot!("merge_overflow", refused(&odd, &large));
    insta::assert_snapshot!("merge_no_weights", refused(&fixture("peft-adapter"), &one));

    let error = merge(&fixture("tiny-llama2"), &update, &cut, &mut |_, _, _| ());
    insta::assert_snapshot!("merge_out_taken", said(error.expect_err("taken"), &room));
    Ok(())
}

#[test]
fn a_merged_checkpoint_tells_what_is_in_it_and_a_change_is_found() -> Result<()> {
    let (room, base) = (tempfile::tempdir()?, llama("tiny-llama2")?);
    let update = adapter("llama2", &base)?;
    let at = |n: &str| room.path().join(n);
    quiet_merge(&fixture("tiny-llama2"), &update, &at("once"))?;
    quiet_merge(&at("once"), &update, &at("twice"))?;
    assert_eq!(Merged::read(&fixture("tiny-llama2"))?, None);
    let once = Merged::read(&at("once"))?.expect("merged");
    let twice = Merged::read(&at("twice"))?.expect("merged");
    assert_eq!(once.updates, [update.content_hash()?]);
    assert_eq!(
        twice.updates,
        [once.updates.clone(), once.updates.clone()].concat()
    );
    assert_eq!(once.tensors.len(), update.modules.len());
    assert_ne!(once.tensors, twice.tensors);
    once.verify(&at("once"))?;
    twice.verify(&at("twice"))?;

    let message = said(once.verify(&at("twice")).expect_err("another"), &room);
    assert!(
        message.contains("SHA-256") && message.contains("merge again"),
        "{message}"
    );
    std::fs::write(at("once").join(FILE), "{}")?;
    let message = said(Merged::read(&at("once")).expect_err("broken"), &room);
    assert!(message.contains("reptune.merged.1"), "{message}");
    Ok(())
}
