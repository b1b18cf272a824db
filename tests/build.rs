//! Tests that run Python are ignored unless `REPTUNE_PYTHON` names it; `REPTUNE_REQUIRE_ORACLE=1`
//! makes them fail where it is missing.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(oracle)");
    for name in ["REPTUNE_PYTHON", "REPTUNE_REQUIRE_ORACLE"] {
        println!("cargo::rerun-if-env-changed={name}");
        if std::env::var(name).is_ok_and(|v| !v.is_empty() && v != "0") {
            println!("cargo::rustc-cfg=oracle");
        }
    }
}
