use super::*;
use crate::toy::tiny;

#[test]
fn prompts_that_are_captured_together_are_as_alone() -> Result<()> {
    let toy = tiny();
    let prompts = [vec![256, 1, 2, 3, 4], vec![256, 1, 2, 9], vec![7]];
    for (last, logits) in [(Some(2), CaptureLogits::None), (None, CaptureLogits::All)] {
        let wanted = CaptureRequest {
            layers: &[0, 3],
            last,
            logits,
        };
        let mut seen = 0;
        capture(&toy, &prompts, &wanted, &mut |i, together| {
            assert_eq!(i, seen);
            seen += 1;
            let alone = &prompts[i..=i];
            capture(&toy, alone, &wanted, &mut |_, alone| {
                let rows = last.map_or(prompts[i].len(), |k| k.min(prompts[i].len()));
                for layer in [0, 3] {
                    let (a, b) = (&together.residuals[&layer], &alone.residuals[&layer]);
                    assert_eq!(a.dims(), [rows, 32]);
                    assert!(off(a, b) < 1e-5);
                }
                match (&together.logits, &alone.logits) {
                    (Some(a), Some(b)) => assert!(off(a, b) < 1e-4),
                    (a, b) => assert!(a.is_none() && b.is_none()),
                }
                Ok(())
            })
        })?;
        assert_eq!(seen, 3);
    }
    Ok(())
}

fn off(a: &Tensor, b: &Tensor) -> f32 {
    let off = (a - b).and_then(|d| d.abs()?.max_all()?.to_scalar::<f32>());
    off.expect("one shape")
}
