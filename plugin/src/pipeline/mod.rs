//! What a recipe does, stage by stage, in the directory of its run.
//!
//! Every stage is skipped while its inputs are the same; see [`Stages`](crate::stages::Stages).

mod controls;
mod evaluator;
mod figures;
mod merge;
mod results;
mod retention;
mod run;
mod search;
mod select;
mod sweep;
mod tuning_plan;
mod whole;

pub use evaluator::calibration;
pub use merge::{MergeSettings, Merged, QuantizedMerging};
pub use run::{DIRECTIONS, ORDERED, Run, direction_set, one_place};
pub use search::{SearchResult, check_search, search};
pub use select::{RESULT as CHOICE_FILE, SELECTION, Selection, Tested, select};
pub use sweep::{CELLS as SWEEP_CELLS, Sweep, SweepCell};
pub use tuning_plan::{ModePlan, Planned, Rate, plan};
pub use whole::{Finished, run, table};
