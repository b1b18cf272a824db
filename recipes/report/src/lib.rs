//! A study as plain data in; a page, CSV, JSON and Markdown out. Knows no model and no file.
//!
//! The caller fills a [`Report`]; every part may be absent and is then left out.
//! [`Report::files`] makes a directory of it:
//!
//! ```text
//! index.html     one page, no scripts, nothing fetched
//! recipe.toml    the recipe, byte for byte
//! data/          every table as CSV and as JSON
//! ```
//!
//! A part is one module: its input struct, its table, its figure. Figures are SVG in the
//! colours of the page's style sheet, so they follow the reader's light or dark theme. The
//! counts and tests that the tables show (outcomes with Wilson intervals, McNemar's test,
//! comparisons, preferences, claims) are plain data of this crate too.

mod aligned;
mod canvas;
mod chart;
mod claim;
mod comparison;
mod cosine_map;
mod dose_curve;
mod error;
mod layer_cosine;
mod lens;
mod loss_curve;
mod markdown;
mod mcnemar;
mod measure;
mod model_row;
mod number;
mod outcomes;
mod page;
mod preference;
mod projection_figure;
mod quantized;
mod report;
mod result_table;
mod run_header;
mod sample;
mod scatter_figure;
mod section;
mod seed_repeats;
mod shares;
mod sheet;
mod table;
#[cfg(test)]
mod tests;

pub use aligned::aligned;
pub use claim::{ClaimOutcome, ClaimQuantity, ClaimRelation, Finding, Margin, StudyClaim};
pub use comparison::{Comparison, LogOddsShift};
pub use cosine_map::CosineMap;
pub use dose_curve::{DoseCurve, DosePoint};
pub use error::{Error, Result};
pub use layer_cosine::LayerCosine;
pub use lens::LensRow;
pub use loss_curve::{LossCurve, LossStep};
pub use mcnemar::{McNemar, McNemarTest};
pub use measure::Measure;
pub use model_row::ModelRow;
pub use outcomes::{Outcomes, Poles, Verdict, wilson};
pub use page::{MARK, PAGE};
pub use preference::{Judgement, Preference, Preferences};
pub use projection_figure::ProjectionFigure;
pub use quantized::{QuantizedRow, quantized_table};
pub use report::Report;
pub use result_table::ResultTable;
pub use run_header::RunHeader;
pub use sample::{Sample, SampleAnswer};
pub use scatter_figure::ScatterFigure;
pub use seed_repeats::SeedRepeats;
