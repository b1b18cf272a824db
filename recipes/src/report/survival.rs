//! What is left of a tuned behaviour in quantized weights.

use super::section::{Grid, Section};
use super::sheet::{Cell, Sheet};
use crate::evaluate::{Behaviour, Tally};
use serde::{Deserialize, Serialize};

/// Above the table.
pub(super) const CAPTION: &str = "Effect kept: of what tuning changed in the unquantized model, \
the share that is still there, the smaller of that of the answers (honest minus lies) and that of \
the log-odds, both on the test claims. KL is that from the same model unquantized, on the neutral \
texts. Delta: cosine and norm of what is left of it in the weights, mean over the tuned modules; noise is the \
rounding error at their outputs as a share of what the delta adds there.";

/// One model, quantized or not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Survived {
    /// `base`, or the mode that was tuned.
    pub model: String,
    /// How it was merged; empty for an unquantized model.
    pub way: String,
    /// The type that was asked for; empty for an unquantized model.
    pub wanted: String,
    /// Types of the linear layers with their numbers, as `q4_0 x 43`.
    pub types: String,
    /// Bits per weight of the linear layers and the head.
    pub bits: f64,
    /// Bytes of the file with them; of an unquantized model those of a f32 file.
    pub bytes: u64,
    /// Test claims.
    pub claims: Tally,
    /// Two-choice questions, if the recipe has some.
    pub choices: Option<Tally>,
    /// On the test claims.
    pub behaviour: Behaviour,
    /// Share of the tuned effect; none for a base.
    pub kept: Option<f64>,
    /// Mean cosine of the tuned rows to the direction, on the test claims, where there is one.
    pub cosine: Option<f64>,
    /// Mean KL from the unquantized model of the same name, in nats.
    pub divergence: Option<f64>,
    /// Mean cosine of what is left of the delta to the delta.
    pub delta_cosine: Option<f64>,
    /// Mean norm of what is left of the delta, as a share of its norm.
    pub delta_share: Option<f64>,
    /// Mean rounding error at the outputs of tuned modules, as a share of the delta's outputs.
    pub noise: Option<f64>,
}

/// The table as text cells, header first.
pub(super) fn grid(all: &[Survived]) -> Grid {
    let head = [
        "model",
        "merged",
        "type",
        "bits",
        "KB",
        "claims: honest",
        "claims: lie",
        "two-choice: honest",
        "two-choice: lie",
        "log-odds",
        "effect kept",
        "cosine",
        "KL",
        "delta: cosine",
        "delta: norm",
        "noise",
    ];
    let row = |s: &Survived| {
        let number = |x: Option<f64>, digits: usize| match x {
            Some(x) => format!("{x:.digits$}"),
            None => "-".into(),
        };
        let or = |text: &str, other: &str| match text {
            "" => other.to_owned(),
            text => text.to_owned(),
        };
        vec![
            s.model.clone(),
            or(&s.way, "-"),
            or(&s.wanted, "unquantized"),
            number(Some(s.bits), 2),
            (s.bytes / 1000).to_string(),
            number(Some(s.claims.honest_share()), 3),
            number(Some(s.claims.lie_share()), 3),
            number(s.choices.map(|c| c.honest_share()), 3),
            number(s.choices.map(|c| c.lie_share()), 3),
            format!("{:+.2}", s.behaviour.log_odds),
            number(s.kept, 2),
            s.cosine.map_or("-".into(), |x| format!("{x:+.3}")),
            number(s.divergence, 4),
            number(s.delta_cosine, 3),
            number(s.delta_share, 2),
            number(s.noise, 2),
        ]
    };
    Grid::new(&head, all.iter().map(row).collect())
}

/// As a part of the page.
pub(super) fn section(all: &[Survived]) -> Option<Section> {
    let columns = [
        "model",
        "merged",
        "type",
        "types",
        "bits",
        "bytes",
        "claims_honest",
        "claims_lie",
        "choices_honest",
        "choices_lie",
        "balance",
        "log_odds",
        "kept",
        "cosine",
        "divergence",
        "delta_cosine",
        "delta_share",
        "noise",
    ];
    let row = |s: &Survived| {
        vec![
            Cell::text(&s.model),
            Cell::text(&s.way),
            Cell::text(&s.wanted),
            Cell::text(&s.types),
            Cell::Number(s.bits),
            Cell::Number(s.bytes as f64),
            Cell::Number(s.claims.honest_share()),
            Cell::Number(s.claims.lie_share()),
            Cell::number(s.choices.map(|c| c.honest_share())),
            Cell::number(s.choices.map(|c| c.lie_share())),
            Cell::Number(s.behaviour.balance),
            Cell::Number(s.behaviour.log_odds),
            Cell::number(s.kept),
            Cell::number(s.cosine),
            Cell::number(s.divergence),
            Cell::number(s.delta_cosine),
            Cell::number(s.delta_share),
            Cell::number(s.noise),
        ]
    };
    (!all.is_empty()).then(|| Section {
        table: Some(grid(all)),
        sheet: Some(Sheet::new("survival", columns, all.iter().map(row))),
        ..Section::new("survival", "In quantized weights", CAPTION)
    })
}

/// The same as aligned text, for a terminal.
pub fn table(all: &[Survived]) -> String {
    super::aligned(&grid(all).lines())
}
