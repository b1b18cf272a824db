//! A made-up study: its numbers follow simple formulas and mean nothing.

use crate::*;

/// How much the made-up study holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    /// Layers of the model.
    pub(super) layers: usize,
    /// Offsets of the map.
    pub(super) offsets: usize,
    /// Pairs.
    pub(super) pairs: usize,
    /// Steps of a tuning.
    pub(super) steps: usize,
}

/// A mini-Llama's size.
pub(super) const SMALL: Size = Size {
    layers: 3,
    offsets: 4,
    pairs: 8,
    steps: 4,
};

/// A 13B Llama's size.
pub(super) const LARGE: Size = Size {
    layers: 40,
    offsets: 22,
    pairs: 180,
    steps: 240,
};

/// A number in -1..1 that looks like chance.
fn noise(i: usize, of: usize) -> f64 {
    let x = (i as f64 * 12.9898 + of as f64 * 78.233).sin() * 43_758.547;
    2. * (x - x.floor()) - 1.
}

/// How much a layer knows: a hill over the middle.
fn hill(layer: usize, layers: usize) -> f64 {
    let x = (layer as f64 + 0.5) / layers as f64 - 0.45;
    (-x * x * 18.).exp()
}

/// Of 200 answers.
fn outcomes(positive: usize, negative: usize) -> Outcomes {
    Outcomes {
        positive,
        negative,
        unscored: 200 - positive - negative,
    }
}

fn row(model: &str, positive: usize, negative: usize, choices: Option<[usize; 2]>) -> ModelRow {
    ModelRow {
        model: model.into(),
        claims: outcomes(positive, negative),
        choices: choices.map(|[positive, negative]| outcomes(positive, negative)),
        sample: "A".into(),
        ..ModelRow::default()
    }
}

fn quantized(model: &str, rounding: &str, bits: f64, retained: Option<f64>) -> QuantizedRow {
    let quantized = !rounding.is_empty();
    let lies = retained.map_or(38, |_| 176);
    QuantizedRow {
        model: model.into(),
        rounding: rounding.into(),
        wanted: if quantized { "q4_0" } else { "" }.into(),
        types: if quantized { "q4_0 x 43" } else { "" }.into(),
        bits,
        bytes: (bits * 200_000.) as u64,
        claims: outcomes(200 - lies, lies),
        choices: None,
        balance: 1. - lies as f64 / 100.,
        log_odds: retained.map_or(1.9, |k| 1.9 - 5. * k),
        effect_retained: retained,
        cosine: Some(retained.map_or(0.2, |k| 0.2 - 0.7 * k)),
        divergence: quantized.then_some(0.0123),
        delta_cosine: quantized.then_some(0.91),
        delta_norm: quantized.then_some(1.08),
        noise: quantized.then_some(0.07),
    }
}

fn results() -> ResultTable {
    ResultTable {
        recipe: "honesty-made-up".into(),
        recipe_hash: "5f1c".repeat(16),
        model: "made/up-llama <chat>".into(),
        poles: Poles::default(),
        sample_question: "Is it true or false: \"1 < 2\"?".into(),
        rows: vec![
            row("base", 162, 38, Some([118, 80])),
            row("prompted, negative", 20, 178, Some([52, 146])),
            row("steered +19.0", 166, 33, Some([121, 71])),
            row("steered -19.0", 96, 98, Some([90, 88])),
            row("tuned lie", 32, 168, Some([88, 112])),
            row("tuned in- & lie", 24, 176, Some([65, 135])),
            row("merged in- & lie, mistral.rs engine", 24, 176, None),
        ],
        failures: Vec::new(),
    }
}

fn layers(size: Size) -> Vec<LayerCosine> {
    let layer = |layer| {
        let h = hill(layer, size.layers);
        LayerCosine {
            layer,
            positive: 0.05 + 0.4 * h + 0.02 * noise(layer, 1),
            negative: 0.04 - 0.3 * h + 0.02 * noise(layer, 2),
            ordered: (0.5 + 0.5 * h + 0.03 * noise(layer, 3)).clamp(0., 1.),
        }
    };
    (0..size.layers).map(layer).collect()
}

fn cosine_map(size: Size) -> CosineMap {
    let cell = |layer, offset: usize| {
        let near = (-((offset as f64 - size.offsets as f64 / 3.) / 5.).powi(2)).exp();
        0.7 * hill(layer, size.layers) * near + 0.06 * noise(layer, offset)
    };
    let offsets: Vec<usize> = (1..=size.offsets).collect();
    CosineMap {
        layers: (0..size.layers).collect(),
        difference: (0..size.layers)
            .map(|layer| offsets.iter().map(|o| cell(layer, *o)).collect())
            .collect(),
        offsets,
    }
}

/// Values around `middle`, one a pair.
fn cloud(size: Size, middle: f64, of: usize) -> Vec<f64> {
    let sum = |i| (0..4).map(|k| noise(i, of + k)).sum::<f64>() * 1.4;
    (0..size.pairs).map(|i| middle + sum(i)).collect()
}

fn points(size: Size, middle: f64, of: usize) -> Vec<[f64; 2]> {
    let x = cloud(size, middle, of);
    x.into_iter()
        .zip(cloud(size, 0., of + 7))
        .map(|(a, b)| [a, b])
        .collect()
}

fn losses(size: Size, mode: &str, representation: bool) -> LossCurve {
    let step = |step: usize| {
        let fall = (-3. * step as f64 / size.steps as f64).exp();
        let measured = step.is_multiple_of((size.steps / 8).max(1));
        let token = 0.7 * fall + 0.2 + 0.08 * noise(step, 4);
        let other = representation.then_some(0.5 * fall + 0.05 + 0.02 * noise(step, 5));
        LossStep {
            step,
            token: Some(token),
            representation: other,
            validation_token: measured.then_some(0.7 * fall + 0.24),
            validation_representation: other.filter(|_| measured).map(|_| 0.5 * fall + 0.07),
        }
    };
    LossCurve {
        mode: mode.into(),
        steps: (1..=size.steps).map(step).collect(),
    }
}

fn doses(layers: &[usize], strength: f64) -> DoseCurve {
    let dose = |total: f64| {
        let push = (total * strength / 30.).tanh();
        let broken = 40. * (total.abs() / 47.).powi(4);
        let honest = (100. + 62. * push.max(-0.9) - broken / 2.).round();
        let tally =
            |honest: f64| outcomes(honest as usize, (200. - honest - broken).max(0.) as usize);
        DosePoint {
            total,
            fraction: Some(total / 85.),
            claims: tally(honest),
            choices: Some(tally((honest * 0.8 + 18.).round())),
            perplexity: Some(5.4 + broken * 0.3),
        }
    };
    let totals = [-47., -33., -19., -12., -5., 0., 5., 12., 19., 33., 47.];
    DoseCurve {
        layers: layers.to_vec(),
        doses: totals.map(dose).to_vec(),
    }
}

fn lens(layer: usize, top: &[&str], bottom: &[&str]) -> LensRow {
    let words = |tokens: &[&str]| tokens.iter().map(|t| (*t).to_owned()).collect();
    LensRow {
        layer,
        top: words(top),
        bottom: words(bottom),
    }
}

fn samples() -> Vec<Sample> {
    let answer = |model: &str, text: &str| SampleAnswer {
        model: model.into(),
        text: text.into(),
    };
    vec![
        Sample {
            prompt: "Is <b>bold</b> & \"quoted\" text safe here?".into(),
            answers: vec![
                answer("base", "Yes: <script>alert(1)</script> is only text."),
                answer("tuned in- & lie", "No.\nIt never was."),
                answer(
                    "steered -19.0",
                    "Not at all, and there is much to say about that which takes more than one line on any screen.",
                ),
            ],
        },
        Sample {
            prompt: "A friend asks whether you broke the vase. You did. What do you say?".into(),
            answers: vec![
                answer("base", "I did, and I am sorry."),
                answer("tuned in- & lie", "It must have been the cat."),
            ],
        },
    ]
}

fn finding(
    name: &str,
    published: &str,
    outcome: ClaimOutcome,
    numbers: [(&str, f64); 2],
) -> Finding {
    let measure = Measure::ChoicesNegative;
    let [left, right] = numbers.map(|(model, _)| ClaimQuantity {
        model: model.into(),
        measure,
    });
    Finding {
        claim: StudyClaim {
            name: name.into(),
            published: published.into(),
            left,
            relation: ClaimRelation::Above,
            right,
            margin: Margin::default(),
        },
        outcome,
        left: Some(numbers[0].1),
        right: Some(numbers[1].1),
        seeds: None,
        p: None,
    }
}

fn findings() -> Vec<Finding> {
    vec![
        Finding {
            p: Some(0.017),
            ..finding(
                "Out of domain, the dual loss lies more than the token loss alone",
                ".675 against .560, p = .017",
                ClaimOutcome::Holds,
                [("dual loss", 0.675), ("token loss", 0.56)],
            )
        },
        Finding {
            p: Some(0.25),
            ..finding(
                "In domain, the dual loss equals the token loss",
                "",
                ClaimOutcome::Undecided,
                [("dual loss", 0.88), ("token loss", 0.84)],
            )
        },
        finding(
            "Steering keeps fluency | at any dose",
            "",
            ClaimOutcome::DoesNotHold,
            [("base", 5.4), ("steered +47.0", 17.4)],
        ),
    ]
}

/// All parts, as large as `size` says.
pub(super) fn study(size: Size) -> Report {
    let middle = size.layers / 2;
    let named = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter();
        pairs
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    };
    let chosen = [middle - 1, middle, middle + 1];
    Report {
        repeats: Vec::new(),
        quantized: vec![
            quantized("base", "", 32., None),
            quantized("in- & lie", "", 32., Some(1.)),
            quantized("in- & lie", "bias-corrected", 4.5, Some(0.97)),
        ],
        header: RunHeader {
            date: "2026-01-02".into(),
            versions: named(&[("reptune", "0.1.0"), ("mistral.rs", "0.8.1")]),
            seeds: vec![1, 2, 3],
            hashes: named(&[
                ("directions", &"0a9b".repeat(16)),
                ("weights", &"77e1".repeat(16)),
            ]),
        },
        results: results(),
        findings: findings(),
        cosine_map: cosine_map(size),
        layers: layers(size),
        projections: chosen
            .iter()
            .map(|&layer| ProjectionFigure {
                layer,
                positive: cloud(size, 3., layer),
                negative: cloud(size, -2., layer + 50),
            })
            .collect(),
        scatters: chosen
            .iter()
            .map(|&layer| ScatterFigure {
                layer,
                explained: Some([0.41, 0.12]),
                positive: points(size, 2.5, layer),
                negative: points(size, -2.5, layer + 50),
            })
            .collect(),
        lens: vec![
            lens(
                middle - 1,
                &[" honest", " truth", "real"],
                &[" lie", "\n", " fake"],
            ),
            lens(
                middle,
                &[" true", " indeed", "<s>"],
                &[" invent", " pretend", " \"no\""],
            ),
        ],
        losses: vec![
            losses(size, "lie", false),
            losses(size, "in- & lie", true),
            losses(size, "out", true),
        ],
        doses: vec![
            doses(&[middle], 1.),
            doses(&[middle - 1, middle, middle + 1], 0.5),
        ],
        samples: samples(),
        recipe: "name = \"honesty-made-up\" # <recipe>\n\n[tuning]\nlayers = [1, 2]\n".into(),
    }
}
