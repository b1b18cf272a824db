//! Merged and baked directories: what is in them, and that unmodified mistral.rs 0.8.1
//! computes with them what the hooked Llama computes.

use anyhow::Result;
use candle_core::{DType, Tensor};
use mistralrs_quant::IsqType;
use rand::{Rng, SeedableRng};
use reptune::bake::{self, BakeReport, UQFF, bake};
use reptune::llama::parse_isq;
use reptune::stock::Stock;
use reptune::{Llama, LoadOptions};
use reptune_adapters::direction::{Direction, DirectionSet, Provenance};
use reptune_adapters::low_rank::{LowRank, Projection};
use reptune_adapters::tensor_file::{TensorFile, TensorFileWriter, shards};
use reptune_adapters::{
    Host, Intervention, LowRankUpdate, Operator, Point, Request, RowRule, Site, peft,
};
use reptune_recipes::merge::merge;
use reptune_tests::{
    Oracle, Walk, bits, fixture, flat, llama, logits, marked, pick, random_update, whole,
};
use safetensors::Dtype;
use std::path::Path;
use tempfile::TempDir;

const MODELS: [&str; 2] = ["llama2", "llama32"];

fn prompts() -> Result<Vec<Vec<u32>>> {
    Oracle::read("oracle-llama2.safetensors")?.prompts()
}

/// Layers 1 and 2, with a different direction at each.
fn two_layers(coeff: f64) -> Result<Intervention> {
    let set = Oracle::read("oracle-llama2.safetensors")?.directions()?;
    Ok(Intervention::new(&set, &[1, 2], coeff, Operator::Add)?)
}

fn quantized(isq: IsqType) -> LoadOptions {
    LoadOptions { isq: Some(isq) }
}

/// Logits (T, V) of every prompt in the hooked Llama.
fn ours(
    host: &dyn Host,
    interventions: &[Intervention],
    low_rank: Option<&LowRankUpdate>,
) -> Result<Vec<Tensor>> {
    let (forest, rows) = marked(&prompts()?, interventions);
    let request = Request {
        interventions,
        low_rank,
        ..Request::default()
    };
    let pass = whole(host, &forest, request)?;
    rows.iter().map(|r| pick(logits(&pass), r)).collect()
}

/// The same, each prompt alone: quantized activations are rounded per row, so packing
/// must not matter, but no other prompt should be able to hide that it does.
fn alone(host: &dyn Host, interventions: &[Intervention]) -> Result<Vec<Tensor>> {
    let prompts = prompts()?;
    let one = |prompt: &Vec<u32>| {
        let (forest, rows) = marked(std::slice::from_ref(prompt), interventions);
        let request = Request {
            interventions,
            ..Request::default()
        };
        pick(logits(&whole(host, &forest, request)?), &rows[0])
    };
    prompts.iter().map(one).collect()
}

/// Logits (T, V) of every prompt in unmodified mistral.rs.
fn stock(path: &Path, adapter: Option<&Path>) -> Result<Vec<Tensor>> {
    let stock = Stock::load(path, adapter)?;
    let all = prompts()?;
    all.iter().map(|p| Ok(stock.logits(p)?)).collect()
}

fn same(what: &str, left: &[Tensor], right: &[Tensor]) {
    let mut walk = Walk::default();
    assert_eq!(left.len(), right.len());
    for (i, (l, r)) in left.iter().zip(right).enumerate() {
        walk.check(&format!("{what}: prompt.{i}.logits"), l, r);
    }
    walk.finish(what);
}

/// On the CPU a quantized layer rounds its input to 8 bits. That hides what is left
/// between two ways to the same sum (1e-7), unless a value falls on the other side of a
/// rounding step: from that row on logits move by up to 1e-1, as they do when anything
/// else is nudged by 1e-6. A wrong bias would move every row, by as much as it does.
fn same_but_for_rounding(what: &str, left: &[Tensor], right: &[Tensor], effect: f32) -> Result<()> {
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

fn all_bits(tensors: &[Tensor]) -> Vec<u32> {
    tensors.iter().flat_map(bits).collect()
}

/// Largest difference of any element.
fn distance(left: &[Tensor], right: &[Tensor]) -> f32 {
    let both = left.iter().flat_map(flat).zip(right.iter().flat_map(flat));
    both.fold(0., |most, (l, r)| {
        assert!(l.is_finite() && r.is_finite(), "{l}, {r}");
        most.max((l - r).abs())
    })
}

fn quiet_merge(model: &Path, update: &LowRankUpdate, out: &Path) -> Result<()> {
    merge(model, update, out, &mut |_, _, _| ())?;
    Ok(())
}

fn quiet_bake(
    model: &str,
    interventions: &[Intervention],
    quantize: Option<IsqType>,
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

/// What an error says, with the temporary directory and the fixtures by name.
fn said(error: impl std::fmt::Display, room: &TempDir) -> String {
    let text = error.to_string();
    let text = text.replace(&room.path().display().to_string(), "ROOM");
    text.replace(&fixture("").display().to_string(), "FIXTURES/")
}

/// A copy of a fixture, to be spoilt.
fn copy(name: &str, room: &TempDir) -> Result<std::path::PathBuf> {
    let to = room.path().join(name);
    std::fs::create_dir(&to)?;
    for entry in std::fs::read_dir(fixture(name))? {
        let entry = entry?;
        std::fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(to)
}

/// The adapter of the oracle on llama2, whose scale is 2; one like it on llama32.
fn adapter(model: &str, host: &Llama) -> Result<LowRankUpdate> {
    let update = match model {
        "llama2" => peft::load(&fixture("peft-adapter"), host.spec())?,
        _ => random_update(host.spec(), &[0, 3], &Projection::ALL, 5)?,
    };
    assert!(update.sites.values().all(|l| l.scale == 2.));
    Ok(update)
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
            &format!("{model}, merged, in stock"),
            &stock(&out, None)?,
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
        assert_eq!(names(&out)?, expected);
        assert_eq!(report.files, expected.len());
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
        let mut sites: Vec<String> = update.sites.keys().map(|s| format!("{s}.weight")).collect();
        sites.sort();
        assert_eq!(
            changed, sites,
            "{model}: exactly the updated tensors differ"
        );

        for (site, low_rank) in &update.sites {
            let find = |directory: &Path| -> Result<Tensor> {
                let name = format!("{site}.weight");
                for shard in shards(directory)? {
                    let file = TensorFile::open(&shard)?;
                    if file.info(&name).is_some() {
                        return Ok(file.tensor(&name)?);
                    }
                }
                anyhow::bail!("{name} is nowhere")
            };
            let (before, after) = (find(&from)?, find(&out)?);
            let sum = (before.to_dtype(DType::F32)? + low_rank.delta()?)?;
            let round = |x: f32| {
                if before.dtype() == DType::BF16 {
                    through_bf16(x)
                } else {
                    x
                }
            };
            let expected: Vec<u32> = flat(&sum).into_iter().map(|x| round(x).to_bits()).collect();
            assert_eq!(bits(&after.to_dtype(DType::F32)?), expected, "{site}");
            let m = &report.sites[site];
            let norm = f64::from(
                low_rank
                    .delta()?
                    .sqr()?
                    .sum_all()?
                    .sqrt()?
                    .to_scalar::<f32>()?,
            );
            assert!(
                (m.delta_norm / norm - 1.).abs() < 1e-5,
                "{site}: {m:?}, {norm}"
            );
            assert!(m.changed > 0.5 && m.changed <= 1., "{site}: {m:?}");
        }
        let (site, ratio) = report.largest().expect("sites");
        println!("{model}: largest delta {ratio:.2} of its weight's norm, {site}");
    }
    Ok(())
}

#[test]
fn merging_refuses_what_does_not_fit_and_leaves_nothing() -> Result<()> {
    let (room, base) = (tempfile::tempdir()?, llama("tiny-llama2")?);
    let update = adapter("llama2", &base)?;
    let out = room.path().join("out");
    let refused = |model: &Path, update: &LowRankUpdate| -> String {
        let error = merge(model, update, &out, &mut |_, _, _| ()).expect_err("refused");
        assert!(!out.exists(), "nothing is left");
        said(error, &room)
    };
    let site = Site {
        layer: 1,
        projection: Projection::OProj,
    };
    let low_rank = update.sites[&site].clone();
    let only = |site: Site, low_rank: LowRank| LowRankUpdate {
        sites: [(site, low_rank)].into(),
    };

    let away = only(Site { layer: 9, ..site }, low_rank.clone());
    insta::assert_snapshot!(
        "merge_no_such_site",
        refused(&fixture("tiny-llama2"), &away)
    );
    let projection = Projection::DownProj;
    let wide = only(Site { projection, ..site }, low_rank.clone());
    insta::assert_snapshot!("merge_other_shape", refused(&fixture("tiny-llama2"), &wide));

    let cut = copy("tiny-llama32", &room)?;
    let shard = cut.join("model-00002-of-00003.safetensors");
    let bytes = std::fs::read(&shard)?;
    std::fs::write(&shard, &bytes[..bytes.len() - 100])?;
    insta::assert_snapshot!("merge_truncated", refused(&cut, &update));

    // One weight alone, in other dtypes.
    let name = format!("{site}.weight");
    let odd = room.path().join("odd");
    std::fs::create_dir(&odd)?;
    let write = |dtype: Dtype, bytes: &[u8]| -> Result<()> {
        let path = odd.join("model.safetensors");
        let mut file = TensorFileWriter::create(&path, [name.as_str()])?;
        file.push(&name, dtype, &[32, 32], bytes)?;
        file.finish()?;
        Ok(())
    };
    write(Dtype::I8, &[1; 1024])?;
    let one = only(site, low_rank.clone());
    insta::assert_snapshot!("merge_quantized", refused(&odd, &one));
    write(Dtype::F16, &[0; 2048])?;
    let scale = 1e6;
    let large = only(site, LowRank { scale, ..low_rank });
    insta::assert_snapshot!("merge_overflow", refused(&odd, &large));
    insta::assert_snapshot!("merge_no_weights", refused(&fixture("peft-adapter"), &one));

    let error = merge(&fixture("tiny-llama2"), &update, &cut, &mut |_, _, _| ());
    insta::assert_snapshot!("merge_out_taken", said(error.expect_err("taken"), &room));
    Ok(())
}

/// One test, as it is about what one load leaves for the next on the same thread.
#[test]
fn stock_computes_what_we_compute_with_and_without_an_adapter() -> Result<()> {
    for model in MODELS {
        let (room, name) = (tempfile::tempdir()?, format!("tiny-{model}"));
        let host = llama(&name)?;
        let update = adapter(model, &host)?;
        let plain = stock(&fixture(&name), None)?;
        same(&format!("{model}, stock"), &plain, &ours(&host, &[], None)?);

        peft::save(room.path(), &update, "base")?;
        let tuned = stock(&fixture(&name), Some(room.path()))?;
        same(
            &format!("{model}, stock with the adapter"),
            &tuned,
            &ours(&host, &[], Some(&update))?,
        );
        assert!(distance(&tuned, &plain) > 0.1, "the adapter does something");

        let again = stock(&fixture(&name), None)?;
        assert_eq!(
            all_bits(&again),
            all_bits(&plain),
            "{model}: after an adapter"
        );
    }

    // `layers_to_transform` is unknown to mistral.rs: it looks for the adapter everywhere.
    let raw = Stock::load(&fixture("tiny-llama2"), Some(&fixture("peft-adapter")));
    let message = raw.err().expect("refused").to_string();
    assert!(message.contains("lora_A.weight"), "{message}");
    assert!(!message.contains("0: "), "no backtrace: {message}");
    let mistralrs_is_clear = mistralrs_quant::get_applied_loras().is_empty();
    assert!(mistralrs_is_clear, "also after a load that failed");
    Ok(())
}

#[test]
fn stock_talks() -> Result<()> {
    let oracle = Oracle::read("oracle-llama2.safetensors")?;
    let stock = Stock::load(&fixture("tiny-llama2"), None)?;
    let prompt = &oracle.prompts()?[0];
    let expected = oracle.tokens("prompt.0.greedy")?;
    let path = fixture("tiny-llama2").join("tokenizer.json");
    let tokenizer = tokenizers::Tokenizer::from_file(path).map_err(anyhow::Error::msg)?;
    let text = tokenizer
        .decode(&expected, true)
        .map_err(anyhow::Error::msg)?;
    assert_eq!(stock.generate(prompt, expected.len())?, text);

    let turn = |role: &str, content: &str| (role.to_owned(), content.to_owned());
    let turns = [turn("system", "Be brief."), turn("user", "Is ice cold?")];
    let templated = "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nIs ice cold? [/INST]";
    for (special, read) in [(true, true), (false, false)] {
        // Both the template and the tokenizer write <s>, and mistral.rs reads both.
        let ids = tokenizer
            .encode(templated, special)
            .map_err(anyhow::Error::msg)?;
        let text = stock.generate(ids.get_ids(), 12)?;
        assert_eq!(
            stock.chat(&turns, 12)? == text,
            read,
            "special tokens: {special}"
        );
    }
    Ok(())
}

#[test]
fn a_bake_is_the_intervention_in_stock_and_in_our_llama() -> Result<()> {
    for model in MODELS {
        let (room, name) = (tempfile::tempdir()?, format!("tiny-{model}"));
        let host = llama(&name)?;
        let out = |n: &str| room.path().join(n);

        let plain = stock(&fixture(&name), None)?;
        quiet_bake(&name, &[two_layers(0.)?], None, &out("zero"))?;
        assert_eq!(
            all_bits(&stock(&out("zero"), None)?),
            all_bits(&plain),
            "{model}: coeff 0 is the base, bit for bit"
        );

        let steering = [two_layers(6.)?];
        let report = quiet_bake(&name, &steering, None, &out("two"))?;
        assert_eq!(report.biases.keys().copied().collect::<Vec<_>>(), [1, 2]);
        assert!(
            report.biases.values().all(|n| (n - 3.).abs() < 1e-5),
            "{report:?}"
        );
        assert_eq!(report.full, [""; 0]);
        let file = out("two").join(UQFF);
        assert_eq!(report.bytes, std::fs::metadata(&file)?.len());
        let steered = ours(&host, &steering, None)?;
        assert!(
            distance(&steered, &plain) > 0.1,
            "{model}: it does something"
        );
        let baked = stock(&out("two"), None)?;
        same(&format!("{model}, baked, in stock"), &baked, &steered);
        assert_eq!(
            all_bits(&stock(&file, None)?),
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
        let input = Intervention::new(&set, &[2], 3., Operator::Add)?.at(Point::Input);
        let both = [input, two_layers(-5.)?];
        let biases = bake::additions(host.spec(), &both)?;
        assert_eq!(biases.keys().copied().collect::<Vec<_>>(), [1, 2]);
        quiet_bake(&name, &both, None, &out("both"))?;
        same(
            &format!("{model}, several, baked, in stock"),
            &stock(&out("both"), None)?,
            &ours(&host, &both, None)?,
        );

        quiet_bake(&name, &steering, None, &out("again"))?;
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
        let (isq, steering) = (IsqType::Q8_0, [two_layers(6.)?]);
        let report = quiet_bake(&name, &steering, Some(isq), &out("baked"))?;
        // 56 is not made of blocks of 32.
        assert!(report.full.iter().all(|n| n.ends_with("down_proj.weight")));
        assert_eq!(report.full.len(), 4);

        let base = Llama::load(&fixture(&name), quantized(isq))?;
        let (plain, steered) = (alone(&base, &[])?, alone(&base, &steering)?);
        let full = ours(&llama(&name)?, &[], None)?;
        assert!(distance(&plain, &full) > 1e-3, "it is quantized");
        let effect = distance(&plain, &steered);
        assert!(effect > 1., "the intervention does something: {effect}");

        let baked = Llama::load(&out("baked"), LoadOptions::default())?;
        let (baked, served) = (alone(&baked, &[])?, stock(&out("baked"), None)?);
        let check = |which: &str, left: &[Tensor], right: &[Tensor]| {
            same_but_for_rounding(&format!("{model}, q8_0, {which}"), left, right, effect)
        };
        check("baked, in ours", &baked, &steered)?;
        check("baked, in stock", &served, &steered)?;
        quiet_bake(&name, &[], Some(isq), &out("plain"))?;
        let unbiased = stock(&out("plain"), None)?;
        check("without bias, in stock", &unbiased, &plain)?;
        quiet_bake(&name, &[two_layers(0.)?], Some(isq), &out("zero"))?;
        let zero = stock(&out("zero"), None)?;
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
        for projection in Projection::ALL {
            let shape = match projection {
                Projection::QProj | Projection::OProj => vec![256, 256],
                Projection::KProj | Projection::VProj => vec![128, 256],
                Projection::GateProj | Projection::UpProj => vec![512, 256],
                Projection::DownProj => vec![256, 512],
            };
            shapes.push((format!("{}.weight", Site { layer, projection }), shape));
        }
    }
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(3);
    let names = shapes.iter().map(|s| s.0.as_str());
    let mut file = TensorFileWriter::create(&to.join("model.safetensors"), names)?;
    for (name, shape) in &shapes {
        let bytes: Vec<u8> = (0..shape.iter().product())
            .flat_map(|_| match shape.len() {
                1 => 1f32.to_le_bytes(),
                _ => rng.random_range(-0.12f32..0.12).to_le_bytes(),
            })
            .collect();
        file.push(name, Dtype::F32, shape, &bytes)?;
    }
    file.finish()?;
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
    let steering = [Intervention::new(&set, &[0, 1], 12., Operator::Add)?];
    for name in [
        "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2k", "q3k", "q4k", "q5k", "q6k",
    ] {
        let isq = parse_isq(name)?;
        let out = room.path().join(name);
        let report = bake(&model, &steering, Some(isq), &out, &mut |_, _| ())?;
        assert_eq!(report.full, [""; 0]);
        let base = Llama::load(&model, quantized(isq))?;
        let (plain, steered) = (alone(&base, &[])?, alone(&base, &steering)?);
        let baked = alone(&Llama::load(&out, LoadOptions::default())?, &[])?;
        let served = stock(&out, None)?;
        let effect = distance(&plain, &steered);
        assert!(
            effect > 1.,
            "{name}: the intervention does something: {effect}"
        );
        same_but_for_rounding(&format!("{name}, baked, in ours"), &baked, &steered, effect)?;
        same_but_for_rounding(
            &format!("{name}, baked, in stock"),
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
    let add = |layers: &[usize]| Intervention::new(&set, layers, 6., Operator::Add);
    let refused = |interventions: &[Intervention], isq: Option<IsqType>| -> String {
        let error = quiet_bake("tiny-llama2", interventions, isq, &out).expect_err("refused");
        assert!(!out.exists(), "nothing is left");
        assert_eq!(std::fs::read_dir(room.path()).map_or(9, Iterator::count), 0);
        said(error, &room)
    };
    let ablation = Intervention::new(&set, &[1, 2], 0., Operator::Ablate)?;
    insta::assert_snapshot!("bake_ablation", refused(&[ablation], None));
    let rows = add(&[1])?.on(RowRule::Last(3));
    insta::assert_snapshot!("bake_rows", refused(&[add(&[2])?, rows], None));
    let input = add(&[0, 1])?.at(Point::Input);
    insta::assert_snapshot!("bake_embeddings", refused(&[input], None));

    let mut far = set.clone();
    far.layers.insert(7, far.layers[&3].clone());
    let far = Intervention::new(&far, &[7], 1., Operator::Add)?;
    insta::assert_snapshot!("bake_no_such_layer", refused(&[far], None));
    let mut narrow = set.clone();
    let short = narrow.layers.get_mut(&1).expect("layer 1");
    short.unit = vec![0.5; 4];
    let narrow = Intervention::new(&narrow, &[1], 1., Operator::Add)?;
    insta::assert_snapshot!("bake_other_width", refused(&[narrow], None));

    insta::assert_snapshot!("bake_hqq4", refused(&[add(&[1])?], Some(IsqType::HQQ4)));
    insta::assert_snapshot!("bake_q4k", refused(&[add(&[1])?], Some(IsqType::Q4K)));

    quiet_bake("tiny-llama2", &[], None, &out)?;
    let baked = bake(&out, &[], None, &room.path().join("twice"), &mut |_, _| ());
    insta::assert_snapshot!("bake_a_uqff", said(baked.expect_err("refused"), &room));
    let adapter = Stock::load(&out, Some(&fixture("peft-adapter")));
    let adapter = adapter.err().expect("refused");
    insta::assert_snapshot!("stock_adapter_on_uqff", said(adapter, &room));
    Ok(())
}
