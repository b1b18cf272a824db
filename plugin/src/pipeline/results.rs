//! The models that a run compares, and what they answer.

use super::run::{Run, Tuned};
use crate::progress;
use crate::session::{Measured, Session, StageInput, Totals};
use crate::{error::Result, runtime::Engine};
use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use reptune_adapters::{Direction, DirectionSet, HookedModel, lora::peft};
use reptune_recipes::evaluate::{Answerer, Judge};
use reptune_recipes::extract::CapturedPairs;
use reptune_recipes::recipe::Mode;
use reptune_report::{Comparison, ModelRow, SeedRepeats, Verdict};
use std::path::PathBuf;

/// What the stages of a run made; what could not be made is not measured.
#[derive(Default)]
pub(super) struct RunModels {
    /// The directions that steer, their totals, and the hash of their inputs.
    pub steering: Option<(DirectionSet, Totals, String)>,
    pub tuned: Vec<Tuned>,
    /// Baked models with the signs and the totals of their doses.
    pub baked: Vec<(&'static str, f64, PathBuf)>,
}

/// A row of the result table, and where its answers are kept.
struct Row {
    name: String,
    file: String,
    /// Hash of what its model was made from.
    key: String,
}

impl RunModels {
    /// Measures every model, and in a study the controls, and compares each with the base,
    /// which comes first. The answers of a model are a stage: only those of a new model are
    /// measured.
    pub fn rows(&self, run: &mut Run) -> Vec<ModelRow> {
        let mut measured = self.measure(run);
        judge(run, &mut measured);
        if let (Some(_), Some((set, totals, key))) = (&run.session.recipe.study, &self.steering) {
            let Run {
                session, stages, ..
            } = run;
            let inputs = [key, &session.evaluation_inputs()];
            let made = stages.json("answers/controls.json", inputs, || {
                controls(session, set, totals)
            });
            let skipped = ["rows of random and shuffled directions"];
            let made = run.failures.keep("controls", skipped, made);
            measured.extend(made.into_iter().flat_map(|(rows, _)| rows));
        }
        let base = measured.iter().find(|m| m.row.model == BASE).cloned();
        let others = measured.iter_mut().filter(|m| m.row.model != BASE);
        for (m, base) in others.zip(std::iter::repeat(base).flatten()) {
            let before = &base.row.claim_verdicts;
            let versus = Comparison::of(before, &m.row.claim_verdicts, Verdict::Positive);
            let versus = versus.and_then(|versus| match m.odds.len() == base.odds.len() {
                true => versus.with_log_odds(&base.odds, &m.odds),
                false => Ok(versus),
            });
            let versus = versus.map_err(|e| reptune_recipes::Error::from(e).into());
            let stage = format!("compare {} with the base", m.row.model);
            let skipped = ["the column `p vs base` of its row"];
            m.row.versus_base = run.failures.keep(&stage, skipped, versus);
        }
        measured.into_iter().map(|m| m.row).collect()
    }

    fn measure(&self, run: &mut Run) -> Vec<Measured> {
        let row = |name: &str, file: &str, key: &str| Row {
            name: name.to_owned(),
            file: format!("answers/{file}.json"),
            key: key.to_owned(),
        };
        let behaviour = run.session.recipe.behaviour.clone();
        let plain = run.session.plain();
        let mut all = Vec::new();
        let personas = [
            (BASE, "base", &plain),
            (
                "prompted, positive",
                "prompted_positive",
                &behaviour.positive,
            ),
            (
                "prompted, negative",
                "prompted_negative",
                &behaviour.negative,
            ),
        ];
        for (name, file, systems) in personas {
            let key = systems.json();
            all.extend(ask(run, row(name, file, &key), systems, &|s, ask| {
                ask(&s.own(&[], None))
            }));
        }
        let dose = |run: &Run, set, total| run.session.dose(set, total);
        if let Some((set, totals, key)) = &self.steering {
            for (sign, total) in [("plus", totals.positive), ("minus", totals.negative)] {
                let name = format!("steered {}", dose(run, set, total));
                let row = row(&name, &format!("steered_{sign}"), key);
                all.extend(ask(run, row, &plain, &|s, ask| {
                    ask(&s.own(&[s.steering(set, total)?], None))
                }));
            }
        }
        for Tuned {
            mode,
            update,
            key,
            merged,
        } in &self.tuned
        {
            let file = mode.file_name();
            let tuned = row(&format!("tuned {mode}"), &format!("tuned_{file}"), key);
            all.extend(ask(run, tuned, &plain, &|s, ask| {
                ask(&s.own(&[], Some(update)))
            }));
            let Some(merged) = merged else { continue };
            let name = format!("merged {mode}, mistral.rs");
            let row = row(&name, &format!("merged_{file}"), key);
            all.extend(ask(run, row, &plain, &|_, ask| {
                ask(&Engine::load(merged, None)?)
            }));
        }
        let baked = self
            .steering
            .iter()
            .flat_map(|s| self.baked.iter().map(move |b| (s, b)));
        for ((set, _, key), (sign, total, directory)) in baked {
            let name = format!("baked {}, mistral.rs", dose(run, set, *total));
            let row = row(&name, &format!("baked_{sign}"), key);
            all.extend(ask(run, row, &plain, &|_, ask| {
                ask(&Engine::load(directory, None)?)
            }));
        }
        all
    }
}

/// The row of the model as it is.
const BASE: &str = "base";

/// Asks a model.
type Ask<'a> = &'a mut dyn FnMut(&dyn Answerer) -> Result<Measured>;

/// What the model of `row` answers under `systems`; `load` makes it. None if that fails.
fn ask(
    run: &mut Run,
    row: Row,
    systems: &[String],
    load: &dyn Fn(&Session, Ask) -> Result<Measured>,
) -> Option<Measured> {
    let Run {
        session,
        stages,
        failures,
    } = run;
    let (name, stage) = (&row.name, format!("evaluate {}", row.name));
    let inputs = [&session.evaluation_inputs(), &row.key, name];
    let measured = stages.json(&row.file, inputs, || {
        let mut shown = progress::steps(&stage, session.test_questions());
        load(session, &mut |answerer| {
            let mut measured = session.measure(name, answerer, systems, &mut shown)?;
            measured.open = session.open_answers(answerer, systems)?;
            Ok(measured)
        })
    });
    let skipped = [format!("the row `{name}` of the results")];
    Some(failures.keep(&stage, skipped, measured)?.0)
}

/// Has the open answers of every model compared with those of the base. The judge's replies
/// are kept.
fn judge(run: &mut Run, all: &mut [Measured]) {
    let Run {
        session,
        stages,
        failures,
    } = run;
    let evaluation = &session.recipe.evaluation;
    let (Some(open), Some(settings)) = (&evaluation.open_ended, &evaluation.judge) else {
        return;
    };
    let Some((base, others)) = all.split_first_mut().filter(|(b, _)| b.row.model == BASE) else {
        return;
    };
    let answers: Vec<&[String]> = others.iter().map(|m| m.open.as_slice()).collect();
    let inputs = session.inputs(&[settings, open, &base.open, &answers]);
    let replies = stages.path("judge.jsonl");
    let judged = stages.json("judged.json", [inputs], || {
        let questions = session.open_questions()?;
        let mut judge = Judge::new(settings, &open.criterion, &replies)?;
        let mut shown = progress::steps("judge", questions.len() * others.len());
        let mut said = Vec::new();
        for (i, other) in others.iter().enumerate() {
            let mut progress = |done| shown(i * questions.len() + done);
            let (first, second) = (&base.open, &other.open);
            said.push(judge.compare_all(&questions, first, second, &mut progress)?);
        }
        Ok(said)
    });
    let judged = failures.keep("judge", ["the column `judged`"], judged);
    for (other, said) in others.iter_mut().zip(judged.into_iter().flat_map(|j| j.0)) {
        other.row.judged = Some(said);
    }
}

/// Steers with directions that should do nothing, at the totals of the run: random ones,
/// and those of the same pairs with positive and negative exchanged in half of them.
fn controls(session: &Session, steering: &DirectionSet, totals: &Totals) -> Result<Vec<Measured>> {
    let mut rng = ChaCha8Rng::seed_from_u64(session.recipe.seed);
    let mut sets = vec![("random", random(steering, &mut rng)?)];
    if let Some(set) = shuffled(session, steering, &mut rng)? {
        sets.push(("shuffled", set));
    }
    let questions = session.test_questions();
    let mut shown = progress::steps("controls", questions * 2 * sets.len());
    let mut rows = Vec::new();
    for (name, set) in &sets {
        for total in [totals.positive, totals.negative] {
            let steering = [session.steering(set, total)?];
            let model = format!("{name} direction {}", session.dose(set, total));
            let (from, own) = (rows.len() * questions, session.own(&steering, None));
            let mut progress = |done| shown(from + done);
            rows.push(session.measure(&model, &own, &session.plain(), &mut progress)?);
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
pub(super) fn repeats(run: &mut Run, directions: &DirectionSet, key: &str) -> Vec<SeedRepeats> {
    let Some(study) = run.session.recipe.study.clone() else {
        return Vec::new();
    };
    let mut all = Vec::new();
    for mode in run.session.recipe.tuning.modes.clone() {
        let (model, mut rows) = (format!("tuned {mode}"), Vec::new());
        for seed in &study.seeds {
            let skipped = [format!("seed {seed} of `{model}`")];
            let row = repeat(run, mode, *seed, directions, key);
            rows.extend(
                run.failures
                    .keep(&format!("{mode}, seed {seed}"), skipped, row),
            );
        }
        all.push(SeedRepeats { model, rows });
    }
    all
}

fn repeat(
    run: &mut Run,
    mode: Mode,
    seed: u64,
    directions: &DirectionSet,
    key: &str,
) -> Result<ModelRow> {
    let (adapter, key) = run.tuned(mode, Some(seed), directions, key, None)?;
    let (session, model) = (&run.session, format!("tuned {mode}, seed {seed}"));
    let inputs = [key, session.evaluation_inputs()];
    let file = format!("seeds/{seed}/{}.json", mode.file_name());
    let (measured, _) = run.stages.json(&file, inputs, || {
        let update = peft::load(&adapter, session.llama.spec())?;
        let mut shown = progress::steps(format!("evaluate {model}"), session.test_questions());
        let own = session.own(&[], Some(&update));
        session.measure(&model, &own, &session.plain(), &mut shown)
    })?;
    Ok(measured.row)
}
