use super::*;

#[test]
fn rates_rise_and_fall_as_written() {
    let rates = |s: Schedule| -> Vec<f64> { (0..8).map(|i| s.rate(4., i, 8, 4)).collect() };
    assert_eq!(rates(Schedule::Linear), [1., 2., 3., 4., 4., 3., 2., 1.]);
    assert_eq!(rates(Schedule::Constant), [1., 2., 3., 4., 4., 4., 4., 4.]);
    let half = 2. + 2f64.sqrt();
    let expected = [1., 2., 3., 4., 4., half, 2., 4. - half];
    for (found, expected) in rates(Schedule::Cosine).into_iter().zip(expected) {
        assert!((found - expected).abs() < 1e-12, "{found} {expected}");
    }
    for s in [Schedule::Linear, Schedule::Cosine, Schedule::Constant] {
        assert_eq!(s.rate(4., 0, 1, 10), 4., "{s:?}: a run of one step");
    }
}
