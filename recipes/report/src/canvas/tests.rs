use super::Ink;

#[test]
fn every_colour_has_a_value_for_light_and_for_dark() {
    let style = include_str!("../style.css");
    for ink in [
        Ink::TEXT,
        Ink::FAINT,
        Ink::GRID,
        Ink::POSITIVE,
        Ink::NEGATIVE,
        Ink::TOKEN,
        Ink::REPRESENTATION,
    ] {
        let variable = format!("--{}:", ink.0);
        assert_eq!(style.matches(&variable).count(), 2, "{variable}");
    }
}
