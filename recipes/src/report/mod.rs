//! What a run found, for people and for programs: a table, and a page with figures.
//!
//! A [`Study`] is plain data that the caller fills; every part may be absent and is then left
//! out of the page. [`Study::write`] makes a directory of it:
//!
//! ```text
//! index.html     one page, no scripts, nothing fetched
//! recipe.toml    the recipe, byte for byte
//! data/          every table as CSV and as JSON
//! ```
//!
//! A part is one module: its input struct, its table, its figure. Figures are drawn with the
//! SVG backend of plotters in placeholder colours, which the module `ink` alone turns into variables of
//! the page's style, so that they follow the reader's theme.

mod aligned;
mod canvas;
mod chart;
mod cosine_map;
#[cfg(test)]
mod demo;
mod directory;
mod dose_curve;
mod finding;
mod header;
mod ink;
mod layer_cosine;
mod lens;
mod loss_curve;
mod markdown;
mod number;
mod page;
mod projections;
mod repeats;
mod result;
mod sample;
mod scatter;
mod section;
mod shares;
mod sheet;
mod study;
mod survival;
#[cfg(test)]
mod tests;

pub use aligned::aligned;
pub use cosine_map::CosineMap;
pub use dose_curve::{Dose, DoseCurve};
pub use finding::{Finding, Measured, Outcome};
pub use header::Header;
pub use layer_cosine::LayerCosine;
pub use lens::LensRow;
pub use loss_curve::{LossCurve, LossStep};
pub use projections::Projections;
pub use repeats::Repeats;
pub use result::{Report, Row};
pub use sample::{Answer, Sample};
pub use scatter::Scatter;
pub use study::Study;
pub use survival::{Survived, table as survival_table};
