use super::*;

/// Steps at which the mean was lowest and at which it stopped; a validation a step.
fn run(settings: &EarlyStop, losses: &[f64]) -> Result<(Option<usize>, Option<usize>)> {
    let mut watch = Watch::default();
    let (mut best, mut lowest) = (None, None);
    for (i, &loss) in losses.iter().enumerate() {
        let verdict = watch.see(settings, i + 1, loss, &Adapter::default())?;
        if watch.lowest != lowest {
            lowest = watch.lowest;
            best = Some(i + 1);
        }
        if verdict == Verdict::Stop {
            return Ok((best, Some(i + 1)));
        }
    }
    Ok((best, None))
}

#[test]
fn it_stops_when_the_mean_has_not_improved_for_long_enough() -> Result<()> {
    let losses = [5., 3., 4., 4., 4., 2., 9., 9., 9., 9.];
    let settings = |patience, window, min_steps| EarlyStop {
        patience,
        window,
        min_steps,
    };
    assert_eq!(run(&settings(2, 1, 0), &losses)?, (Some(2), Some(4)));
    assert_eq!(run(&settings(2, 1, 5), &losses)?, (Some(2), Some(5)));
    assert_eq!(run(&settings(4, 1, 0), &losses)?, (Some(6), Some(10)));
    assert_eq!(run(&settings(5, 1, 0), &losses)?, (Some(6), None));
    // Means of two: 4, 3.5, 4, 4, 3, 5.5, 9, ..
    assert_eq!(run(&settings(3, 2, 0), &losses)?, (Some(6), Some(9)));
    assert_eq!(run(&settings(2, 2, 0), &losses)?, (Some(3), Some(5)));
    assert_eq!(run(&settings(1, 11, 0), &losses)?, (None, None));
    Ok(())
}
