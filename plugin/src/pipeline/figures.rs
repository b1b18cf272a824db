//! The figures of a run: what its report shows next to the table.

use super::{results::place_of, run::METRICS};
use crate::session::{Session, Totals};
use crate::{error::Result, progress};
use reptune_adapters::{DirectionSet, Positions, files};
use reptune_recipes::extract::{CapturedPairs, extract_each};
use reptune_recipes::pictures::{cosine_map, logit_lens, scatter};
use reptune_recipes::recipe::{Mode, PairFilter, Recipe};
use reptune_recipes::tune::Metrics;
use reptune_report::{
    CosineMap, DoseCurve, DosePoint, LayerCosine, LossCurve, LossStep, ProjectionFigure, Report,
    ResultTable, RunHeader, Sample, SampleAnswer,
};
use std::path::PathBuf;

/// Tokens of a logit lens, on each side.
const TOP: usize = 6;
/// Positions of the map of cosines, counted back from the last prompt token.
const MAPPED: usize = 8;
/// Most pairs of a figure.
const PAIRS: usize = 100;

/// The report without figures.
pub fn report(session: &Session, results: &ResultTable) -> Result<Report> {
    let recipe = files::read(&session.file)?;
    let answers = results.rows.iter().map(|row| SampleAnswer {
        model: row.model.clone(),
        text: row.sample.clone(),
    });
    Ok(Report {
        header: header(session, &recipe)?,
        results: results.clone(),
        samples: vec![Sample {
            prompt: results.sample_question.clone(),
            answers: answers.collect(),
        }],
        recipe: String::from_utf8_lossy(&recipe).into_owned(),
        ..Report::default()
    })
}

/// Draws the figures of `report`. Their pairs are made of validation claims, which the
/// directions have not seen; `tuned` are directories with losses. What was drawn before an
/// error stays.
pub fn draw(
    session: &Session,
    directions: &DirectionSet,
    totals: Option<&Totals>,
    tuned: &[(Mode, PathBuf)],
    report: &mut Report,
) -> Result<()> {
    let mut shown = progress::of("figures");
    report.losses = tuned.iter().map(losses).collect::<Result<_>>()?;
    let tried = totals.iter().flat_map(|c| &c.tried);
    let doses = tried.map(|tried| DosePoint {
        total: tried.total,
        fraction: Some(tried.fraction),
        claims: tried.outcomes,
        ..DosePoint::default()
    });
    let doses: Vec<DosePoint> = doses.collect();
    if !doses.is_empty() {
        let layers = session.recipe.steering.layers.clone();
        report.doses.push(DoseCurve { layers, doses });
    }
    let (model, chat) = (&session.llama, &session.chat);
    let claims = &session.items.validation;
    let held = CapturedPairs::of(model, chat, &pictured(session), claims, &mut shown)?;
    let place = place_of(&held, directions);
    for (&layer, direction) in &directions.layers {
        let contrast = held.contrast(place, layer)?;
        let (positive, negative) = contrast.cosines(direction);
        report.layers.push(LayerCosine {
            layer,
            positive,
            negative,
            ordered: contrast.ordered(direction),
        });
        let (positive, negative) = contrast.projections(direction);
        report.projections.push(ProjectionFigure {
            layer,
            positive,
            negative,
        });
        report.scatters.push(scatter(layer, contrast)?);
        let lens = logit_lens(model, chat, (layer, direction), TOP)?;
        report.lens.push(lens);
    }
    // A figure that cannot be drawn (prompts are too short) costs no run.
    report.cosine_map = map(session, &mut shown).unwrap_or_default();
    Ok(())
}

fn header(session: &Session, recipe: &[u8]) -> Result<RunHeader> {
    let of_file = |name: &str| files::read(&session.directory.join(name));
    let (config, tokenizer) = (of_file("config.json")?, of_file("tokenizer.json")?);
    let hash = |name: &str, bytes: &[u8]| (name.to_owned(), files::sha256([bytes]));
    let study = session.recipe.study.as_ref();
    Ok(RunHeader {
        versions: [
            ("reptune".into(), env!("CARGO_PKG_VERSION").into()),
            ("mistral.rs".into(), "0.8.1".into()),
        ]
        .into(),
        seeds: study.map_or(vec![session.recipe.seed], |study| study.seeds.clone()),
        hashes: [
            hash("recipe file", recipe),
            hash("config.json", &config),
            hash("tokenizer.json", &tokenizer),
        ]
        .into(),
        ..RunHeader::default()
    })
}

/// The recipe with few enough pairs to hold their rows in memory, all of them kept: a
/// figure shows also those that the model gets wrong.
fn pictured(session: &Session) -> Recipe {
    let mut recipe = session.recipe.clone();
    recipe.extraction.keep = PairFilter::All;
    recipe.extraction.pairs = recipe.extraction.pairs.min(PAIRS);
    recipe
}

/// Mean cosine difference of held-out pairs by layer and position, for the last positions of
/// the prompt, each with directions of its own.
fn map(session: &Session, progress: &mut dyn FnMut(usize, usize)) -> Result<CosineMap> {
    let (model, chat, items) = (&session.llama, &session.chat, &session.items);
    let mut recipe = pictured(session);
    recipe.extraction.positions = Positions::Last(MAPPED);
    recipe.extraction.method = Default::default();
    recipe.extraction.without = None;
    let (found, _) = extract_each(model, chat, &recipe, &items.train, progress)?;
    let held = CapturedPairs::of(model, chat, &recipe, &items.validation, progress)?;
    Ok(cosine_map(&held, &found)?)
}

fn losses((mode, directory): &(Mode, PathBuf)) -> Result<LossCurve> {
    let step = |m: Metrics| LossStep {
        step: m.step,
        token: m.loss("token"),
        representation: m.loss("representation"),
        validation_token: m.validation_loss("token"),
        validation_representation: m.validation_loss("representation"),
    };
    let metrics = Metrics::read(&directory.join(METRICS))?;
    Ok(LossCurve {
        mode: mode.name().into(),
        steps: metrics.into_iter().map(step).collect(),
    })
}
