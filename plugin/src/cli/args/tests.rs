use super::*;

#[test]
fn layers_are_ranges_and_lists() {
    assert_eq!(layers("1-3,5", 6).expect("valid"), [1, 2, 3, 5]);
    assert_eq!(layers("2", 6).expect("valid"), [2]);
    assert_eq!(layers("all", 3).expect("valid"), [0, 1, 2]);
    for text in ["6", "3-1", "", "x", "1-", "-1"] {
        let message = layers(text, 6).expect_err(text).to_string();
        assert!(message.contains("0 to 5"), "{message}");
    }
}
