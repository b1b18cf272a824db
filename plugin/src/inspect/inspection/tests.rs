//! Lists are short.

use super::*;

#[test]
fn lists_are_short() {
    assert_eq!(ranges([0, 1, 2, 5, 7, 8]), "0-2, 5, 7-8");
    assert_eq!(ranges([]), "");
    assert_eq!(counted(["b", "a", "b"]), "1 x a, 2 x b");
}
