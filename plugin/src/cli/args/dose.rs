//! The dose of steering on the command line.

use clap::Args;
use reptune_adapters::Dose;

/// One of four ways to give a dose.
#[derive(Args, Clone, Debug, Default)]
#[group(id = "dose", multiple = false)]
pub struct DoseArgs {
    /// Coefficient of the unit direction that each layer gets
    #[arg(long, value_name = "C", allow_negative_numbers = true)]
    pub coeff: Option<f64>,
    /// Coefficient that is divided by the number of layers, as in the paper
    #[arg(long, value_name = "C", allow_negative_numbers = true)]
    pub total: Option<f64>,
    /// Coefficient relative to the mean norm of the residual stream at these layers
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    pub fraction: Option<f64>,
    /// Multiple of the stored, unnormalised vectors, as llama.cpp scales control vectors
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    pub strength: Option<f64>,
}

impl DoseArgs {
    /// The dose, if one was given.
    pub fn dose(&self) -> Option<Dose> {
        let coeff = self.coeff.map(Dose::Coeff);
        let total = || self.total.map(Dose::Total);
        let fraction = || self.fraction.map(Dose::Fraction);
        let strength = || self.strength.map(Dose::Strength);
        coeff.or_else(total).or_else(fraction).or_else(strength)
    }
}
