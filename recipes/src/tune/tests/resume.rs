//! A run that is cut off and taken up again is the run that was not.

use super::*;
use candle_core::Device;
use reptune_adapters::{
    ForwardOptions, ForwardOutput, KeyValueCache, ModelSpec, PrefixTree, lora::delta_file,
    lora::peft,
};
use std::cell::Cell;

/// The toy, which answers so many forwards and then gives the last `verdict`.
struct Failing<'a> {
    toy: &'a Toy,
    left: Cell<usize>,
}

impl HookedModel for Failing<'_> {
    fn spec(&self) -> &ModelSpec {
        self.toy.spec()
    }

    fn device(&self) -> &Device {
        self.toy.device()
    }

    fn forward(
        &self,
        tree: &PrefixTree,
        cache: &mut KeyValueCache,
        request: &ForwardOptions,
    ) -> reptune_adapters::Result<ForwardOutput> {
        let Some(left) = self.left.get().checked_sub(1) else {
            let off = std::io::Error::other("the lights are out");
            return Err(reptune_adapters::Error::read("toy", off));
        };
        self.left.set(left);
        self.toy.forward(tree, cache, request)
    }
}

const TUNING: &str = "batch = 3\nmicro_batch = 2\nepochs = 4\nwarmup = 2\nrank = 2\nclip = 0.5\n\
    schedule = \"cosine\"\nvalidate_every = 2\ncheckpoint_every = 3\n\
    early_stop = { patience = 3, window = 2, min_steps = 3 }\n\
    [[tuning.groups]]\ntarget_modules = [\"v_proj\"]\nlearning_rate = 0.03\ntoken_weight = 0.0\nupdate = \"full\"";

/// Files of an update and its metrics.
fn files(room: &Path, update: &Adapter, spec: &ModelSpec) -> Result<[Vec<u8>; 2]> {
    peft::save_adapter(room, update, spec)?;
    let read = |name: &str| files::read(&room.join(name));
    Ok([read(delta_file::FILE)?, read("metrics.jsonl")?])
}

#[test]
fn resumed_equals_uninterrupted_byte_for_byte() -> Result<()> {
    let setting = setting()?;
    let recipe = recipe(TUNING);
    let spec = setting.model.spec();
    for mode in [Mode::InPlusTruth, Mode::Out, Mode::Lie] {
        let room = tempfile::tempdir().expect("room");
        let tuner = setting.tuner(&setting.model, &recipe, mode)?;
        let metrics = room.path().join("metrics.jsonl");
        let whole = tuner.tune(tuner.fresh()?, &metrics, &mut |_| {})?;
        let whole = files(room.path(), &whole, spec)?;
        let steps = Metrics::read(&metrics)?.len();
        assert!(steps > 6, "{mode}: {steps} steps");
        let mut cuts = 0;
        // Each cut is at another forward: between steps, in a batch, in a validation.
        for forwards in (0..).step_by(3) {
            let room = tempfile::tempdir().expect("room");
            let metrics = room.path().join("metrics.jsonl");
            let failing = Failing {
                toy: &setting.model,
                left: Cell::new(forwards),
            };
            let cut = setting.tuner(&failing, &recipe, mode)?;
            let Err(error) = cut.tune(cut.fresh()?, &metrics, &mut |_| {}) else {
                break;
            };
            assert!(error.to_string().contains("lights are out"), "{error}");
            let done = Metrics::read(&metrics)?.len();
            assert_eq!(
                tuner.can_resume(&metrics),
                done >= 3,
                "{mode}: {done} steps"
            );
            if !tuner.can_resume(&metrics) {
                continue;
            }
            let mut heard = Vec::new();
            let resumed = tuner.resume(&metrics, &mut |m| heard.push(m.step))?;
            assert_eq!(heard.first(), Some(&(done / 3 * 3 + 1)), "{mode}");
            assert!(
                files(room.path(), &resumed, spec)? == whole,
                "{mode}: cut at {done}"
            );
            assert!(!Tuner::checkpoint(&metrics).exists());
            cuts += 1;
        }
        assert!(cuts > 3, "{mode}: {cuts} cuts");
    }
    Ok(())
}

#[test]
fn a_checkpoint_of_another_run_or_with_other_metrics_is_refused() -> Result<()> {
    let setting = setting()?;
    let mine = recipe(TUNING);
    let room = tempfile::tempdir().expect("room");
    let metrics = room.path().join("metrics.jsonl");
    let failing = Failing {
        toy: &setting.model,
        left: Cell::new(12),
    };
    let cut = setting.tuner(&failing, &mine, Mode::Out)?;
    cut.tune(cut.fresh()?, &metrics, &mut |_| {})
        .expect_err("cut off");
    let tuner = setting.tuner(&setting.model, &mine, Mode::Out)?;
    let refused = |tuner: &Tuner| {
        tuner
            .resume(&metrics, &mut |_| {})
            .expect_err("no")
            .to_string()
    };
    let other = setting.tuner(&setting.model, &mine, Mode::InPlus)?;
    assert!(!other.can_resume(&metrics));
    assert!(
        refused(&other).contains("tune from the start"),
        "{}",
        refused(&other)
    );
    let longer = recipe(&TUNING.replace("epochs = 4", "epochs = 5"));
    let other = setting.tuner(&setting.model, &longer, Mode::Out)?;
    assert!(refused(&other).contains("recipe, data, directions or model are others"));
    let lines = files::read(&metrics)?;
    std::fs::write(&metrics, [b"{}\n", lines.as_slice()].concat()).expect("write");
    let message = refused(&tuner);
    assert!(
        message.contains("metrics.jsonl") && message.contains("changed"),
        "{message}"
    );
    std::fs::write(&metrics, lines).expect("write");
    let path = Tuner::checkpoint(&metrics);
    let mut bytes = files::read(&path)?;
    *bytes.last_mut().expect("bytes") ^= 1;
    std::fs::write(&path, bytes).expect("write");
    let message = refused(&tuner);
    assert!(
        message.contains("content_sha256") && message.contains("changed"),
        "{message}"
    );
    std::fs::remove_file(&path).expect("remove");
    let message = refused(&tuner);
    assert!(message.contains("checkpoint.safetensors"), "{message}");
    Ok(())
}
