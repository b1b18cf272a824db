//! What a study adds to a run: other seeds, and directions that should do nothing.

use super::run::{Run, write_json};
use crate::error::Result;
use crate::progress::Progress;
use crate::session::{Coeffs, Measured, Session};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use reptune_adapters::{Direction, DirectionSet, HookedModel, lora::peft};
use reptune_recipes::extract::CapturedPairs;
use reptune_report::SeedRepeats;

/// Tunes and measures every mode with every seed; `key` is that of the directions.
pub fn repeats(run: &mut Run, directions: &DirectionSet, key: &str) -> Result<Vec<SeedRepeats>> {
    let Some(study) = run.session.recipe.study.clone() else {
        return Ok(Vec::new());
    };
    let r = &run.session.recipe;
    let inputs = run
        .session
        .inputs(&[&r.prompt, &r.data, &r.evaluation, &r.seed]);
    let mut all = Vec::new();
    for mode in run.session.recipe.tuning.modes.clone() {
        let (model, mut rows) = (format!("tuned {mode}"), Vec::new());
        for seed in &study.seeds {
            let name = format!("seeds/{seed}/{}", mode.file_name());
            let (adapter, key) = run.tuned_as(&name, *seed, mode, directions, key, None)?;
            let (session, measured) = (&run.session, format!("{name}.json"));
            run.stages.run(&measured, &[&key, &inputs], |path| {
                let update = peft::load(&adapter, session.llama.spec())?;
                let questions = session.items.test.len() + session.items.choices.len();
                let shown = Progress::new(format!("evaluate {mode}, seed {seed}"), questions);
                let own = session.own(&[], Some(&update));
                let model = format!("{model}, seed {seed}");
                let mut progress = |done| shown.set(done);
                let measured = session.measure(&model, &own, &session.plain(), &mut progress)?;
                write_json(path, &measured)
            })?;
            rows.push(run.read::<Measured>(&measured)?.row);
        }
        all.push(SeedRepeats { model, rows });
    }
    Ok(all)
}

/// Steers with directions that tell nothing, at the coeffs of the run: random ones, and
/// those of the same pairs with positive and negative exchanged in half of them.
pub fn controls(
    session: &Session,
    directions: &DirectionSet,
    coeffs: &Coeffs,
) -> Result<Vec<Measured>> {
    let mut rng = ChaCha8Rng::seed_from_u64(session.recipe.seed);
    let mut sets = vec![("random", random(directions, &mut rng)?)];
    if let Some(set) = shuffled(session, directions, &mut rng)? {
        sets.push(("shuffled", set));
    }
    let questions = session.items.test.len() + session.items.choices.len();
    let shown = Progress::new("controls", questions * 2 * sets.len());
    let mut rows = Vec::new();
    for (name, set) in &sets {
        for coeff in [coeffs.positive, coeffs.negative] {
            let steering = [session.steering(set, coeff)?];
            let model = format!("{name} direction {}", session.dose(set, coeff));
            let from = rows.len() * questions;
            let mut progress = |done| shown.set(from + done);
            let own = session.own(&steering, None);
            let plain = session.plain();
            rows.push(session.measure(&model, &own, &plain, &mut progress)?);
        }
    }
    Ok(rows)
}

/// Directions of the same layers, each with normally distributed entries.
fn random(like: &DirectionSet, rng: &mut ChaCha8Rng) -> Result<DirectionSet> {
    let mut set = like.clone();
    for direction in set.layers.values_mut() {
        let mut normal = || {
            let (u, v): (f64, f64) = (rng.random_range(1e-12..1.0), rng.random());
            (-2. * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
        };
        let entries: Vec<f64> = direction.unit.iter().map(|_| normal()).collect();
        *direction = Direction::new(&entries)?;
    }
    set.provenance.method = "random".into();
    Ok(set)
}

/// Mean differences of the training pairs, half of them the other way round; none
/// where there is one pair only.
fn shuffled(
    session: &Session,
    like: &DirectionSet,
    rng: &mut ChaCha8Rng,
) -> Result<Option<DirectionSet>> {
    let (host, chat, recipe) = (&session.llama, &session.chat, &session.recipe);
    let shown = Progress::unknown("shuffle pairs");
    let mut progress = |done, all| shown.set_of(done, all);
    let train = &session.items.train;
    let captured = CapturedPairs::of(host, chat, recipe, train, &mut progress)?;
    let pairs = captured.pairs.answers.len();
    if pairs < 2 {
        return Ok(None);
    }
    let rows = &like.provenance.rows;
    let place = captured
        .positions
        .iter()
        .position(|p| p.to_string() == *rows);
    // As many one way round as the other: what all pairs share cancels, and is not
    // brought back to full length by the normalising.
    let mut signs: Vec<f64> = (0..pairs / 2 * 2)
        .map(|i| if i % 2 == 0 { 1. } else { -1. })
        .collect();
    signs.shuffle(rng);
    let mut set = like.clone();
    for (&layer, direction) in &mut set.layers {
        let mut sum = vec![0.; direction.unit.len()];
        for (difference, sign) in captured
            .contrast(place.unwrap_or(0), layer)?
            .differences()
            .zip(&signs)
        {
            for (sum, x) in sum.iter_mut().zip(difference) {
                *sum += sign * f64::from(x);
            }
        }
        *direction = Direction::new(&sum)?;
    }
    set.provenance.method = "mean difference, shuffled pairs".into();
    Ok(Some(set))
}
