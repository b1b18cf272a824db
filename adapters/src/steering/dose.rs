//! How much of a direction is applied.

use crate::error::{Error, Result};
use crate::steering::direction::DirectionSet;
use crate::steering::operator::Operator;
use std::collections::BTreeMap;
use std::fmt;

/// How much of a direction is applied to each of some layers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Dose {
    /// The coefficient of the unit direction at every layer.
    Coeff(f64),
    /// A total that is divided equally over the layers, as in the paper. Under
    /// [`Operator::Clamp`] every layer gets all of it: a projection belongs to one layer,
    /// and layers do not add up to it.
    Total(f64),
    /// A fraction of the mean norm of the residual stream, averaged over the layers.
    Fraction(f64),
    /// A multiple of the directions at the length they had before normalising, as
    /// llama.cpp scales a control vector.
    Strength(f64),
}

impl Dose {
    /// The number, whatever it counts.
    pub fn amount(self) -> f64 {
        let (Self::Coeff(x) | Self::Total(x) | Self::Fraction(x) | Self::Strength(x)) = self;
        x
    }

    /// The coefficient that each of `layers` gets, by layer.
    ///
    /// `Coeff(c)`: `c`; `Total(t)`: `t / n` for n layers; `Fraction(f)`: `f * mean_l |h_l|`;
    /// `Strength(s)`: `s * |v_l|` with v the direction before normalising.
    ///
    /// # Errors
    /// When no layer is named, `set` lacks one of them or the norm that a fraction is of,
    /// or the number is not finite.
    pub fn per_layer(
        self,
        set: &DirectionSet,
        layers: &[usize],
        operator: Operator,
    ) -> Result<BTreeMap<usize, f64>> {
        if !self.amount().is_finite() {
            let hint = "give a signed multiplier such as 19.0";
            let found = self.amount().to_string();
            return Err(Error::value("coeff", "a finite number", found, hint));
        }
        let norms = layers.iter().map(|l| Ok((*l, set.layer(*l)?.norm)));
        let norms = norms.collect::<Result<BTreeMap<usize, f64>>>()?;
        if norms.is_empty() {
            let hint = "for example `1-2`";
            return Err(Error::value("layers", "at least one", "none", hint));
        }
        let n = if operator.adds_up() { norms.len() } else { 1 } as f64;
        let same = match self {
            Self::Coeff(coeff) => coeff,
            Self::Total(total) => total / n,
            // As a total first: the same rounding as a dose given as a total.
            Self::Fraction(fraction) => set.natural_coeff(layers, fraction)? * n / n,
            Self::Strength(strength) => {
                let scaled = |(layer, norm)| (layer, strength * norm);
                return Ok(norms.into_iter().map(scaled).collect());
            }
        };
        Ok(norms.into_keys().map(|layer| (layer, same)).collect())
    }
}

impl fmt::Display for Dose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Coeff(_) => "coeff",
            Self::Total(_) => "total",
            Self::Fraction(_) => "fraction",
            Self::Strength(_) => "strength",
        };
        write!(f, "{name} {}", self.amount())
    }
}
