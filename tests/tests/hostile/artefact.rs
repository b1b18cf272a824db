//! Files of our own, which carry a hash: damaged they are refused, or are what they were.

use super::change::{changed, changes};
use super::{config, reads};
use anyhow::Result;
use proptest::collection::vec;
use proptest::prelude::*;
use reptune::inspect::inspect;
use reptune::model::{ModelConfig, model_spec};
use reptune_adapters::model::ModuleKind;
use reptune_adapters::steering::direction::{Direction, Provenance};
use reptune_adapters::{
    Adapter, DirectionSet, LoraInit, ModelSpec, TargetModule, WeightDelta, lora::delta_file,
};
use reptune_tests::{bits, fixture};
use std::path::Path;

fn spec() -> Result<ModelSpec> {
    let model = fixture("tiny-llama2");
    Ok(model_spec(&ModelConfig::read(&model)?, &model)?)
}

fn directions() -> Result<DirectionSet> {
    let direction = |l: usize| {
        let v: Vec<f64> = (0..32).map(|i| ((i * (l + 2)) as f64).sin()).collect();
        Ok((l, Direction::new(&v)?))
    };
    Ok(DirectionSet {
        layers: (1..4).map(direction).collect::<Result<_>>()?,
        provenance: Provenance {
            model: "tiny".into(),
            model_layers: 4,
            residual_norms: (0..4).map(|l| (l, 1.5)).collect(),
            ..Provenance::default()
        },
    })
}

fn update(spec: &ModelSpec) -> Result<Adapter> {
    let mut update = Adapter::init(
        spec,
        &LoraInit {
            layers: &[1],
            kinds: &[ModuleKind::VProj, ModuleKind::OProj],
            rank: 2,
            alpha: 3.,
            seed: 5,
        },
    )?;
    let module = TargetModule {
        layer: 2,
        kind: ModuleKind::KProj,
    };
    update.make_direct(spec, &[module])?;
    Ok(update)
}

fn content(update: &Adapter) -> Vec<(String, u64, Vec<u32>)> {
    let of = |l: &WeightDelta| l.factors().into_iter().flat_map(|(_, t)| bits(t)).collect();
    let all = update.modules.iter();
    all.map(|(module, l)| (module.to_string(), l.scale.to_bits(), of(l)))
        .collect()
}

/// Whether `path` changed as `changes` say is refused, or reads as before.
fn noticed<T: PartialEq>(
    path: &Path,
    (near, changes): (bool, &[super::change::Change]),
    read: impl Fn() -> reptune_adapters::Result<T>,
) {
    let wanted = read().expect("good");
    let good = std::fs::read(path).expect("bytes");
    let reach = if near { 1500 } else { usize::MAX };
    std::fs::write(path, changed(&good, reach, changes)).expect("write");
    let directory = path.parent().expect("a directory");
    if let Ok(found) = reads(directory, &read) {
        assert!(found == wanted, "damage was not noticed");
    }
    let _ = reads(directory, || inspect(path, &mut |_, _| ()));
}

proptest! {
    #![proptest_config(config(256))]

    #[test]
    fn damaged_directions_are_noticed(changes in changes(), near: bool) {
        let room = tempfile::tempdir().expect("room");
        let path = room.path().join("d.safetensors");
        directions().and_then(|d| Ok(d.save(&path)?)).expect("directions");
        noticed(&path, (near, &changes), || DirectionSet::load(&path));
    }

    #[test]
    fn damaged_updates_are_noticed(changes in changes(), near: bool) {
        let room = tempfile::tempdir().expect("room");
        let spec = spec().expect("a model");
        delta_file::save(room.path(), &update(&spec).expect("an update"), &spec).expect("write");
        let path = room.path().join(delta_file::FILE);
        noticed(&path, (near, &changes), || Ok(content(&delta_file::load(room.path(), &spec)?)));
    }

    #[test]
    fn arbitrary_files_are_no_artefact(bytes in vec(any::<u8>(), 0..80), name in 0usize..6) {
        let room = tempfile::tempdir().expect("room");
        let names = ["x.safetensors", "x.uqff", delta_file::FILE, "adapter_model.safetensors", "x", "x.gguf"];
        let path = room.path().join(names[name]);
        std::fs::write(&path, &bytes).expect("write");
        let told = reads(room.path(), || inspect(&path, &mut |_, _| ()));
        prop_assert!(told.is_err(), "{told:?}");
    }
}
