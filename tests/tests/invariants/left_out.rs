//! Invariants of what a forward leaves out: rows nobody reads, blocks below known rows,
//! activations that are computed again.

use super::forward::world;
use anyhow::Result;
use candle_core::Tensor;
use reptune_adapters::low_rank::Projection;
use reptune_adapters::{Activations, Cache, Host, LowRankUpdate, Pass, Request, Start};
use reptune_tests::{ROUNDING, bits, flat, marked, pick};

/// The last block computes only the rows that are asked for, and these come out as if it
/// computed all.
#[test]
fn rows_nobody_reads_do_not_matter() -> Result<()> {
    let w = world()?;
    let steering = [w.add(&[1, 3], 2.)?, w.ablate(&[3])?];
    let (forest, rows) = marked(&w.prompts, &steering);
    let last: Vec<u32> = rows.iter().map(|r| r[r.len() - 1]).collect();
    let some: Vec<u32> = rows.iter().flat_map(|r| [r[r.len() / 2], r[0]]).collect();
    let run = |captured: &[u32]| -> Result<Pass> {
        let request = Request {
            interventions: &steering,
            capture: &[1, 3],
            captured,
            logits: &last,
            ..Request::default()
        };
        Ok(w.host.forward(&forest, &mut Cache::none(), &request)?)
    };
    let (all, few) = (run(&[])?, run(&some)?);
    for layer in [1, 3] {
        let expected = pick(&all.residuals[&layer], &some)?;
        assert_near(&few.residuals[&layer], &expected)?;
    }
    let of = |pass: Pass| pass.logits.ok_or_else(|| anyhow::anyhow!("no logits"));
    assert_near(&of(few)?, &of(all)?)
}

/// A forward that begins at known rows goes on as one from the embeddings.
#[test]
fn a_forward_may_begin_above_a_block() -> Result<()> {
    let w = world()?;
    let steering = [w.add(&[1], 2.)?];
    let (forest, rows) = marked(&w.prompts, &steering);
    let last: Vec<u32> = rows.iter().map(|r| r[r.len() - 1]).collect();
    let plain = Request {
        capture: &[0, 1],
        logits: &last,
        ..Request::default()
    };
    let unsteered = w.host.forward(&forest, &mut Cache::none(), &plain)?;
    let steered = Request {
        interventions: &steering,
        ..plain
    };
    let whole = w.host.forward(&forest, &mut Cache::none(), &steered)?;
    let logits = |pass: &Pass| {
        pass.logits
            .clone()
            .ok_or_else(|| anyhow::anyhow!("no logits"))
    };
    for layer in [0, 1] {
        let begun = Request {
            capture: &[1],
            start: Some(Start {
                layer,
                rows: &unsteered.residuals[&layer],
            }),
            ..steered
        };
        let begun = w.host.forward(&forest, &mut Cache::none(), &begun)?;
        assert_near(&begun.residuals[&1], &whole.residuals[&1])?;
        assert_near(&logits(&begun)?, &logits(&whole)?)?;
    }
    let refused = |request: Request, cache: &mut Cache| {
        let refused = w.host.forward(&forest, cache, &request);
        refused.err().map(|e| e.to_string()).unwrap_or_default()
    };
    let at = |layer| Start {
        layer,
        rows: &unsteered.residuals[&1],
    };
    let start = Some(at(2));
    let below = refused(Request { start, ..steered }, &mut Cache::none());
    assert!(below.contains("layer 0 or below"), "{below}");
    let start = Some(at(1));
    let plain = Request {
        capture: &[],
        start,
        ..plain
    };
    let cache = refused(plain, &mut Cache::keeping(4, 8));
    assert!(cache.contains("a cache that holds"), "{cache}");
    let narrow = unsteered.residuals[&1].narrow(0, 0, 2)?;
    let rows = Start {
        layer: 1,
        rows: &narrow,
    };
    let short = Request {
        start: Some(rows),
        ..plain
    };
    assert!(refused(short, &mut Cache::none()).contains("the new rows"));
    Ok(())
}

/// Blocks that are computed again in the backward give the same gradients, bit for bit.
#[test]
fn recomputed_blocks_give_the_same_gradients() -> Result<()> {
    let w = world()?;
    let (forest, rows) = marked(&w.prompts, &[]);
    let last: Vec<u32> = rows.iter().map(|r| r[r.len() - 1]).collect();
    let sites = [Projection::VProj, Projection::OProj];
    let mut update = LowRankUpdate::init(w.host.spec(), &[1], &sites, 2, 4., 1)?;
    for low_rank in update.sites.values_mut() {
        low_rank.b = (low_rank.b.ones_like()? * 0.1)?;
    }
    let vars = update.trainable(w.host.device())?;
    let gradients = |activations| -> Result<Vec<Vec<u32>>> {
        let request = Request {
            logits: &last,
            low_rank: Some(&update),
            activations,
            ..Request::default()
        };
        let pass = w.host.forward(&forest, &mut Cache::none(), &request)?;
        let logits = pass.logits.ok_or_else(|| anyhow::anyhow!("no logits"))?;
        let store = logits.sqr()?.sum_all()?.backward()?;
        let of = |v: &candle_core::Var| {
            let gradient = store.get(v).ok_or_else(|| anyhow::anyhow!("no gradient"))?;
            Ok(bits(gradient))
        };
        vars.iter().map(of).collect()
    };
    assert_eq!(
        gradients(Activations::Keep)?,
        gradients(Activations::Recompute)?
    );
    Ok(())
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
