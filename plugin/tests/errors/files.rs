//! Models, prompts, directions and adapters that are missing, broken or of another kind.

use super::{adapter, directions, directions_of_the_model, messages, nothing, replace};
use crate::program::{command, workplace, write};

#[test]
fn models() {
    let text = messages(&[
        (nothing, "generate -m nowhere --prompt x"),
        (nothing, "generate -m owner/name --prompt x"),
        (
            |d| {
                replace(
                    d,
                    "model/config.json",
                    "LlamaForCausalLM",
                    "GemmaForCausalLM",
                )
            },
            "generate -m model --prompt x",
        ),
        (
            |d| write(d, "model/config.json", "{"),
            "generate -m model --prompt x",
        ),
        (
            |d| std::fs::remove_file(d.join("model/config.json")).expect("removed"),
            "generate -m model --prompt x",
        ),
        (
            |d| std::fs::remove_file(d.join("model/tokenizer.json")).expect("removed"),
            "generate -m model --prompt x",
        ),
        (
            |d| std::fs::remove_file(d.join("model/model.safetensors")).expect("removed"),
            "generate -m model --prompt x",
        ),
        (
            |d| {
                let file = d.join("model/model.safetensors");
                let bytes = std::fs::read(&file).expect("readable");
                std::fs::write(file, &bytes[..bytes.len() - 9]).expect("writable");
            },
            "generate -m model --prompt x",
        ),
        (
            |d| {
                replace(
                    d,
                    "model/config.json",
                    "\"hidden_size\": 32",
                    "\"hidden_size\": 64",
                )
            },
            "generate -m model --prompt x",
        ),
        (
            |d| write(d, "x.gguf", "no model"),
            "generate -m x.gguf --prompt x",
        ),
        (nothing, "generate -m model --prompt x --quantize q9"),
        (nothing, "generate -m model --prompt x --device gpu"),
        (nothing, "generate -m model --prompt x --dtype f8"),
        (nothing, "generate -m model --prompt x --dtype bf16"),
    ]);
    insta::assert_snapshot!(text);
}

#[test]
fn prompts() {
    let generate = "generate -m model --prompts prompts.jsonl";
    let text = messages(&[
        (nothing, "generate -m model --prompts none.jsonl"),
        (|d| write(d, "prompts.jsonl", "\n"), generate),
        (
            |d| write(d, "prompts.jsonl", "{\"prompt\": \"x\"}\n{\"text\": 1}\n"),
            generate,
        ),
        (
            |d| {
                let long = "x".repeat(300);
                write(d, "prompts.jsonl", &format!("{{\"prompt\": \"{long}\"}}\n"));
            },
            generate,
        ),
        (
            |d| {
                write(
                    d,
                    "model/tokenizer_config.json",
                    "{\"chat_template\": \"hello\"}",
                );
                let chat = "{\"messages\": [{\"role\": \"user\", \"content\": \"Is it true?\"}]}\n";
                write(d, "prompts.jsonl", chat);
            },
            generate,
        ),
        (
            nothing,
            "capture -m model --prompts prompts.jsonl --layers 2-4 -o c.safetensors",
        ),
    ]);
    insta::assert_snapshot!(text);
}

#[test]
fn steering() {
    let steer = "generate -m model --prompt x --directions d.safetensors --layers 1 --coeff 3";
    let text = messages(&[
        (nothing, steer),
        (|d| write(d, "d.safetensors", "no tensors"), steer),
        (
            |d| directions(&d.join("d.safetensors"), 48, String::new()),
            steer,
        ),
        (
            |d| directions(&d.join("d.safetensors"), 32, "1234".into()),
            steer,
        ),
        (
            |d| {
                std::fs::copy(d.join("model/model.safetensors"), d.join("d.safetensors"))
                    .expect("copied");
            },
            steer,
        ),
        (
            directions_of_the_model,
            "generate -m model --prompt x --directions d.safetensors --layers 9 --coeff 3",
        ),
        (
            directions_of_the_model,
            "generate -m model --prompt x --directions d.safetensors --layers 1",
        ),
        (
            directions_of_the_model,
            "generate -m model --prompt x --directions d.safetensors --layers 1 --fraction 0.5",
        ),
        (
            directions_of_the_model,
            "generate -m model --prompt x --directions d.safetensors --layers 1 --coeff 3 --operator ablate",
        ),
        (
            directions_of_the_model,
            "generate -m model --prompt x --directions d.safetensors --layers 1 --strength 3 --operator clamp",
        ),
        (
            directions_of_the_model,
            "generate -m model --prompt x --directions d.safetensors --layers 1 --coeff 3 --hook everywhere",
        ),
        (
            directions_of_the_model,
            "bake -m model --directions d.safetensors --layers 1,2 --operator ablate --hook everywhere -o out",
        ),
        (nothing, "bake -m model -o out"),
        (
            directions_of_the_model,
            "bake -m model --directions d.safetensors --layers 1 --coeffs 2,2.0 -o out",
        ),
        (
            directions_of_the_model,
            "bake -m model --directions d.safetensors --layers 1 --operator ablate -o out",
        ),
        (
            directions_of_the_model,
            "bake -m model --directions d.safetensors --layers 1 --operator ablate --approximate -o out",
        ),
        (
            directions_of_the_model,
            "bake -m model --directions d.safetensors --layers 1 --coeff 3 --positions last:2 -o out",
        ),
    ]);
    insta::assert_snapshot!(text);
}

#[test]
fn adapters_and_conversions() {
    let merge = "merge -m model --adapter adapter -o merged";
    let text = messages(&[
        (nothing, merge),
        (
            |d| {
                adapter(d);
                let config = "adapter/adapter_config.json";
                replace(d, config, "\"use_dora\": false", "\"use_dora\": true");
            },
            merge,
        ),
        (
            |d| {
                adapter(d);
                std::fs::remove_file(d.join("adapter/adapter_model.safetensors")).expect("removed");
            },
            merge,
        ),
        (
            |d| {
                adapter(d);
                std::fs::create_dir(d.join("merged")).expect("writable");
                write(d, "merged/thesis.txt", "x");
            },
            merge,
        ),
        (
            adapter,
            "merge -m model --adapter adapter -o merged --recipe r.toml",
        ),
        (
            adapter,
            "merge -m model --adapter adapter -o merged --rounding gptq",
        ),
        (
            adapter,
            "merge -m model --adapter adapter -o merged --quantize auto",
        ),
        (
            adapter,
            "merge -m model --adapter adapter -o merged --quantize q8_0 --rounding gptq,nearest",
        ),
        (nothing, "convert none -o x.gguf"),
        (directions_of_the_model, "convert d.safetensors -o x.txt"),
        (
            directions_of_the_model,
            "convert d.safetensors --layers 0-1 -o x.gguf",
        ),
        (
            directions_of_the_model,
            "convert d.safetensors --coeff 3 -o x.svec",
        ),
        (adapter, "convert adapter -o x.gguf"),
        (adapter, "convert adapter -m model --layers 1 -o x.gguf"),
        (nothing, "inspect none"),
        (nothing, "inspect ."),
        (
            |d| {
                directions_of_the_model(d);
                let file = d.join("d.safetensors");
                let mut bytes = std::fs::read(&file).expect("readable");
                let last = bytes.len() - 3;
                bytes[last] ^= 1;
                std::fs::write(file, bytes).expect("writable");
            },
            "inspect d.safetensors",
        ),
        (
            directions_of_the_model,
            "serve -m model --steer base=d.safetensors:layers=1,coeff=1",
        ),
        (
            directions_of_the_model,
            "serve -m model --steer a=d.safetensors:layers=1,coeff=1,on=b",
        ),
        (
            directions_of_the_model,
            "serve -m model --steer a=d.safetensors:layers=7,coeff=1",
        ),
    ]);
    insta::assert_snapshot!(text);
}

#[test]
fn a_port_in_use() {
    let directory = workplace();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let arguments = ["serve", "--model", "model", "--port", &port];
    let output = command(directory.path()).args(arguments).output();
    let message = output.expect("reptune runs").stderr;
    let message = String::from_utf8_lossy(&message).replace(&port, "[port]");
    insta::assert_snapshot!(message);
}

/// A write that fails half-way, as on a full disk: files may not grow past some KiB.
#[cfg(unix)]
#[test]
fn a_full_disk() {
    let directory = workplace();
    let place = directory.path();
    directions_of_the_model(place);
    adapter(place);
    let before = super::listing(place);
    let mut all = String::new();
    for typed in [
        "capture --model model --prompts prompts.jsonl --logits --out c.safetensors",
        "merge --model model --adapter adapter --out merged",
        "bake --model model --directions d.safetensors --layers 1 --coeff 3 --out baked",
    ] {
        let limited = format!("trap '' XFSZ; ulimit -f 16; exec \"$0\" {typed}");
        let mut shell = std::process::Command::new("bash");
        shell.args(["-c", &limited, env!("CARGO_BIN_EXE_reptune")]);
        let output = shell.current_dir(place).output().expect("bash runs");
        assert_eq!(output.status.code(), Some(1), "{typed}");
        assert_eq!(
            super::listing(place),
            before,
            "{typed} left something behind"
        );
        all += &format!(
            "$ reptune {typed}\n{}\n",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    insta::assert_snapshot!(all);
}
