//! Choosing layer, place and dose of a direction on validation data only.
//!
//! A direction may order all pairs and yet do nothing when it is added. So every
//! layer and place is measured both ways, and the choice rests on what adding does:
//! of all doses that keep neutral text as it was, the one that moves answers most.

mod base;

use crate::chat::Chat;
use crate::data::Claim;
use crate::error::Result;
use crate::extract::{CapturedPairs, Extracted};
use crate::recipe::Recipe;
use base::Base;
use reptune_adapters::{DirectionSet, HookedModel};
use serde::{Deserialize, Serialize};

/// What adding a direction with some coeff does.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MeasuredDose {
    /// Signed fraction of the mean residual norm.
    pub fraction: f64,
    /// It as a multiplier of the unit direction.
    pub coeff: f64,
    /// Mean shift of log p(right) - log p(wrong), counted positive in the sense of
    /// the coeff: a positive coeff should raise it, a negative one lower it.
    pub shift: f64,
    /// `shift / |fraction|`.
    pub per_fraction: f64,
    /// Mean KL(base || steered) of the next token on neutral text, in nats.
    pub kl: f64,
}

/// A layer and place, with all that was measured there on validation data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Index of the place among those of the recipe.
    pub place: usize,
    /// The place in words.
    pub rows: String,
    /// The layer (output of block i, 0-based).
    pub layer: usize,
    /// Share of pairs whose positive row projects higher.
    pub ordered: f64,
    /// Mean cosine of positive rows with the direction.
    pub positive: f64,
    /// Mean cosine of negative rows with the direction.
    pub negative: f64,
    /// Every dose, each fraction with both signs; none for a layer that may not be chosen.
    pub doses: Vec<MeasuredDose>,
}

/// What was chosen, with the numbers that chose it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// Index of the place among those of the recipe.
    pub place: usize,
    /// The place in words.
    pub rows: String,
    /// The layer.
    pub layer: usize,
    /// Fraction of the mean residual norm.
    pub fraction: f64,
    /// Multiplier of the unit direction; with the other sign for the other behaviour.
    pub coeff: f64,
    /// Mean over both signs of [`MeasuredDose::shift`].
    pub effect: f64,
    /// Larger of the KL of both signs.
    pub kl: f64,
}

impl Choice {
    /// The chosen place's directions among `found`.
    ///
    /// # Errors
    /// When there is no such place.
    pub fn directions<'a>(&self, found: &'a [Extracted]) -> Result<&'a DirectionSet> {
        let chosen = found.get(self.place).map(|f| &f.directions);
        chosen.ok_or_else(|| {
            reptune_adapters::Error::value(
                "place",
                format!("below {}", found.len()),
                self.place.to_string(),
                "choose among these directions",
            )
            .into()
        })
    }
}

/// Every layer and place, measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// By place, then by layer.
    pub candidates: Vec<Candidate>,
}

impl Table {
    /// Measures the directions of every place, `found`, on held-out claims: how they
    /// order the rows of `held_out`, and what adding them does to the answers to
    /// `claims` and to neutral text. `progress` is called with the number of doses
    /// done and of all.
    ///
    /// # Errors
    /// When a layer does not exist, `found` and `held_out` are of other places, or
    /// the model fails.
    pub fn measure(
        model: Model,
        found: &[Extracted],
        held_out: &CapturedPairs,
        claims: &[Claim],
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self> {
        let settings = model.recipe.selection.clone().unwrap_or_default();
        let layers = model.host.spec().layers;
        let eligible = settings.eligible(layers);
        model.host.spec().check_layers(&eligible)?;
        let rows: Vec<String> = held_out.positions().iter().map(|p| p.to_string()).collect();
        let other = found.iter().map(|f| &f.directions.provenance.rows);
        if !other.eq(&rows) {
            let sets: Vec<_> = found
                .iter()
                .map(|f| &f.directions.provenance.rows)
                .collect();
            return Err(reptune_adapters::Error::value(
                "held-out rows",
                format!("the places of the directions, {sets:?}"),
                format!("{rows:?}"),
                "capture both with one recipe",
            )
            .into());
        }
        let mut base = Base::of(model, &settings, claims)?;
        let all = found.len() * eligible.len() * 2 * settings.fractions.len();
        let mut done = 0;
        let mut candidates = Vec::new();
        for (place, extracted) in found.iter().enumerate() {
            let set = &extracted.directions;
            for layer in 0..layers {
                let contrast = held_out.contrast(place, layer)?;
                let direction = set.layer(layer)?;
                let (positive, negative) = contrast.cosines(direction);
                let mut doses = Vec::new();
                for fraction in &settings.fractions {
                    for fraction in [*fraction, -fraction] {
                        if eligible.contains(&layer) {
                            doses.push(base.dose(model, set, layer, fraction)?);
                            done += 1;
                            progress(done, all);
                        }
                    }
                }
                candidates.push(Candidate {
                    place,
                    rows: rows[place].clone(),
                    layer,
                    ordered: contrast.ordered(direction),
                    positive,
                    negative,
                    doses,
                });
            }
        }
        Ok(Self { candidates })
    }

    /// The layer, place and dose with the largest effect: the mean shift of both
    /// signs, among fractions whose KL is at most `kl` with either sign. Of equal
    /// effects the smaller fraction, then the lower layer, then the earlier place.
    ///
    /// # Errors
    /// When no dose keeps the bound and moves answers as it should.
    pub fn choose(&self, kl: f64) -> Result<Choice> {
        let mut doses: Vec<Choice> = Vec::new();
        for c in &self.candidates {
            for up in c.doses.iter().filter(|d| d.fraction > 0.) {
                let down = c.doses.iter().find(|d| d.fraction == -up.fraction);
                if let Some(down) = down {
                    doses.push(Choice {
                        place: c.place,
                        rows: c.rows.clone(),
                        layer: c.layer,
                        fraction: up.fraction,
                        coeff: up.coeff,
                        effect: (up.shift + down.shift) / 2.,
                        kl: up.kl.max(down.kl),
                    });
                }
            }
        }
        let fits = |c: &&Choice| c.kl <= kl && c.effect > 0.;
        let better = |a: &&Choice, b: &&Choice| {
            a.effect
                .total_cmp(&b.effect)
                .then(b.fraction.total_cmp(&a.fraction))
                .then(b.layer.cmp(&a.layer))
                .then(b.place.cmp(&a.place))
        };
        let best = doses.iter().filter(fits).max_by(better);
        best.cloned().ok_or_else(|| {
            let least = doses.iter().map(|c| c.kl).fold(f64::INFINITY, f64::min);
            let most = doses
                .iter()
                .map(|c| c.effect)
                .fold(f64::NEG_INFINITY, f64::max);
            reptune_adapters::Error::value(
                "selection",
                format!("a dose with a KL of at most {kl} that moves answers its way"),
                format!(
                    "none of {}: least KL {least:.3}, largest effect {most:.3}",
                    doses.len()
                ),
                "try smaller fractions, a larger selection.kl, or another method or place",
            )
            .into()
        })
    }
}

/// The model that is measured.
#[derive(Clone, Copy)]
pub struct Model<'a> {
    /// It.
    pub host: &'a dyn HookedModel,
    /// Its tokenizer.
    pub chat: &'a Chat,
    /// What is asked, and where directions are added (`steering.positions`).
    pub recipe: &'a Recipe,
}

#[cfg(test)]
mod tests {
    use super::base::{Asked, odds};
    use super::*;
    use crate::chat::Message;
    use crate::data::Items;
    use crate::extract::find;
    use crate::recipe::Selection;
    use crate::toy::{chat, recipe, tiny};
    use crate::trunk::{ActivationCache, Keep};
    use reptune_adapters::{Direction, Dose, Intervention, Operator};

    fn candidate(place: usize, layer: usize, doses: &[(f64, f64, f64)]) -> Candidate {
        let dose = |fraction: f64, shift: f64, kl: f64| MeasuredDose {
            fraction,
            coeff: 10. * fraction,
            shift,
            per_fraction: shift / fraction.abs(),
            kl,
        };
        let doses = doses
            .iter()
            .flat_map(|(f, s, kl)| [dose(*f, s + 1., *kl), dose(-f, s - 1., kl / 2.)]);
        Candidate {
            place,
            rows: format!("place {place}"),
            layer,
            ordered: 1.,
            positive: 0.5,
            negative: -0.5,
            doses: doses.collect(),
        }
    }

    #[test]
    fn the_largest_effect_within_the_bound_is_chosen() {
        let table = Table {
            candidates: vec![
                candidate(0, 1, &[(0.5, 2., 0.1), (1., 9., 0.6)]),
                candidate(0, 2, &[(0.5, 3., 0.5), (1., 3., 0.5)]),
                candidate(1, 1, &[]),
                candidate(1, 2, &[(0.5, 3., 0.2)]),
            ],
        };
        let choice = table.choose(0.5).expect("a choice");
        assert_eq!((choice.place, choice.layer, choice.fraction), (0, 2, 0.5));
        assert_eq!((choice.coeff, choice.effect, choice.kl), (5., 3., 0.5));
        assert_eq!(table.choose(1.).expect("a choice").effect, 9.);
        let none = table.choose(0.05).expect_err("no dose").to_string();
        assert!(
            none.contains("none of 5: least KL 0.100, largest effect 9.000"),
            "{none}"
        );
    }

    #[test]
    fn what_a_model_does_is_measured_on_the_layers_that_may_be_chosen() {
        let mut recipe = recipe("pairs = 6\npositions = \"at:-1,-3\"");
        recipe.selection = Some(Selection {
            fractions: vec![1e-3, 1.],
            claims: 6,
            neutral: 3,
            ..Selection::default()
        });
        let (host, chat) = (tiny(), chat());
        let items = Items::read(&recipe).expect("items");
        let model = Model {
            host: &host,
            chat: &chat,
            recipe: &recipe,
        };
        let capture = |claims| CapturedPairs::of(&host, &chat, &recipe, claims, &mut |_, _| {});
        let captured = capture(&items.train).expect("rows");
        let held_out = capture(&items.validation).expect("rows");
        let mut found = find(host.spec(), &recipe, &captured).expect("directions");
        // The label tokens A and B of the byte tokenizer, read off the embedding of the last block.
        let label = |text: &str| chat.encode(text).expect("ids")[1] as usize;
        let (a, b) = (label("A"), label("B"));
        let mut steps = Vec::new();
        let claims: Vec<Claim> = items
            .validation
            .iter()
            .filter(|c| c.label)
            .cloned()
            .collect();
        let measure = |found: &[Extracted], steps: &mut Vec<usize>| {
            Table::measure(model, found, &held_out, &claims, &mut |done, all| {
                steps.push(done);
                assert_eq!(all, 2 * 3 * 2 * 2);
            })
        };
        let table = measure(&found, &mut steps).expect("a table");
        assert_eq!(steps, (1..=24).collect::<Vec<_>>());
        assert_eq!(table.candidates.len(), 2 * 4);
        for c in &table.candidates {
            assert_eq!(
                c.doses.len(),
                if c.layer < 3 { 4 } else { 0 },
                "layer {}",
                c.layer
            );
            for pair in c.doses.chunks(2) {
                assert_eq!(pair[0].coeff, -pair[1].coeff);
                assert!(pair.iter().all(|d| d.kl > 0. && d.shift.is_finite()));
            }
            // KL grows with the square of a small dose.
            assert!(c.doses.is_empty() || c.doses[0].kl < 1e-3 * c.doses[2].kl);
        }
        // A direction that is the gradient of the answer's log-odds moves them its way:
        // found here by trying every axis at layer 2.
        let width = host.spec().hidden;
        let axis = |i: usize| -> f64 {
            let mut v = vec![0f64; width];
            v[i] = 1.;
            let mut set = found[0].directions.clone();
            set.layers
                .insert(2, Direction::new(&v).expect("a direction"));
            let asked = vec![Asked {
                ids: chat.prompt(&Message::conversation("", "x")).expect("ids"),
                right: a as u32,
                wrong: b as u32,
            }];
            let steer = |coeff: f64| {
                let add = Intervention::new(&set, &[2], Dose::Total(coeff), Operator::Add)
                    .expect("steering");
                odds(&host, &asked, &[add], None).expect("odds")[0]
            };
            steer(1e-2) - steer(-1e-2)
        };
        let gradient: Vec<f64> = (0..width).map(axis).collect();
        for extracted in &mut found {
            let direction = Direction::new(&gradient).expect("a direction");
            extracted.directions.layers.insert(2, direction);
        }
        // Begun at the steered layer, a forward says what a whole one does.
        let ids = chat.prompt(&Message::conversation("", "x")).expect("ids");
        let add = Intervention::new(&found[0].directions, &[2], Dose::Total(0.5), Operator::Add);
        let add = [add.expect("steering")];
        let below =
            ActivationCache::of(&host, vec![ids.clone()], 2, None, Keep::Memory).expect("rows");
        let (right, wrong) = (a as u32, b as u32);
        let asked = [Asked { ids, right, wrong }];
        let whole = odds(&host, &asked, &add, None).expect("odds")[0];
        let begun = odds(&host, &asked, &add, Some(&below)).expect("odds")[0];
        assert!((whole - begun).abs() < 1e-5, "{whole} and {begun}");
        let table = measure(&found, &mut steps).expect("a table");
        let choice = table.choose(f64::INFINITY).expect("a choice");
        assert_eq!(choice.layer, 2);
        let by = &table.candidates[2].doses;
        assert!(by[0].shift > 0. && by[1].shift > 0., "{by:?}");
        let chosen = &found[choice.place].directions;
        assert_eq!(choice.directions(&found).ok(), Some(chosen));
    }
}
