//! Values of keys that a recipe leaves out.

/// `N`, of any type of number.
pub(super) fn number<const N: u16, T: From<u16>>() -> T {
    N.into()
}

/// The quotient `A / B`, rounded once.
pub(super) fn ratio<const A: u32, const B: u32>() -> f64 {
    f64::from(A) / f64::from(B)
}
