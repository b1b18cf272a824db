//! Plain settings against a plain loop over candle_nn's AdamW.

use super::*;
use candle_nn::optim::{AdamW, Optimizer, ParamsAdamW};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use reptune_adapters::lora::loss::{LabelRow, representation_loss, token_loss};
use reptune_adapters::{ForwardOptions, KeyValueCache, PrefixTree, Resume};

const BATCH: usize = 3;
const EPOCHS: usize = 2;

/// Both losses of some prompts, at layers 1 and 2 and offset 1. It begins at the tuner's activation cache:
/// a row's last bits depend on the rows beside it.
fn losses(
    tuner: &Tuner,
    some: &[&TuningPrompt],
    update: &Adapter,
) -> Result<(Tensor, Option<Tensor>)> {
    let ids: Vec<&[u32]> = some.iter().map(|p| p.ids.as_slice()).collect();
    let (tree, rows) = PrefixTree::pack(&ids);
    let mut last: Vec<u32> = rows.iter().map(|r| r[r.len() - 1]).collect();
    let ends = last.clone();
    last.sort_unstable();
    last.dedup();
    let kind = tuner.mode.losses().0;
    let (layer, cache) = tuner.cached(update)?.expect("a cache");
    let known = cache.rows(layer, &tree, &ids, &rows)?;
    let request = ForwardOptions {
        start: Some(Resume {
            layer,
            rows: &known,
        }),
        capture: if kind.is_some() { &[1, 2] } else { &[] },
        logits: &last,
        adapter: Some(update),
        ..ForwardOptions::default()
    };
    let pass = tuner
        .model
        .forward(&tree, &mut KeyValueCache::none(), &request)?;
    let label = |(p, end): (&&TuningPrompt, &u32)| LabelRow {
        row: last.iter().position(|r| r == end).expect("a row") as u32,
        right: p.right,
        wrong: p.wrong,
    };
    let labels: Vec<LabelRow> = some.iter().zip(&ends).map(label).collect();
    let logits = pass.logits.expect("logits");
    let token = token_loss(&logits, &labels, tuner.mode.losses().1)?;
    let Some(kind) = kind else {
        return Ok((token, None));
    };
    let at: Vec<u32> = rows.iter().map(|r| r[r.len() - 2]).collect();
    let at = Tensor::new(at.as_slice(), tuner.model.device())?;
    let of = |l: usize| -> Result<Tensor> {
        let h = pass.residuals[&l].index_select(&at, 0)?;
        let (_, d) = tuner
            .directions
            .iter()
            .find(|(layer, _)| *layer == l)
            .expect("it");
        Ok(representation_loss(&h, d, kind, tuner.settings.m)?)
    };
    Ok((token, Some(((of(1)? + of(2)?)? / 2.)?)))
}

fn number(t: &Tensor) -> Result<f64> {
    Ok(f64::from(t.to_scalar::<f32>()?))
}

/// The loop as it stands in the paper: no groups, parts, clipping or early stop.
fn plain(tuner: &Tuner) -> Result<(Adapter, Vec<Metrics>)> {
    let t = tuner.settings;
    let mut update = tuner.fresh()?;
    let params = ParamsAdamW {
        lr: t.learning_rate,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.1,
    };
    let mut optimizer = AdamW::new(update.trainable(tuner.model.device())?, params)?;
    let mut rng = ChaCha8Rng::seed_from_u64(tuner.seed);
    let mut order: Vec<usize> = (0..tuner.train.len()).collect();
    let total = EPOCHS * tuner.train.len().div_ceil(BATCH);
    let mut lines = Vec::new();
    for _ in 0..EPOCHS {
        order.shuffle(&mut rng);
        for (i, batch) in order.chunks(BATCH).enumerate() {
            let step = lines.len();
            let batch: Vec<&TuningPrompt> = batch.iter().map(|&i| &tuner.train[i]).collect();
            let (token, representation) = losses(tuner, &batch, &update)?;
            let loss = match &representation {
                None => token.clone(),
                Some(r) => (r + (&token * t.token_weight)?)?,
            };
            let lr = match step {
                0 | 1 => t.learning_rate * (step + 1) as f64 / 2.,
                _ => t.learning_rate * (total - step) as f64 / (total - 2) as f64,
            };
            optimizer.set_learning_rate(lr);
            optimizer.step(&loss.backward()?)?;
            let mut line = Metrics {
                step: step + 1,
                lr,
                ..Metrics::default()
            };
            line.add("token", number(&token)?);
            if let Some(r) = &representation {
                line.add("representation", number(r)?);
            }
            if (i + 1) * BATCH >= order.len() {
                let all: Vec<&TuningPrompt> = tuner.validation.iter().collect();
                let (token, representation) = losses(tuner, &all, &update)?;
                line.set_validation("token", number(&token)?);
                if let Some(r) = &representation {
                    line.set_validation("representation", number(r)?);
                }
            }
            lines.push(line);
        }
    }
    Ok((update, lines))
}

#[test]
fn plain_settings_give_what_a_plain_loop_gives_bit_for_bit() -> Result<()> {
    let setting = setting()?;
    let recipe =
        recipe("positions = \"at:-2\"\nbatch = 3\nepochs = 2\nwarmup = 2\nrank = 4\nm = 1.5");
    let room = tempfile::tempdir().expect("room");
    let metrics = room.path().join("metrics.jsonl");
    for mode in Mode::ALL {
        let tuner = setting.tuner(&setting.model, &recipe, mode)?;
        let mut heard = Vec::new();
        let tuned = tuner.tune(tuner.fresh()?, &metrics, &mut |m| heard.push(m.clone()))?;
        let (expected, lines) = plain(&tuner)?;
        assert_eq!(lines.len(), tuner.steps(), "{mode}");
        assert_eq!(heard, lines, "{mode}");
        assert_eq!(bits(&tuned)?, bits(&expected)?, "{mode}");
        assert_ne!(bits(&tuned)?, bits(&tuner.fresh()?)?, "{mode}");
        let written: Vec<String> = lines
            .iter()
            .map(|l| serde_json::to_string(l).expect("JSON") + "\n")
            .collect();
        let text = std::fs::read_to_string(&metrics).expect("metrics");
        assert_eq!(text, written.concat(), "{mode}");
        assert!(!Tuner::checkpoint(&metrics).exists());
    }
    Ok(())
}

#[test]
fn early_stop_returns_what_did_best_in_validation() -> Result<()> {
    let setting = setting()?;
    let recipe = recipe(
        "batch = 2\nepochs = 6\nlearning_rate = 0.3\nvalidate_every = 1\n\
         early_stop = { patience = 3, min_steps = 4 }",
    );
    let room = tempfile::tempdir().expect("room");
    let metrics = room.path().join("metrics.jsonl");
    let tuner = setting.tuner(&setting.model, &recipe, Mode::Out)?;
    let mut lines = Vec::new();
    let tuned = tuner.tune(tuner.fresh()?, &metrics, &mut |m| lines.push(m.clone()))?;
    assert!(
        (4..tuner.steps()).contains(&lines.len()),
        "{} steps",
        lines.len()
    );
    let losses: Vec<f64> = lines
        .iter()
        .filter_map(|l| l.validation_loss("representation"))
        .collect();
    let lowest = losses.iter().copied().fold(f64::INFINITY, f64::min);
    assert_eq!(tuner.validate(&tuned)?[0], lowest);
    assert!(
        losses.iter().rev().take(3).all(|l| *l >= lowest),
        "{losses:?}"
    );
    Ok(())
}
