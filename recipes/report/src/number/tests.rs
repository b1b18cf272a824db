use super::*;

fn labels(low: f64, high: f64, most: usize, least: f64) -> Vec<String> {
    ticks(low, high, most, least)
        .into_iter()
        .map(|t| t.1)
        .collect()
}

#[test]
fn ticks_are_round_and_few() {
    assert_eq!(
        labels(0., 1., 5, 0.),
        ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
    );
    assert_eq!(
        labels(-0.013, 0.02, 4, 0.),
        ["-0.01", "0.00", "0.01", "0.02"]
    );
    assert_eq!(labels(0., 2., 8, 1.), ["0", "1", "2"]);
    assert_eq!(labels(-47., 47., 5, 0.), ["-40", "-20", "0", "20", "40"]);
    assert_eq!(labels(3., 3., 5, 0.), [""; 0]);
}

#[test]
fn a_small_p_is_not_zero() {
    let shown = [0., -0., 0.0172, 0.000_04, -0.000_04, f64::NAN].map(short);
    assert_eq!(shown, ["0.000", "0.000", "0.017", "4e-5", "-4e-5", "-"]);
}

#[test]
fn layer_sets_read_as_words() {
    assert_eq!(layer_set(&[3]), "layer 3");
    assert_eq!(layer_set(&[11, 12, 13]), "layers 11..13");
    assert_eq!(layer_set(&[1, 3]), "layers 1, 3");
}
