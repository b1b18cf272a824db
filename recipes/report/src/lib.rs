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
//! A part is one struct: its input, and `section`, its table or figure. Figures are SVG in the
//! colours of the page's style sheet, so they follow the reader's light or dark theme. The
//! counts and tests that the tables show (outcomes with Wilson intervals, McNemar's test,
//! comparisons, preferences, claims) are plain data of this crate too.

mod canvas;
mod chart;
mod claim;
mod comparison;
mod cosine_map;
mod curves;
mod direction;
mod error;
mod failure;
mod model_row;
mod number;
mod outcomes;
mod quantized;
mod report;
mod result_table;
mod section;
mod table;
#[cfg(test)]
mod tests;
mod words;

pub use claim::{ClaimOutcome, ClaimQuantity, ClaimRelation, Finding, Margin, StudyClaim};
pub use comparison::{
    Comparison, Judgement, LogOddsShift, McNemar, McNemarTest, Preference, Preferences,
};
pub use cosine_map::CosineMap;
pub use curves::{DoseCurve, DosePoint, LossCurve, LossStep};
pub use direction::{LayerCosine, ProjectionFigure, ScatterFigure};
pub use error::{Error, Result};
pub use failure::StageFailure;
pub use model_row::{Measure, ModelRow};
pub use outcomes::{Outcomes, Poles, Verdict, wilson};
pub use quantized::{QuantizedRow, quantized_table};
pub use report::{MARK, PAGE, Report, RunHeader};
pub use result_table::{ResultTable, SeedRepeats};
pub use table::aligned;
pub use words::{LensRow, Sample, SampleAnswer};
