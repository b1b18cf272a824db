//! What failed in a run. The rest of the run goes on.

use crate::error::Result;
use crate::progress;
use reptune_report::StageFailure;

/// The failures so far, in their order.
#[derive(Default)]
pub struct Failures(Vec<StageFailure>);

impl Failures {
    /// The result of `stage`. A failure is recorded, with what is `skipped` because of it.
    pub(super) fn keep<T>(
        &mut self,
        stage: &str,
        skipped: impl IntoIterator<Item = impl Into<String>>,
        result: Result<T>,
    ) -> Option<T> {
        let error = match result {
            Ok(done) => return Some(done),
            Err(error) => error,
        };
        progress::line(format_args!(
            "failed, and the run goes on: {stage}: {error}"
        ));
        self.0.push(StageFailure {
            stage: stage.to_owned(),
            error: error.to_string(),
            skipped: skipped.into_iter().map(Into::into).collect(),
        });
        None
    }

    pub(super) fn all(&self) -> &[StageFailure] {
        &self.0
    }
}
