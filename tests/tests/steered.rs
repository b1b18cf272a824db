//! Steering and tuning on mistral.rs's own builder: what it computes then, and that it
//! computes as before where nothing is added.

use anyhow::{Context, Result};
use candle_core::Tensor;
use mistralrs::{
    IsqType, Model, ModelDType, NormalRequest, Request as Asked, RequestMessage, ResponseOk,
    SamplingParams, TextModelBuilder,
};
use reptune::bake::bake;
use reptune::model::uqff::WeightType;
use reptune::runtime::Engine;
use reptune::store::Store;
use reptune::{Llama, LoadOptions, Steer, Steered, Steering};
use reptune_adapters::model::ModuleKind;
use reptune_adapters::steering::direction::{Direction, DirectionSet, Provenance};
use reptune_adapters::{
    Adapter, Dose, ForwardOptions, HookPoint, HookedModel, Intervention, Operator, lora::peft,
};
use reptune_tests::{
    Oracle, Walk, bits, fixture, flat, llama, logits, marked, pick, random_update, whole,
};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const LAYERS: [usize; 2] = [1, 2];
const COEFF: f64 = 3.;

struct Room {
    room: TempDir,
    llama: Llama,
    prompts: Vec<Vec<u32>>,
    runtime: tokio::runtime::Runtime,
}

impl Room {
    /// With the tiny Llama of the oracle, and its directions.
    fn new() -> Result<Self> {
        let set = Oracle::read("oracle-llama2.safetensors")?.directions()?;
        let prompts = Oracle::read("oracle-llama2.safetensors")?.prompts()?;
        Self::of(llama("tiny-llama2")?, set, prompts)
    }

    /// With the mini-Llama, whose rows are long enough to be quantized.
    fn mini() -> Result<Self> {
        let llama = Llama::load(&mini(), LoadOptions::default())?;
        let hidden = llama.spec().hidden;
        let wave = |l: usize| {
            let v: Vec<f64> = (0..hidden).map(|i| ((i * (7 + l)) as f64).sin()).collect();
            Ok((l, Direction::new(&v)?))
        };
        let set = DirectionSet {
            layers: (0..llama.spec().layers).map(wave).collect::<Result<_>>()?,
            provenance: Provenance::default(),
        };
        Self::of(llama, set, vec![vec![0, 5, 9, 100, 200], vec![0, 700, 3]])
    }

    fn of(llama: Llama, mut set: DirectionSet, prompts: Vec<Vec<u32>>) -> Result<Self> {
        let room = tempfile::tempdir()?;
        let spec = llama.spec();
        set.provenance = Provenance {
            model: spec.name.clone(),
            model_fingerprint: spec.fingerprint.clone(),
            model_layers: spec.layers,
            ..Provenance::default()
        };
        set.save(&room.path().join("d.safetensors"))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        Ok(Self {
            prompts,
            room,
            llama,
            runtime,
        })
    }

    fn file(&self) -> PathBuf {
        self.room.path().join("d.safetensors")
    }

    fn cache(&self) -> Result<Store> {
        Ok(Store::at(self.room.path().join("cache"))?)
    }

    fn steering(&self, coeff: f64) -> Result<Steering> {
        Ok(Steering::from_file(self.file())?.layers(1..=2).total(coeff))
    }

    fn interventions(&self, coeff: f64) -> Result<Vec<Intervention>> {
        let set = DirectionSet::load(&self.file())?;
        Ok(vec![Intervention::new(
            &set,
            &LAYERS,
            Dose::Total(coeff),
            Operator::Add,
        )?])
    }

    /// Logits (T, V) of every prompt as our own forward computes them.
    fn ours(
        &self,
        interventions: &[Intervention],
        adapter: Option<&Adapter>,
    ) -> Result<Vec<Tensor>> {
        let (tree, rows) = marked(&self.prompts, interventions);
        let request = ForwardOptions {
            interventions,
            adapter,
            ..ForwardOptions::default()
        };
        let pass = whole(&self.llama, &tree, request)?;
        rows.iter().map(|r| pick(logits(&pass), r)).collect()
    }

    /// The same in what `builder` loads.
    fn built(&self, builder: Steered) -> Result<Vec<Tensor>> {
        let builder = builder.with_cache(self.cache()?);
        self.runtime.block_on(async {
            let model = builder.build().await?;
            self.asked(&model).await
        })
    }

    fn plain(&self, builder: TextModelBuilder) -> Result<Vec<Tensor>> {
        self.runtime
            .block_on(async { self.asked(&builder.build().await?).await })
    }

    async fn asked(&self, model: &Model) -> Result<Vec<Tensor>> {
        let mut all = Vec::new();
        for ids in &self.prompts {
            let (tx, mut rx) = tokio::sync::mpsc::channel(1);
            let engine = model.inner();
            let message = RequestMessage::CompletionTokens(ids.clone());
            let id = engine.next_request_id();
            let mut request = NormalRequest::new_simple(
                message,
                SamplingParams::deterministic(),
                tx,
                id,
                None,
                None,
            );
            request.return_raw_logits = true;
            engine
                .get_sender(None)?
                .send(Asked::Normal(Box::new(request)))
                .await?;
            let answer = rx.recv().await.context("an answer")?.as_result();
            let Ok(ResponseOk::Raw { logits_chunks, .. }) = answer else {
                anyhow::bail!("no logits");
            };
            all.push(Tensor::cat(&logits_chunks, 0)?.to_dtype(candle_core::DType::F32)?);
        }
        Ok(all)
    }

    fn baked(&self, coeff: f64, stored: WeightType) -> Result<Vec<Tensor>> {
        let out = tempfile::tempdir_in(self.room.path())?;
        let interventions = self.interventions(coeff)?;
        bake(
            Path::new(&self.llama.spec().name),
            &interventions,
            stored,
            &out.path().join("b"),
            &mut |_, _| {},
        )?;
        let loaded = Engine::load(&out.path().join("b"), None)?;
        self.prompts.iter().map(|p| Ok(loaded.logits(p)?)).collect()
    }
}

fn mini() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/honest-mini")
}

fn mini_auto() -> TextModelBuilder {
    TextModelBuilder::new(mini().display())
        .with_force_cpu()
        .with_prefix_cache_n(None)
}

fn mini_f32() -> TextModelBuilder {
    mini_auto().with_dtype(ModelDType::F32)
}

fn tiny() -> TextModelBuilder {
    TextModelBuilder::new(fixture("tiny-llama2").display())
        .with_force_cpu()
        .with_prefix_cache_n(None)
}

fn tiny_f32() -> TextModelBuilder {
    tiny().with_dtype(ModelDType::F32)
}

fn same(what: &str, left: &[Tensor], right: &[Tensor]) {
    let mut walk = Walk::default();
    for (i, (l, r)) in left.iter().zip(right).enumerate() {
        walk.check(&format!("{what}: prompt.{i}"), l, r);
    }
    walk.finish(what);
}

fn all_bits(tensors: &[Tensor]) -> Vec<u32> {
    tensors.iter().flat_map(bits).collect()
}

fn distance(left: &[Tensor], right: &[Tensor]) -> f32 {
    let both = left.iter().flat_map(flat).zip(right.iter().flat_map(flat));
    both.fold(0., |most, (l, r)| most.max((l - r).abs()))
}

#[test]
fn a_steered_builder_computes_what_our_own_forward_does() -> Result<()> {
    let room = Room::new()?;
    let steered = room.built(tiny_f32().steered(room.steering(COEFF)?))?;
    same(
        "steered",
        &steered,
        &room.ours(&room.interventions(COEFF)?, None)?,
    );
    let base = room.plain(tiny_f32())?;
    println!("steering moves logits by {}", distance(&steered, &base));
    assert!(distance(&steered, &base) > 0.1);
    assert_eq!(
        all_bits(&steered),
        all_bits(&room.baked(COEFF, WeightType::F32)?),
        "as a bake"
    );
    // Two files, one of them at the input of a block, add up.
    let one = Steering::from_file(room.file())?.layers([1]).coeff(2.);
    let other = Steering::from_file(room.file())?
        .layers([3])
        .coeff(-1.5)
        .at(HookPoint::ResidPre);
    let both = room.built(tiny_f32().steered(one.clone()).steered(other.clone()))?;
    let interventions = one.and(other).interventions(room.llama.spec())?;
    same("two files", &both, &room.ours(&interventions, None)?);
    Ok(())
}

#[test]
fn where_nothing_is_added_the_builder_keeps_its_bits() -> Result<()> {
    let room = Room::mini()?;
    for (what, builder) in [
        ("f32", mini_f32()),
        ("auto", mini_auto()),
        ("q8_0", mini_f32().with_isq(IsqType::Q8_0)),
        ("q8_0, auto", mini_auto().with_isq(IsqType::Q8_0)),
    ] {
        let plain = room.plain(builder.clone())?;
        let still = room.built(builder.clone().steered(room.steering(0.)?))?;
        assert_eq!(all_bits(&still), all_bits(&plain), "{what}, coeff 0");
        // and so it does by way of the files: what is added moves the logits a little only
        let hardly = room.built(builder.clone().steered(room.steering(1e-30)?))?;
        assert_eq!(all_bits(&hardly), all_bits(&plain), "{what}, hardly");
        let steered = room.built(builder.steered(room.steering(10. * COEFF)?))?;
        assert!(distance(&steered, &plain) > 0.1, "{what}");
    }
    Ok(())
}

#[test]
fn settings_of_the_builder_are_kept_whatever_lies_in_the_cache() -> Result<()> {
    let room = Room::mini()?;
    let expected = room.ours(&room.interventions(10. * COEFF)?, None)?;
    let quantized = room.baked(
        10. * COEFF,
        WeightType::Ggml(candle_core::quantized::GgmlDType::Q8_0),
    )?;
    for _ in 0..2 {
        let builder = mini_f32().with_isq(IsqType::Q8_0);
        let steered = room.built(builder.steered(room.steering(10. * COEFF)?))?;
        assert_eq!(all_bits(&steered), all_bits(&quantized), "q8_0");
        let steered = room.built(mini_f32().steered(room.steering(10. * COEFF)?))?;
        same("f32", &steered, &expected);
        // f16: another file again, and a bias of its type
        let steered = room.built(mini_auto().steered(room.steering(10. * COEFF)?))?;
        let off = distance(&steered, &expected);
        println!("f16 is {off} off");
        assert!(off > 0. && off < 0.05, "{off}");
    }
    Ok(())
}

#[test]
fn a_tuned_builder_takes_a_local_directory_and_the_next_one_does_not_get_it() -> Result<()> {
    let room = Room::new()?;
    let (adapter, update) = (
        room.room.path().join("adapter"),
        random_update(room.llama.spec(), &[0, 3], &ModuleKind::ALL, 5)?,
    );
    peft::save(&adapter, &update, "tiny")?;
    let base = room.plain(tiny_f32())?;
    let tuned = room.built(tiny_f32().tuned(&adapter))?;
    same("tuned", &tuned, &room.ours(&[], Some(&update))?);
    assert!(distance(&tuned, &base) > 0.1);
    let both = room.built(tiny_f32().tuned(&adapter).steered(room.steering(COEFF)?))?;
    same(
        "tuned, then steered",
        &both,
        &room.ours(&room.interventions(COEFF)?, Some(&update))?,
    );
    let turned = room.built(tiny_f32().steered(room.steering(COEFF)?).tuned(&adapter))?;
    assert_eq!(
        all_bits(&turned),
        all_bits(&both),
        "the order of the calls does not matter"
    );
    // Of PEFT's own making.
    let theirs = peft::load(&fixture("peft-adapter"), room.llama.spec())?;
    let tuned = room.built(tiny_f32().tuned(fixture("peft-adapter")))?;
    same("tuned by PEFT", &tuned, &room.ours(&[], Some(&theirs))?);
    // A load that fails leaves nothing behind either, nor does one that quantizes. All on one thread, where the list is.
    let alone = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(1)
        .enable_all()
        .build()?;
    let broken = room.room.path().join("broken");
    std::fs::create_dir(&broken)?;
    for file in [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
    ] {
        std::fs::copy(fixture("tiny-llama2").join(file), broken.join(file))?;
    }
    std::fs::write(broken.join("model.safetensors"), "no")?;
    let failing = TextModelBuilder::new(broken.display())
        .with_force_cpu()
        .with_dtype(ModelDType::F32);
    alone.block_on(async {
        let failed = failing.tuned(&adapter).build().await;
        assert!(failed.is_err_and(|e| e.to_string().contains("broken")));
        let quantized = TextModelBuilder::new(mini().display()).with_force_cpu();
        let quantized = quantized.with_isq(IsqType::Q8_0);
        Steered::from(quantized).build().await?;
        anyhow::Ok(())
    })?;
    let next = alone.block_on(async {
        let model = Steered::from(tiny_f32()).build().await?;
        room.asked(&model).await
    })?;
    assert_eq!(all_bits(&next), all_bits(&base));
    Ok(())
}

#[test]
fn files_are_made_once_verified_and_made_again_when_they_are_broken() -> Result<()> {
    let room = Room::new()?;
    let build = || room.built(tiny_f32().steered(room.steering(COEFF)?));
    let stamps = || -> Result<Vec<(PathBuf, std::time::SystemTime)>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(room.room.path().join("cache"))? {
            let path = entry?.path();
            let inner: Vec<PathBuf> = match path.is_dir() {
                true => std::fs::read_dir(&path)?
                    .map(|f| Ok(f?.path()))
                    .collect::<Result<_>>()?,
                false => Vec::new(),
            };
            // The list of an entry may be written anew when its hashes are checked.
            for file in inner.into_iter().filter(|f| !f.ends_with("files.json")) {
                files.push((file.clone(), std::fs::metadata(&file)?.modified()?));
            }
        }
        files.sort();
        Ok(files)
    };
    let first = build()?;
    let made = stamps()?;
    assert!(
        made.iter()
            .any(|(f, _)| f.extension().is_some_and(|e| e == "uqff")),
        "{made:?}"
    );
    assert_eq!(all_bits(&build()?), all_bits(&first));
    assert_eq!(stamps()?, made, "nothing is written again");
    for (file, _) in made
        .iter()
        .filter(|(f, _)| f.extension().is_some_and(|e| e == "uqff"))
    {
        let mut bytes = std::fs::read(file)?;
        let last = bytes.len() - 9;
        bytes[last] ^= 1;
        std::fs::write(file, &bytes)?;
        assert_eq!(
            all_bits(&build()?),
            all_bits(&first),
            "a flipped bit in {}",
            file.display()
        );
        std::fs::write(file, &bytes[..100])?;
        assert_eq!(all_bits(&build()?), all_bits(&first), "cut off");
    }
    // Two at once, from nothing; again and again, as which of them is polled first changes.
    for _ in 0..3 {
        std::fs::remove_dir_all(room.room.path().join("cache"))?;
        let cache = room.cache()?;
        let [one, other] = room.runtime.block_on(async {
            let builder = tiny_f32().steered(room.steering(COEFF)?).with_cache(cache);
            let (one, other) = tokio::join!(builder.clone().build(), builder.build());
            anyhow::Ok([room.asked(&one?).await?, room.asked(&other?).await?])
        })?;
        assert_eq!(all_bits(&one), all_bits(&first));
        assert_eq!(all_bits(&other), all_bits(&first));
    }
    Ok(())
}

#[test]
fn what_does_not_fit_is_told_with_the_file_and_what_it_holds() -> Result<()> {
    let room = Room::new()?;
    let file = || Steering::from_file(room.file());
    let refused = |steering: Steering| -> String {
        let error = room
            .built(tiny_f32().steered(steering))
            .expect_err("refused");
        error
            .to_string()
            .replace(&room.room.path().display().to_string(), "ROOM")
    };
    for (steering, said) in [
        (
            file()?.coeff(1.),
            "ROOM/d.safetensors: layers: expected some of the layers of this file, [0, 1, 2, 3], found none",
        ),
        (file()?.layers([1, 9]).coeff(1.), "found layer 9"),
        (
            file()?.layers([1]),
            "ROOM/d.safetensors: dose: expected a coeff or a fraction, found neither",
        ),
        (
            file()?.layers([1]).fraction(0.5),
            "a reference norm for layer 1",
        ),
        (
            file()?.layers([1]).coeff(f64::NAN),
            "coeff: expected a finite number, found NaN",
        ),
        (
            file()?.layers([0]).coeff(1.).at(HookPoint::ResidPre),
            "cannot bake an addition at the input of layer 0",
        ),
    ] {
        let message = refused(steering);
        assert!(message.contains(said), "{message}");
    }
    let missing =
        Steering::from_file(room.room.path().join("no.safetensors")).expect_err("missing");
    assert!(missing.to_string().contains("no.safetensors"), "{missing}");
    let other = TextModelBuilder::new(mini().display()).with_force_cpu();
    let error = room
        .built(other.steered(room.steering(1.)?))
        .expect_err("of another model");
    assert!(
        error.to_string().contains("the directions were made for"),
        "{error}"
    );
    let error = room
        .built(tiny_f32().tuned(Path::new("nowhere")))
        .expect_err("no adapter");
    assert!(error.to_string().contains("nowhere"), "{error}");
    Ok(())
}
