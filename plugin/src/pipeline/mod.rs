//! What a recipe does, stage by stage, in the directory of its run.
//!
//! Every stage is skipped while its inputs are the same.

mod evaluator;
mod failures;
mod figures;
mod merge;
mod results;
mod run;
mod search;
mod selection;
mod sweep;
mod tuning_plan;
mod whole;

pub use merge::{MergeOutcome, MergeSettings, QuantizedMerging};
pub use run::{DIRECTIONS, ORDERED, Run, direction_set, one_place};
pub use search::{check_search, search};
pub use selection::SelectionOutcome;
pub use sweep::{CHOICE_FILE, SELECTION, SWEEP_CELLS, SweepCell};
pub use tuning_plan::{ModePlan, Planned, plan};
pub use whole::{RunOutcome, run, table};
