//! Flags that several commands share.

mod dose;
mod layers;
mod loading;
mod recipe;
mod steering;

pub use dose::DoseArgs;
pub use layers::{layer_sets, layers};
pub use loading::LoadingArgs;
pub use recipe::RecipeArgs;
pub use steering::SteeringArgs;

use reptune_recipes::recipe::Mode;

/// Parses a tuning mode by its name in recipes or in file names.
pub fn mode(text: &str) -> Result<Mode, String> {
    let names = || Mode::ALL.map(|m| m.file_name()).join(", ");
    Mode::named(text).ok_or_else(|| format!("expected one of {}", names()))
}

/// Parses a share from 0 to 1.
pub fn share(text: &str) -> Result<f64, String> {
    let number = text.trim().parse::<f64>().ok();
    let within = number.filter(|x| (0. ..=1.).contains(x));
    within.ok_or_else(|| "expected a number from 0 to 1".into())
}
