//! The effect check tells an effect from none.

use super::{prompts, set};
use crate::effect_check::check_effect;
use crate::error::Result;
use crate::toy::tiny;
use reptune_adapters::{Decide, Dose, Gate, Intervention, Operator, Positions, Side};

#[test]
fn the_check_sees_what_an_intervention_does_and_refuses_nothing() -> Result<()> {
    let toy = tiny();
    let set = set(&toy, 1);
    let plain = Intervention::new(&set, &[1, 2], Dose::Total(20.), Operator::Add)?;
    let effect = check_effect(&toy, &plain, &prompts(), None, 2)?.require()?;
    assert!(effect.kl > 0. && effect.shift > 0.1);
    // Generated tokens are checked too; without any there is nothing to act on.
    let late = plain.clone().on(Positions::Generated);
    assert!(check_effect(&toy, &late, &prompts(), None, 1)?.any());
    let none = check_effect(&toy, &late, &prompts(), None, 0)?;
    assert_eq!((none.rows, none.shift, none.kl), (0, 0., 0.));
    let message = none.require().expect_err("no rows");
    for part in [
        "layer 1 resid_post",
        "`generated`",
        "0 tokens",
        "choose no token",
    ] {
        assert!(message.to_string().contains(part), "{message}");
    }
    let zero = Intervention::new(&set, &[1], Dose::Total(0.), Operator::AddNormPreserving)?;
    let zero = check_effect(&toy, &zero, &prompts(), None, 1)?;
    assert!(zero.rows > 0 && zero.shift == 0.);
    let message = zero.require().expect_err("no effect").to_string();
    assert!(
        message.contains("found a largest shift of 0 over"),
        "{message}"
    );
    let shut = Gate::new(&set, Decide::EveryToken, Side::Above, f64::INFINITY)?;
    let shut = check_effect(&toy, &plain.when(shut)?, &prompts(), None, 1)?;
    assert_eq!(shut.shift, 0.);
    Ok(())
}
