//! Everything a report can show.

use super::cosine_map::CosineMap;
use super::dose_curve::{self, DoseCurve};
use super::finding::{self, Finding};
use super::header::Header;
use super::layer_cosine::{self, LayerCosine};
use super::lens::{self, LensRow};
use super::loss_curve::{self, LossCurve};
use super::projections::{self, Projections};
use super::result::Report;
use super::sample::{self, Sample};
use super::scatter::{self, Scatter};
use super::section::Section;
use super::survival::{self, Survived};
use super::{directory, markdown, page, repeats, shares};
use crate::error::Result;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What a run found. A part that is empty is left out of the page.
///
/// A number that is not finite counts as not measured.
///
/// ```
/// use reptune_recipes::evaluate::Tally;
/// use reptune_recipes::report::{Report, Row, Study};
///
/// let base = Row {
///     model: "base".into(),
///     claims: Tally { n: 200, honest: 162, lie: 38 },
///     choices: None,
///     sample: "A".into(),
///     ..Row::default()
/// };
/// let study = Study {
///     results: Report { recipe: "honesty".into(), rows: vec![base], ..Report::default() },
///     ..Study::default()
/// };
/// assert!(study.markdown().contains("| base | 0.810"));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Study {
    /// When and with what.
    pub header: Header,
    /// The result table.
    pub results: Report,
    /// Tunings with other seeds.
    pub repeats: Vec<repeats::Repeats>,
    /// The paper's claims.
    pub findings: Vec<Finding>,
    /// Quantized merges.
    pub survival: Vec<Survived>,
    /// Cosine difference by layer and token.
    pub cosine_map: CosineMap,
    /// The direction layer by layer.
    pub layers: Vec<LayerCosine>,
    /// Projections, a panel a layer.
    pub projections: Vec<Projections>,
    /// Principal components, a panel a layer.
    pub scatters: Vec<Scatter>,
    /// Logit lens, a row a layer.
    pub lens: Vec<LensRow>,
    /// Losses, a panel a tuning.
    pub losses: Vec<LossCurve>,
    /// Steering doses, panels for each set of layers.
    pub doses: Vec<DoseCurve>,
    /// Generations.
    pub samples: Vec<Sample>,
    /// The text of the recipe file, byte for byte.
    pub recipe: String,
}

impl Study {
    /// Writes the report as the directory `out`: `index.html`, `recipe.toml` and `data/`.
    ///
    /// A report that stands there is replaced as a whole. Same study, same bytes.
    ///
    /// # Errors
    /// When parts do not fit together, when something other than a report stands at `out`, or
    /// when it cannot be written.
    pub fn write(&self, out: &Path) -> Result<()> {
        directory::replace(out, &self.files()?)
    }

    /// The result table and the paper's claims as Markdown.
    pub fn markdown(&self) -> String {
        markdown::markdown(self)
    }

    /// Every file of the report with its content.
    pub(super) fn files(&self) -> Result<Vec<(PathBuf, Vec<u8>)>> {
        let sections = self.sections()?;
        let mut files = vec![(
            PathBuf::from(directory::PAGE),
            page::html(self, &sections)?.into_bytes(),
        )];
        if !self.recipe.is_empty() {
            files.push(("recipe.toml".into(), self.recipe.clone().into_bytes()));
        }
        for sheet in sections.iter().filter_map(|s| s.sheet.as_ref()) {
            let path = |ending: &str| PathBuf::from(format!("data/{}.{ending}", sheet.name));
            files.push((path("csv"), sheet.csv()?));
            files.push((path("json"), sheet.json()));
        }
        Ok(files)
    }

    /// The parts that are there, in the order of the page: answers, then where they come from.
    fn sections(&self) -> Result<Vec<Section>> {
        let parts = [
            self.results.section(),
            shares::section(&self.results)?,
            repeats::section(&self.repeats),
            finding::section(&self.findings),
            survival::section(&self.survival),
            self.cosine_map.section()?,
            layer_cosine::section(&self.layers)?,
            projections::section(&self.projections)?,
            scatter::section(&self.scatters)?,
            lens::section(&self.lens),
            dose_curve::section(&self.doses)?,
            loss_curve::section(&self.losses)?,
            sample::section(&self.samples),
        ];
        Ok(parts.into_iter().flatten().collect())
    }
}
