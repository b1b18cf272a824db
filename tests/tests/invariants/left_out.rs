//! Invariants of what a forward leaves out: rows nobody reads, blocks below known rows,
//! activations that are computed again.

use super::forward::in_every_world;
use anyhow::Result;
use candle_core::Tensor;
use reptune_adapters::model::ModuleKind;
use reptune_adapters::{
    Adapter, CaptureTokens, ForwardOptions, ForwardOutput, GradientCheckpointing, HookedModel,
    KeyValueCache, LoraInit, Resume,
};
use reptune_tests::{ROUNDING, bits, flat, marked, pick};

/// The last block computes only the rows that are asked for, and these come out as if it
/// computed all.
#[test]
fn rows_nobody_reads_do_not_matter() -> Result<()> {
    in_every_world(|w| {
        let steering = [w.add(&[1, 3], 2.)?, w.ablate(&[3])?];
        let (tree, rows) = marked(&w.prompts, &steering);
        let last: Vec<u32> = rows.iter().map(|r| r[r.len() - 1]).collect();
        let some: Vec<u32> = rows.iter().flat_map(|r| [r[r.len() / 2], r[0]]).collect();
        let run = |captured: CaptureTokens| -> Result<ForwardOutput> {
            let request = ForwardOptions {
                interventions: &steering,
                capture: &[1, 3],
                captured,
                logits: &last,
                ..ForwardOptions::default()
            };
            Ok(w.llama
                .forward(&tree, &mut KeyValueCache::none(), &request)?)
        };
        let (all, few) = (run(CaptureTokens::All)?, run(CaptureTokens::Only(&some))?);
        for layer in [1, 3] {
            let expected = pick(&all.residuals[&layer], &some)?;
            assert_near(&few.residuals[&layer], &expected)?;
        }
        let of = |pass: ForwardOutput| pass.logits.ok_or_else(|| anyhow::anyhow!("no logits"));
        assert_near(&of(few)?, &of(all)?)
    })
}

/// A forward that begins at known rows goes on as one from the embeddings.
#[test]
fn a_forward_may_begin_above_a_block() -> Result<()> {
    in_every_world(|w| {
        let steering = [w.add(&[1], 2.)?];
        let (tree, rows) = marked(&w.prompts, &steering);
        let last: Vec<u32> = rows.iter().map(|r| r[r.len() - 1]).collect();
        let plain = ForwardOptions {
            capture: &[0, 1],
            logits: &last,
            ..ForwardOptions::default()
        };
        let unsteered = w.llama.forward(&tree, &mut KeyValueCache::none(), &plain)?;
        let steered = ForwardOptions {
            interventions: &steering,
            ..plain
        };
        let whole = w
            .llama
            .forward(&tree, &mut KeyValueCache::none(), &steered)?;
        let logits = |pass: &ForwardOutput| {
            pass.logits
                .clone()
                .ok_or_else(|| anyhow::anyhow!("no logits"))
        };
        for layer in [0, 1] {
            let begun = ForwardOptions {
                capture: &[1],
                start: Some(Resume {
                    layer,
                    rows: &unsteered.residuals[&layer],
                }),
                ..steered
            };
            let begun = w.llama.forward(&tree, &mut KeyValueCache::none(), &begun)?;
            assert_near(&begun.residuals[&1], &whole.residuals[&1])?;
            assert_near(&logits(&begun)?, &logits(&whole)?)?;
        }
        let refused = |request: ForwardOptions, cache: &mut KeyValueCache| {
            let refused = w.llama.forward(&tree, cache, &request);
            refused.err().map(|e| e.to_string()).unwrap_or_default()
        };
        let at = |layer| Resume {
            layer,
            rows: &unsteered.residuals[&1],
        };
        let start = Some(at(2));
        let below = refused(
            ForwardOptions { start, ..steered },
            &mut KeyValueCache::none(),
        );
        assert!(below.contains("layer 0 or below"), "{below}");
        let start = Some(at(1));
        let plain = ForwardOptions {
            capture: &[],
            start,
            ..plain
        };
        let cache = refused(plain, &mut KeyValueCache::keeping(4, 8));
        assert!(cache.contains("a cache that holds"), "{cache}");
        let narrow = unsteered.residuals[&1].narrow(0, 0, 2)?;
        let rows = Resume {
            layer: 1,
            rows: &narrow,
        };
        let short = ForwardOptions {
            start: Some(rows),
            ..plain
        };
        assert!(refused(short, &mut KeyValueCache::none()).contains("the new rows"));
        Ok(())
    })
}

/// Blocks that are computed again in the backward give the same gradients, bit for bit.
#[test]
fn recomputed_blocks_give_the_same_gradients() -> Result<()> {
    in_every_world(|w| {
        let (tree, rows) = marked(&w.prompts, &[]);
        let last: Vec<u32> = rows.iter().map(|r| r[r.len() - 1]).collect();
        let modules = [ModuleKind::VProj, ModuleKind::OProj];
        let mut update = Adapter::init(
            w.llama.spec(),
            &LoraInit {
                layers: &[1],
                kinds: &modules,
                rank: 2,
                alpha: 4.,
                seed: 1,
            },
        )?;
        for adapter in update.modules.values_mut() {
            adapter.b = (adapter.b.ones_like()? * 0.1)?;
        }
        let vars = update.trainable(w.llama.device())?;
        let gradients = |activations| -> Result<Vec<Vec<u32>>> {
            let request = ForwardOptions {
                logits: &last,
                adapter: Some(&update),
                activations,
                ..ForwardOptions::default()
            };
            let pass = w
                .llama
                .forward(&tree, &mut KeyValueCache::none(), &request)?;
            let logits = pass.logits.ok_or_else(|| anyhow::anyhow!("no logits"))?;
            let store = logits.sqr()?.sum_all()?.backward()?;
            let of = |v: &candle_core::Var| {
                let gradient = store.get(v).ok_or_else(|| anyhow::anyhow!("no gradient"))?;
                Ok(bits(gradient))
            };
            vars.iter().map(of).collect()
        };
        assert_eq!(
            gradients(GradientCheckpointing::Off)?,
            gradients(GradientCheckpointing::On)?
        );
        Ok(())
    })
}

fn assert_near(a: &Tensor, b: &Tensor) -> Result<()> {
    assert_eq!(a.dims(), b.dims());
    let (a, b) = (flat(a), flat(b));
    let largest = b.iter().fold(0f32, |m, x| m.max(x.abs()));
    let off = a.iter().zip(&b).map(|(a, b)| (a - b).abs());
    let off = off.fold(0., f32::max) / largest;
    assert!(off < ROUNDING, "{off} of the largest value");
    Ok(())
}
