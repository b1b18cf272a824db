//! Tunings repeated with other seeds.

use crate::measure::Measure;
use crate::model_row::ModelRow;
use crate::outcomes::Poles;
use crate::section::Section;
use crate::sheet::Cell;
use crate::table::Column;
use serde::{Deserialize, Serialize};

/// One model, tuned once for each seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeedRepeats {
    /// The model, as its row in the result table is called: `tuned in- & lie`.
    pub model: String,
    /// What each seed gave, in the order of the seeds.
    pub rows: Vec<ModelRow>,
}

impl SeedRepeats {
    /// Mean, least and largest over the seeds.
    fn spread(&self, measure: Measure) -> Option<[f64; 3]> {
        let values = self.rows.iter().map(|r| measure.of(r));
        let values: Vec<f64> = values.collect::<Option<_>>()?;
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let least = values.iter().copied().reduce(f64::min)?;
        let largest = values.iter().copied().reduce(f64::max)?;
        Some([mean, least, largest])
    }

    /// The columns of a table of repeats.
    pub(crate) fn columns(poles: &Poles) -> Vec<Column<Self>> {
        let mut columns = vec![
            Column::text("model", "model", |r: &Self| r.model.clone()),
            Column::count("seeds", "seeds", |r: &Self| Some(r.rows.len())),
        ];
        columns.extend(Measure::REPEATED.map(|measure| {
            let names = ["mean", "least", "largest"].map(|x| format!("{}_{x}", measure.name()));
            let names = names.each_ref().map(String::as_str);
            Column::new(&measure.heading(poles), &names, move |r: &Self| {
                let spread = r.spread(measure)?;
                let [mean, least, largest] = spread;
                Some((
                    format!("{mean:.3} ({least:.3} to {largest:.3})"),
                    spread.map(Cell::from).to_vec(),
                ))
            })
        }));
        columns
    }
}

/// The part of the page about `all`.
pub(crate) fn section(all: &[SeedRepeats], poles: &Poles) -> Option<Section> {
    Section::new(
        "repeats",
        "Other seeds",
        "Mean over the seeds, with the least and the largest. Look for models that differ by \
         more than their seeds do.",
    )
    .table(&SeedRepeats::columns(poles), all)
}
