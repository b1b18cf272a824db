use super::Ink;

#[test]
fn every_colour_has_a_value_for_light_and_for_dark() {
    let style = include_str!("../style.css");
    for ink in Ink::ALL {
        let variable = format!("--{}:", ink.name());
        assert_eq!(style.matches(&variable).count(), 2, "{variable}");
    }
}
