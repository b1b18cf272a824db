//! Everything a report can show.

use crate::claim::{self, Finding};
use crate::cosine_map::CosineMap;
use crate::dose_curve::{self, DoseCurve};
use crate::error::Result;
use crate::layer_cosine::{self, LayerCosine};
use crate::lens::{self, LensRow};
use crate::loss_curve::{self, LossCurve};
use crate::projection_figure::{self, ProjectionFigure};
use crate::quantized::{self, QuantizedRow};
use crate::result_table::ResultTable;
use crate::run_header::RunHeader;
use crate::sample::{self, Sample};
use crate::scatter_figure::{self, ScatterFigure};
use crate::section::Section;
use crate::seed_repeats::{self, SeedRepeats};
use crate::shares;
use serde::{Deserialize, Serialize};

/// What a run found. A part that is empty is left out of the page.
///
/// A number that is not finite counts as not measured.
///
/// ```
/// use reptune_report::{ModelRow, Outcomes, Report, ResultTable};
///
/// let base = ModelRow {
///     model: "base".into(),
///     claims: Outcomes { positive: 162, negative: 38, unscored: 0 },
///     ..ModelRow::default()
/// };
/// let report = Report {
///     results: ResultTable { recipe: "honesty".into(), rows: vec![base], ..Default::default() },
///     ..Report::default()
/// };
/// assert!(report.markdown().contains("| base | 0.810"));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// When and with what.
    pub header: RunHeader,
    /// The result table, with the names of the behaviour's two sides.
    pub results: ResultTable,
    /// Tunings with other seeds.
    pub repeats: Vec<SeedRepeats>,
    /// The claims of the recipe, and what the run says about them.
    pub findings: Vec<Finding>,
    /// Quantized merges.
    pub quantized: Vec<QuantizedRow>,
    /// Cosine difference by layer and token.
    pub cosine_map: CosineMap,
    /// The direction layer by layer.
    pub layers: Vec<LayerCosine>,
    /// Projections, a panel a layer.
    pub projections: Vec<ProjectionFigure>,
    /// Principal components, a panel a layer.
    pub scatters: Vec<ScatterFigure>,
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

impl Report {
    /// The parts that are there, in the order of the page: answers, then where they come from.
    pub(crate) fn sections(&self) -> Result<Vec<Section>> {
        let poles = &self.results.poles;
        let parts = [
            self.results.section(),
            shares::section(&self.results),
            seed_repeats::section(&self.repeats, poles),
            claim::section(&self.findings),
            quantized::section(&self.quantized, poles),
            self.cosine_map.section()?,
            layer_cosine::section(&self.layers),
            projection_figure::section(&self.projections),
            scatter_figure::section(&self.scatters),
            lens::section(&self.lens),
            dose_curve::section(&self.doses, poles),
            loss_curve::section(&self.losses),
            sample::section(&self.samples),
        ];
        Ok(parts.into_iter().flatten().collect())
    }
}
