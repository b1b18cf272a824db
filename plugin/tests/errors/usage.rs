//! Wrong usage: exit code 2.

use super::{messages, nothing};

#[test]
fn earlier_commands_and_flags_are_answered_with_the_new_ones() {
    let text = messages(&[
        (nothing, "select r.toml"),
        (nothing, "search r.toml"),
        (nothing, "plan r.toml"),
        (nothing, "set-coeff baked/model.uqff --coeff 12"),
        (nothing, "bench"),
        (nothing, "generate -m model --prompt x --isq q8_0"),
        (nothing, "generate -m model --prompt x --site output"),
        (nothing, "generate -m model --prompt x --rows all"),
        (nothing, "merge -m model --adapter a -o out --way nearest"),
    ]);
    insta::assert_snapshot!(text);
}

#[test]
fn wrong_flags() {
    let text = messages(&[
        (nothing, "frobnicate"),
        (nothing, "generate --prompt x"),
        (nothing, "generate -m model"),
        (nothing, "generate -m model --prompt x --temperature -1"),
        (nothing, "generate -m model --prompt x --coeff 3"),
        (
            nothing,
            "generate -m model --prompt x --directions d --layers 1 --coeff 1 --total 2",
        ),
        (
            nothing,
            "generate -m model --prompt x --directions d --layers 1 --coeff abc",
        ),
        (nothing, "generate -m model --prompt x --operator turn"),
        (nothing, "generate -m model --prompt x --hook output"),
        (nothing, "generate -m model --prompt x --positions some"),
        (
            nothing,
            "capture -m model --prompts p.jsonl -o c.safetensors --last 0",
        ),
        (nothing, "sweep r.toml --layers 1"),
        (nothing, "sweep r.toml --coeffs 3"),
        (nothing, "sweep r.toml --layers 1 --coeffs 3 --fractions 1"),
        (nothing, "sweep r.toml --layers 1 --coeffs=5,-3"),
        (nothing, "sweep r.toml --select --layers 1"),
        (nothing, "tune r.toml --mode lies"),
        (nothing, "tune r.toml --measure"),
        (nothing, "tune r.toml --plan --out elsewhere"),
        (nothing, "tune r.toml --plan --dtype f16"),
        (nothing, "evaluate r.toml --out elsewhere"),
        (nothing, "merge -m model --adapter a -o out --quantize q9"),
        (nothing, "merge -m model --adapter a -o out --rounding kept"),
        (nothing, "merge -m model --adapter a -o out --growth 2"),
        (nothing, "bake -m model --layers 1 --coeffs 3 -o out"),
        (nothing, "serve -m model --steer d.safetensors"),
        (nothing, "serve -m model --steer d.safetensors:layers=1"),
        (
            nothing,
            "serve -m model --steer d.safetensors:layers=1,coeff=1,total=2",
        ),
        (
            nothing,
            "serve -m model --steer d.safetensors:layers=1,coeff=1,at=input",
        ),
        (nothing, "serve -m model --host localhost"),
        (nothing, "cache gc --unused soon"),
    ]);
    insta::assert_snapshot!(text);
}
