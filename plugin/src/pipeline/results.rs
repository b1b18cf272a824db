//! The models that a run compares, and what they answer.

use super::run::{Run, Tuned};
use crate::progress::{self, Progress};
use crate::session::{Coeffs, Measured, Session};
use crate::{error::Result, runtime::Engine};
use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use reptune_adapters::{Direction, DirectionSet, HookedModel, lora::peft};
use reptune_recipes::evaluate::{Answerer, Judge};
use reptune_recipes::extract::CapturedPairs;
use reptune_report::{Comparison, ModelRow, SeedRepeats, Verdict};
use std::path::{Path, PathBuf};

/// What the stages of a run made; baked models stand after their coeffs.
pub struct RunModels<'a> {
    pub session: &'a Session,
    pub steering: &'a DirectionSet,
    pub coeffs: &'a Coeffs,
    pub tuned: &'a [Tuned],
    pub baked: &'a [(f64, PathBuf)],
}

impl RunModels<'_> {
    /// Measures every model, and in a study the controls, and compares each with the base,
    /// which comes first; the judge's replies are kept in the file `judge`.
    pub fn rows(&self, judge: &Path) -> Result<Vec<ModelRow>> {
        let mut measured = self.measure()?;
        self.judge(&mut measured, judge)?;
        if self.session.recipe.study.is_some() {
            measured.extend(self.controls()?);
        }
        let base = measured[0].clone();
        let before = &base.row.claim_verdicts;
        for m in &mut measured[1..] {
            let versus = Comparison::of(before, &m.row.claim_verdicts, Verdict::Positive);
            let versus = versus.and_then(|versus| match m.odds.len() == base.odds.len() {
                true => versus.with_log_odds(&base.odds, &m.odds),
                false => Ok(versus),
            });
            m.row.versus_base = Some(versus.map_err(reptune_recipes::Error::from)?);
        }
        Ok(measured.into_iter().map(|m| m.row).collect())
    }

    fn measure(&self) -> Result<Vec<Measured>> {
        let (session, set) = (self.session, self.steering);
        let (behaviour, questions) = (&session.recipe.behaviour, session.test_questions());
        let models = 5 + 2 * self.tuned.len() + self.baked.len();
        let shown = Progress::new("evaluate", questions * models);
        let mut all: Vec<Measured> = Vec::new();
        let mut ask = |name: &str, answerer: &dyn Answerer, systems: &[String]| {
            let from = all.len() * questions;
            shown.message(format!("evaluate {name}"));
            let mut progress = |done| shown.set(from + done);
            let mut measured = session.measure(name, answerer, systems, &mut progress)?;
            measured.open = session.open_answers(answerer, systems)?;
            all.push(measured);
            Result::Ok(())
        };
        let plain = session.plain();
        let own = session.own(&[], None);
        ask("base", &own, &plain)?;
        ask("prompted, positive", &own, &behaviour.positive)?;
        ask("prompted, negative", &own, &behaviour.negative)?;
        for coeff in [self.coeffs.positive, self.coeffs.negative] {
            let steering = [session.steering(set, coeff)?];
            let name = format!("steered {}", session.dose(set, coeff));
            ask(&name, &session.own(&steering, None), &plain)?;
        }
        for (mode, update, merged) in self.tuned {
            let own = session.own(&[], Some(update));
            ask(&format!("tuned {mode}"), &own, &plain)?;
            let engine = Engine::load(merged, None)?;
            ask(&format!("merged {mode}, mistral.rs"), &engine, &plain)?;
        }
        for (coeff, directory) in self.baked {
            let name = format!("baked {}, mistral.rs", session.dose(set, *coeff));
            ask(&name, &Engine::load(directory, None)?, &plain)?;
        }
        Ok(all)
    }

    /// Has the open answers of every model compared with those of the base.
    fn judge(&self, all: &mut [Measured], cache: &Path) -> Result<()> {
        let evaluation = &self.session.recipe.evaluation;
        let (Some(open), Some(settings)) = (&evaluation.open_ended, &evaluation.judge) else {
            return Ok(());
        };
        let questions = self.session.open_questions()?;
        let mut judge = Judge::new(settings, &open.criterion, cache)?;
        let (base, others) = all.split_at_mut(1);
        let mut shown = progress::steps("judge", questions.len() * others.len());
        for (i, other) in others.iter_mut().enumerate() {
            let mut progress = |done| shown(i * questions.len() + done);
            let said = judge.compare_all(&questions, &base[0].open, &other.open, &mut progress)?;
            other.row.judged = Some(said);
        }
        Ok(())
    }

    /// Steers with directions that should do nothing, at the coeffs of the run: random ones,
    /// and those of the same pairs with positive and negative exchanged in half of them.
    fn controls(&self) -> Result<Vec<Measured>> {
        let session = self.session;
        let mut rng = ChaCha8Rng::seed_from_u64(session.recipe.seed);
        let mut sets = vec![("random", random(self.steering, &mut rng)?)];
        if let Some(set) = shuffled(session, self.steering, &mut rng)? {
            sets.push(("shuffled", set));
        }
        let questions = session.test_questions();
        let mut shown = progress::steps("controls", questions * 2 * sets.len());
        let mut rows = Vec::new();
        for (name, set) in &sets {
            for coeff in [self.coeffs.positive, self.coeffs.negative] {
                let steering = [session.steering(set, coeff)?];
                let model = format!("{name} direction {}", session.dose(set, coeff));
                let (from, own) = (rows.len() * questions, session.own(&steering, None));
                let mut progress = |done| shown(from + done);
                rows.push(session.measure(&model, &own, &session.plain(), &mut progress)?);
            }
        }
        Ok(rows)
    }
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

/// Mean differences of the training pairs, with the sign of half of them exchanged; none
/// where there is one pair only.
fn shuffled(
    session: &Session,
    like: &DirectionSet,
    rng: &mut ChaCha8Rng,
) -> Result<Option<DirectionSet>> {
    let (model, chat, recipe) = (&session.llama, &session.chat, &session.recipe);
    let (claims, mut shown) = (&session.items.train, progress::of("shuffle pairs"));
    let captured = CapturedPairs::of(model, chat, recipe, claims, &mut shown)?;
    let pairs = captured.pairs.answers.len() / 2 * 2;
    if pairs == 0 {
        return Ok(None);
    }
    let place = place_of(&captured, like);
    // As many of one sign as of the other: what all pairs share cancels, and is not
    // brought back to full length by the normalising.
    let mut signs: Vec<f64> = (0..pairs).map(|i| 1. - 2. * (i % 2) as f64).collect();
    signs.shuffle(rng);
    let mut set = like.clone();
    for (&layer, direction) in &mut set.layers {
        let mut sum = vec![0.; direction.unit.len()];
        let differences = captured.contrast(place, layer)?.differences();
        for (difference, sign) in differences.zip(&signs) {
            for (sum, x) in sum.iter_mut().zip(difference) {
                *sum += sign * f64::from(x);
            }
        }
        *direction = Direction::new(&sum)?;
    }
    set.provenance.method = "mean difference, shuffled pairs".into();
    Ok(Some(set))
}

/// The place among `captured` at which `directions` were extracted.
pub fn place_of(captured: &CapturedPairs, directions: &DirectionSet) -> usize {
    let rows = &directions.provenance.rows;
    let mut positions = captured.positions.iter();
    positions.position(|p| p.to_string() == *rows).unwrap_or(0)
}

/// Tunes and measures every mode with every seed of the study; `key` is that of the
/// directions.
pub fn repeats(run: &mut Run, directions: &DirectionSet, key: &str) -> Result<Vec<SeedRepeats>> {
    let Some(study) = run.session.recipe.study.clone() else {
        return Ok(Vec::new());
    };
    let (session, r) = (&run.session, &run.session.recipe);
    let inputs = session.inputs(&[&r.prompt, &r.data, &r.evaluation, &r.seed]);
    let mut all = Vec::new();
    for mode in run.session.recipe.tuning.modes.clone() {
        let (model, mut rows) = (format!("tuned {mode}"), Vec::new());
        for seed in &study.seeds {
            let (adapter, key) = run.tuned(mode, Some(*seed), directions, key, None)?;
            let session = &run.session;
            let measure = || {
                let update = peft::load(&adapter, session.llama.spec())?;
                let questions = session.test_questions();
                let shown = format!("evaluate {mode}, seed {seed}");
                let mut shown = progress::steps(shown, questions);
                let own = session.own(&[], Some(&update));
                let model = format!("{model}, seed {seed}");
                session.measure(&model, &own, &session.plain(), &mut shown)
            };
            let file = format!("seeds/{seed}/{}.json", mode.file_name());
            let (measured, _) = run.stages.json(&file, &[&key, &inputs], measure)?;
            rows.push(measured.row);
        }
        all.push(SeedRepeats { model, rows });
    }
    Ok(all)
}
