use super::exp;

#[test]
fn the_exponential_is_that_of_the_library() {
    for i in -870_000..=880_000 {
        let x = i as f32 / 10_000.;
        let (ours, exact) = (f64::from(exp(x)), f64::from(x).exp());
        let error = (ours / exact - 1.).abs();
        assert!(error < 2.4e-7, "exp({x}) = {ours}, not {exact}");
    }
    assert_eq!(exp(f32::NEG_INFINITY), 0.);
    assert_eq!(exp(f32::INFINITY), f32::INFINITY);
    assert_eq!(exp(0.), 1.);
    assert!(exp(f32::NAN).is_nan());
}
