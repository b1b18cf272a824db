//! The figures of a run: what its report shows beside the table.

use super::run::METRICS;
use crate::progress::Progress;
use crate::session::{Coeffs, Session};
use reptune_adapters::{DirectionSet, Positions, files};
use reptune_recipes::extract::{CapturedPairs, extract_each};
use reptune_recipes::pictures::{cosine_map, logit_lens, scatter};
use reptune_recipes::recipe::Mode;
use reptune_recipes::recipe::{PairFilter, Recipe};
use reptune_recipes::tune::Metrics;
use reptune_report::{
    CosineMap, DoseCurve, DosePoint, LayerCosine, LossCurve, LossStep, ModelRow, ProjectionFigure,
    Report, ResultTable, RunHeader, Sample, SampleAnswer,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Tokens of a logit lens, on each side.
const TOP: usize = 6;
/// Rows of the map of cosines, counted back from the last prompt token.
const MAPPED: usize = 8;
/// Most pairs of a picture.
const PAIRS: usize = 100;

/// What figures are drawn from.
pub struct Inputs<'a> {
    pub directions: &'a DirectionSet,
    pub coeffs: &'a Coeffs,
    pub results: &'a ResultTable,
}

impl Inputs<'_> {
    /// The report; the pairs of its figures are made of validation claims, which the
    /// directions have not seen. `tuned` are directories with losses.
    pub fn fill(&self, session: &Session, tuned: &[(Mode, PathBuf)]) -> crate::Result<Report> {
        let shown = Progress::unknown("figures");
        let mut progress = |done, all| shown.set_of(done, all);
        let (host, chat) = (&session.llama, &session.chat);
        let claims = &session.items.validation;
        let held = CapturedPairs::of(host, chat, &pictured(session), claims, &mut progress)?;
        let mut report = Report {
            header: self.header(session)?,
            results: self.results.clone(),
            losses: tuned.iter().map(losses).collect::<crate::Result<_>>()?,
            samples: self.samples(),
            recipe: text(&session.file)?,
            ..Report::default()
        };
        let chosen = held.positions.iter().map(|p| p.to_string());
        let place = chosen
            .into_iter()
            .position(|p| p == self.directions.provenance.rows)
            .unwrap_or(0);
        for (&layer, direction) in &self.directions.layers {
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
            let lens = logit_lens(host, chat, (layer, direction), TOP)?;
            report.lens.push(lens);
        }
        // A picture that cannot be drawn (prompts are too short) costs no run.
        report.cosine_map = map(session, &mut progress).unwrap_or_default();
        if !self.coeffs.tried.is_empty() {
            report.doses.push(self.doses(session));
        }
        Ok(report)
    }

    fn header(&self, session: &Session) -> crate::Result<RunHeader> {
        let directory = &session.directory;
        let config = files::read(&directory.join("config.json"))?;
        let tokenizer = files::read(&directory.join("tokenizer.json"))?;
        let hash = |bytes: &[u8]| files::sha256([bytes]);
        let recipe = files::read(&session.file)?;
        Ok(RunHeader {
            versions: BTreeMap::from([
                ("reptune".into(), env!("CARGO_PKG_VERSION").into()),
                ("mistral.rs".into(), "0.8.1".into()),
            ]),
            seeds: match &session.recipe.study {
                Some(study) => study.seeds.clone(),
                None => vec![session.recipe.seed],
            },
            hashes: BTreeMap::from([
                ("recipe file".into(), hash(&recipe)),
                ("config.json".into(), hash(&config)),
                ("tokenizer.json".into(), hash(&tokenizer)),
            ]),
            ..RunHeader::default()
        })
    }

    fn samples(&self) -> Vec<Sample> {
        let answer = |row: &ModelRow| SampleAnswer {
            model: row.model.clone(),
            text: row.sample.clone(),
        };
        vec![Sample {
            prompt: self.results.sample_question.clone(),
            answers: self.results.rows.iter().map(answer).collect(),
        }]
    }

    /// The doses tried on the validation claims.
    fn doses(&self, session: &Session) -> DoseCurve {
        let dose = |tried: &crate::session::Tried| DosePoint {
            coeff: tried.coeff,
            fraction: Some(tried.fraction),
            claims: tried.outcomes,
            ..DosePoint::default()
        };
        DoseCurve {
            layers: session.recipe.steering.layers.clone(),
            doses: self.coeffs.tried.iter().map(dose).collect(),
        }
    }
}

/// The recipe with few enough pairs to hold their rows in memory, all of them kept: a
/// picture shows also those that the model gets wrong.
fn pictured(session: &Session) -> Recipe {
    let mut recipe = session.recipe.clone();
    recipe.extraction.keep = PairFilter::All;
    recipe.extraction.pairs = recipe.extraction.pairs.min(PAIRS);
    recipe
}

/// Mean cosine difference of held-out pairs by layer and row, for the last rows of the
/// prompt, each with directions of its own.
fn map(session: &Session, progress: &mut dyn FnMut(usize, usize)) -> crate::Result<CosineMap> {
    let (host, chat) = (&session.llama, &session.chat);
    let mut recipe = pictured(session);
    recipe.extraction.positions = Positions::Last(MAPPED);
    recipe.extraction.method = Default::default();
    recipe.extraction.without = None;
    let (found, _) = extract_each(host, chat, &recipe, &session.items.train, progress)?;
    let held = CapturedPairs::of(host, chat, &recipe, &session.items.validation, progress)?;
    Ok(cosine_map(&held, &found)?)
}

fn losses((mode, directory): &(Mode, PathBuf)) -> crate::Result<LossCurve> {
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

fn text(path: &Path) -> crate::Result<String> {
    Ok(String::from_utf8_lossy(&files::read(path)?).into_owned())
}
