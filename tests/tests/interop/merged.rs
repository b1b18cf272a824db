//! Merged checkpoints load in Hugging Face transformers and give our logits.

use super::{fixture, ours, prompts, same, tensors};
use anyhow::{Result, ensure};
use reptune_adapters::HookedModel;
use reptune_adapters::model::ModuleKind;
use reptune_recipes::merge::merge;
use reptune_tests::{llama, random_update};
use std::path::Path;
use std::process::Command;

#[test]
fn transformers_computes_our_logits_with_a_merged_checkpoint() -> Result<()> {
    let Some(python) = std::env::var_os("REPTUNE_PYTHON") else {
        println!("skipped: set REPTUNE_PYTHON to a python with torch and transformers");
        return Ok(());
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop/merged_checkpoint.py");
    for name in ["tiny-llama2", "tiny-llama32"] {
        let host = llama(name)?;
        let update = random_update(host.spec(), &[1, 3], &ModuleKind::ALL, 21)?;
        let room = tempfile::tempdir()?;
        let merged = room.path().join("merged");
        merge(&fixture(name), &update, &merged, &mut |_, _, _| {})?;
        let (ids, out) = (
            room.path().join("ids.json"),
            room.path().join("out.safetensors"),
        );
        std::fs::write(&ids, serde_json::to_string(&prompts()?)?)?;
        let run = Command::new(&python)
            .arg(&script)
            .args([&merged, &ids, &out])
            .output()?;
        ensure!(
            run.status.success(),
            "{name}: {}",
            String::from_utf8_lossy(&run.stderr)
        );
        let theirs = tensors(&out)?;
        let merged = reptune::Llama::load(&merged, Default::default())?;
        same("prompt", &ours(&merged, &prompts()?, &[], None)?, &theirs)?;
        if name == "tiny-llama2" {
            // Its weights are f32, so merging rounds no more than adding does.
            same(
                "prompt",
                &ours(&host, &prompts()?, &[], Some(&update))?,
                &theirs,
            )?;
        }
    }
    Ok(())
}
