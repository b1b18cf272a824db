use super::*;

fn config(text: &str) -> Result<Config> {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("adapter_config.json");
    std::fs::write(&path, text).expect("write");
    Config::read(&path)
}

fn refused(text: &str) -> String {
    config(text).expect_err(text).to_string()
}

#[test]
fn the_first_pattern_that_matches_the_end_of_the_path_counts() -> Result<()> {
    let c = config(
        r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 8, "rank_pattern":
        {"1.self_attn.q_proj": 3, "q_proj": 2, "layers.[23].mlp.*": 5, "a|up_proj": 6},
        "alpha_pattern": {"^model.layers.0.*": 1.5, "proj": -2}}"#,
    )?;
    for (module, rank, alpha) in [
        ("model.layers.0.self_attn.q_proj", 2, 1.5),
        ("model.layers.1.self_attn.q_proj", 3, 8.),
        // Behind a dot: 11 does not end in `1.`, but `.1` may stand anywhere.
        ("model.layers.11.self_attn.q_proj", 2, 8.),
        ("model.layers.2.mlp.up_proj", 5, 8.),
        ("model.layers.1.mlp.up_proj", 6, 8.),
        // `proj` is the end of the name, but no name of its own.
        ("model.layers.1.self_attn.v_proj", 4, 8.),
    ] {
        assert_eq!(c.rank(module), rank, "{module}");
        assert_eq!(c.scale(module), alpha / rank as f64, "{module}");
    }
    Ok(())
}

#[test]
fn keys_that_are_left_out_have_the_defaults_of_peft() -> Result<()> {
    let c = config(r#"{"peft_type": "LORA", "use_rslora": true, "fan_in_fan_out": true}"#)?;
    assert_eq!(c.rank("x"), 8);
    assert_eq!(c.scale("x"), 8. / 8f64.sqrt());
    Ok(())
}

#[test]
fn what_cannot_be_meant_is_refused_by_name() {
    let with = |rest: &str| refused(&format!(r#"{{"peft_type": "LORA", {rest}}}"#));
    for (rest, parts) in [
        (r#""r": 0"#, ["`r`", "positive"]),
        (r#""r": 2.5"#, ["`r`", "whole"]),
        (r#""r": "8""#, ["`r`", "\"8\""]),
        (r#""r": null"#, ["`r`", "null"]),
        (r#""lora_alpha": NaN"#, ["line 1", "finite"]),
        (r#""lora_alpha": 1e999"#, ["line 1", "out of range"]),
        (r#""lora_alpha": [8]"#, ["`lora_alpha`", "[8]"]),
        (
            r#""rank_pattern": {"q_proj": 0}"#,
            ["`rank_pattern.q_proj`", "found 0"],
        ),
        (r#""rank_pattern": [4]"#, ["`rank_pattern`", "[4]"]),
        (
            r#""alpha_pattern": {"q": true}"#,
            ["`alpha_pattern.q`", "finite"],
        ),
        (r#""use_rslora": 1"#, ["`use_rslora`", "true or false"]),
        (
            r#""rank_pattern": {"(?=q)q_proj": 4}"#,
            ["`(?=q)q_proj` of `rank_pattern`", "look-around"],
        ),
        (
            r#""alpha_pattern": {"(q)\\1": 4}"#,
            ["`(q)\\1` of `alpha_pattern`", "backreferences"],
        ),
        (
            r#""rank_pattern": {"a)|(b": 4}"#,
            ["`a)|(b`", "unopened group"],
        ),
        (r#""rank_pattern": {"[q[k]_proj": 4}"#, ["set", "paths"]),
        (
            r#""rank_pattern": {"((q{999}){999}){999}": 4}"#,
            ["q{999}", "size"],
        ),
    ] {
        let message = with(rest);
        for part in parts {
            assert!(message.contains(part), "{rest}: {message}");
        }
    }
    assert!(refused("[]").contains("`peft_type`"));
}
