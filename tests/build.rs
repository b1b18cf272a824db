//! Tests that run Python are ignored unless `REPTUNE_PYTHON` names it, tests of a real model unless
//! `REPTUNE_SMOLLM2` names its file; `REPTUNE_REQUIRE_ORACLE=1` makes them fail where it is missing.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=REPTUNE_REQUIRE_ORACLE");
    let is_set = |name| std::env::var(name).is_ok_and(|v| !v.is_empty() && v != "0");
    for (cfg, name) in [("oracle", "REPTUNE_PYTHON"), ("smollm2", "REPTUNE_SMOLLM2")] {
        println!("cargo::rustc-check-cfg=cfg({cfg})");
        println!("cargo::rerun-if-env-changed={name}");
        if is_set(name) || is_set("REPTUNE_REQUIRE_ORACLE") {
            println!("cargo::rustc-cfg={cfg}");
        }
    }
}
