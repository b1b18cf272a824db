//! Generation that begins at cached activations.

use super::*;
use crate::steering_tests::{prompts, set};
use crate::toy::tiny;
use reptune_adapters::{Dose, HookPoint, Operator, Positions};

#[test]
fn what_begins_at_the_steered_layer_says_the_same() -> Result<()> {
    let toy = tiny();
    let (prompts, set) = (prompts(), set(&toy, 1));
    let cache = ActivationCache::for_generation(&toy, &prompts, &[0, 2], None)?;
    let mut different = 0;
    for rows in [Positions::All, Positions::Last(2), Positions::Generated] {
        for (layers, point) in [
            (vec![2], HookPoint::ResidPost),
            (vec![1, 3], HookPoint::ResidPost),
            (vec![2], HookPoint::ResidPre),
            (vec![0], HookPoint::ResidPre),
        ] {
            let steering = Intervention::new(&set, &layers, Dose::Total(9.), Operator::Add)?;
            let steering = [steering.on(rows.clone()).at(point)];
            let how = Generation {
                interventions: &steering,
                max_new_tokens: 6,
                ..Generation::default()
            };
            let plain = generate(&toy, &prompts, &how, &mut |_| {})?;
            let begun = Generation {
                cache: Some(&cache),
                ..how
            };
            assert_eq!(generate(&toy, &prompts, &begun, &mut |_| {})?, plain);
            let unsteered = Generation {
                interventions: &[],
                ..begun
            };
            let unsteered = generate(&toy, &prompts, &unsteered, &mut |_| {})?;
            different += usize::from(unsteered != plain);
        }
    }
    assert!(different > 6, "the steering does something: {different}");
    Ok(())
}
