use super::*;

#[test]
fn a_variant_is_a_name_a_file_and_settings() {
    let parsed = steer("honest=a/d.safetensors:layers=1,3-4,coeff=-40,hook=resid_pre,on=tuned");
    let expected = SteeredVariant {
        name: "honest".into(),
        file: "a/d.safetensors".into(),
        layers: "1,3-4".into(),
        dose: Dose::Coeff(-40.),
        hook: HookPoint::ResidPre,
        on: Some("tuned".into()),
    };
    assert_eq!(parsed, Ok(expected));
    let parsed = steer("a/calm.safetensors:layers=all,fraction=0.5").expect("no name");
    assert_eq!(
        (parsed.name.as_str(), parsed.dose),
        ("calm", Dose::Fraction(0.5))
    );
    let (name, _) = named("runs/my/tuned/truth").expect("no name");
    assert_eq!(name, "truth");
}

#[test]
fn a_wrong_variant_is_refused_with_the_part_that_is_wrong() {
    for (text, said) in [
        ("d.safetensors", "expected FILE:layers=1-2,total=40"),
        ("d.safetensors:1-2", "expected KEY=VALUE, found `1-2`"),
        ("d.safetensors:layers=1", "expected a dose"),
        ("d.safetensors:coeff=1", "expected layers=.."),
        (
            "d.safetensors:layers=1,coeff=x",
            "expected a number as coeff, found `x`",
        ),
        (
            "d.safetensors:layers=1,coeff=1,fraction=1",
            "expected one dose, found two",
        ),
        ("d.safetensors:layers=1,coeff=1,hook=head", "found `head`"),
        ("d.safetensors:layers=1,coef=1", "found `coef`"),
        ("a b=d.safetensors:layers=1,coeff=1", "found `a b`"),
    ] {
        let message = steer(text).expect_err(text);
        assert!(message.contains(said), "{message}");
    }
}
