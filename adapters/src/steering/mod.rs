//! Directions of the residual stream and what is done with them.

pub mod algebra;
pub mod direction;
pub mod dose;
pub mod exchange;
pub mod gate;
pub mod intervention;
mod model_hint;
pub mod operator;
pub mod positions;

pub use direction::{Direction, DirectionSet};
pub use dose::Dose;
pub use exchange::{open_directions, open_directions_for};
pub use gate::{Decide, Gate, Side};
pub use intervention::{HookPoint, Intervention};
pub use operator::Operator;
pub use positions::Positions;
