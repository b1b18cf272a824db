use super::*;

fn set(method: &str, rows: &[(usize, &[f64])]) -> DirectionSet {
    let layers = rows
        .iter()
        .map(|(l, v)| (*l, Direction::new(v).expect("a direction")));
    DirectionSet {
        layers: layers.collect(),
        provenance: Provenance {
            method: method.into(),
            model_fingerprint: "same".into(),
            residual_norms: [(1, 7.)].into(),
            ..Provenance::default()
        },
    }
}

#[test]
fn sums_are_those_of_the_vectors_before_normalising() -> Result<()> {
    let (a, b) = (set("a", &[(1, &[3., 0.])]), set("b", &[(1, &[0., 4.])]));
    let sum = a.plus(&b)?;
    assert_eq!(sum.layer(1)?.norm, 5.);
    assert_eq!(sum.layer(1)?.unit, [0.6, 0.8]);
    assert_eq!(sum.provenance.method, "(a) + (b)");
    assert_eq!(sum.provenance.residual_norms[&1], 7.);
    let difference = a.minus(&b)?;
    assert_eq!(difference.layer(1)?.unit, [0.6, -0.8]);
    let half = a.scaled(-0.5)?;
    assert_eq!(
        (half.layer(1)?.norm, half.layer(1)?.unit.as_slice()),
        (1.5, [-1., 0.].as_slice())
    );
    assert_eq!(half.provenance.method, "-0.5 (a)");
    Ok(())
}

#[test]
fn what_is_projected_out_is_gone_even_when_it_is_not_orthogonal() -> Result<()> {
    let a = set("a", &[(1, &[1., 2., 3., 4.])]);
    let b = set("b", &[(1, &[1., 1., 0., 0.])]);
    let c = set("c", &[(1, &[0., 1., 1., 0.]), (2, &[1., 0., 0., 0.])]);
    let rest = a.without(&[&b, &c, &b])?;
    for other in [&b, &c] {
        let along: f32 = rest
            .layer(1)?
            .unit
            .iter()
            .zip(&other.layer(1)?.unit)
            .map(|(x, y)| x * y)
            .sum();
        assert!(along.abs() < 1e-6, "{along}");
    }
    assert!(rest.layer(1)?.norm < a.layer(1)?.norm);
    assert_eq!(
        rest.provenance.method,
        "(((a) without (b)) without (c)) without (b)"
    );
    let error = a.without(&[&a.scaled(2.)?]).expect_err("nothing is left");
    assert!(error.to_string().contains("layer 1"), "{error}");
    Ok(())
}

#[test]
fn sets_that_do_not_fit_are_refused_by_layer_width_and_model() {
    let a = set("a", &[(1, &[1., 2.])]);
    let said = |result: Result<DirectionSet>| result.expect_err("a misfit").to_string();
    let message = said(a.plus(&set("b", &[(1, &[1., 0.]), (2, &[1., 0.])])));
    assert!(
        message.contains("(a)") && message.contains("layer 2"),
        "{message}"
    );
    let message = said(a.without(&[&set("b", &[(3, &[1., 0.])])]));
    assert!(
        message.contains("layer 1") && message.contains("[3]"),
        "{message}"
    );
    let message = said(a.minus(&set("b", &[(1, &[1., 0., 0.])])));
    assert!(
        message.contains("width 2") && message.contains("found 3"),
        "{message}"
    );
    let message = said(a.minus(&a));
    assert!(
        message.contains("layer 1") && message.contains("cancel"),
        "{message}"
    );
    assert!(said(a.scaled(0.)).contains("factor"));
    let mut other = a.clone();
    other.provenance.model_fingerprint = "other".into();
    assert!(said(a.plus(&other)).contains("same model"));
}
