//! One prompt everywhere: every command gives a model the tokens that transformers would.

use crate::commands::RECIPE;
use crate::program::{chats, copy, json, model, printed, templated, write};
use reptune::{Chat, Llama, LoadOptions};
use reptune_recipes::generate::{Generation, generate};
use serde_json::{Value, json as value};
use std::path::Path;

#[test]
fn capture_and_generate_have_the_tokens_of_transformers() {
    let room = templated(&value!(""), &value!({}));
    let llama = Llama::load(room.path(), LoadOptions::default()).expect("loads");
    for case in chats("cases") {
        let name = case["name"].as_str().expect("a name");
        let room = templated(&case["template"], &case["config"]);
        let place = room.path();
        let line = value!({"messages": case["messages"]}).to_string();
        write(place, "prompts.jsonl", &line);
        let prompts = ["-m", ".", "--prompts", "prompts.jsonl"];
        let capture = ["capture", "-o", "out.safetensors", "--layers", "1"];
        printed(place, &[&capture[..], &prompts].concat());
        let tensors = candle_core::safetensors::load(
            place.join("out.safetensors"),
            &candle_core::Device::Cpu,
        );
        let captured = &tensors.expect("tensors")["prompt.0.ids"];
        let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).expect("ids");
        assert_eq!(captured.to_vec1::<u32>().expect("ids"), ids, "{name}");
        let generated = json(
            place,
            &[&["generate", "--max-new-tokens", "3"][..], &prompts].concat(),
        );
        let stop = Chat::load(place).expect("a chat").stop;
        let how = Generation {
            max_new_tokens: 3,
            stop: &stop,
            ..Generation::default()
        };
        let ours = generate(&llama, &[ids], &how, &mut |_| {}).expect("generates");
        assert_eq!(generated["tokens"], value!(ours[0]), "{name}");
    }
}

/// The template of honest-mini in other words, with features that mistral.rs 0.8.1 lacks or that
/// differ between Jinja2 and minijinja.
const TWIN: &str = "
{%- set ns = namespace(system='', first=true) -%}
{{- bos_token -}}
{%- if tools is not none %}{{ raise_exception('no tools were given') }}{% endif -%}
{%- for m in messages -%}
    {%- if m.role == 'system' -%}
        {%- set ns.system = '<<SYS>> ' ~ m['content'] ~ '<</SYS>>' -%}
        {%- continue -%}
    {%- endif -%}
    {%- if m.get('role').startswith('user') -%}
        {{- '[INST]' + (ns.system if ns.first else '') + ' ' + m.content + '[/INST]' -}}
    {%- else -%}
        {%- generation -%}{{- ' ' + m['content'][:] + '</s>' -}}{%- endgeneration -%}
    {%- endif -%}
    {%- set ns.first = false -%}
{%- endfor -%}";

/// What `extract`, `tune` and `evaluate` make of the mini-Llama with `template`, or with its own.
fn results(template: Option<&str>) -> (Vec<u8>, Vec<u8>, Value) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let place = directory.path();
    copy(Path::new(&model()), &place.join("model"));
    if let Some(template) = template {
        write(&place.join("model"), "chat_template.jinja", template);
    }
    write(place, "r.toml", &RECIPE.replace("MODEL", "model"));
    printed(place, &["extract", "r.toml"]);
    printed(place, &["tune", "r.toml"]);
    let evaluated = json(place, &["evaluate", "r.toml"]);
    let tensors = |file: &str| {
        let bytes = std::fs::read(place.join("runs/small").join(file)).expect(file);
        let header = u64::from_le_bytes(bytes[..8].try_into().expect("a length"));
        bytes[8 + header as usize..].to_vec()
    };
    let tuned = tensors("tuned/in_plus_truth/adapter_model.safetensors");
    (tensors("directions.safetensors"), tuned, evaluated)
}

#[test]
fn extract_tune_and_evaluate_depend_on_what_a_template_writes_and_not_on_how() {
    let own = results(None);
    let twin = results(Some(TWIN));
    assert!(own.0 == twin.0, "directions");
    assert!(own.1 == twin.1, "adapters");
    assert_eq!(own.2, twin.2);
    let other = results(Some(&TWIN.replace("<</SYS>>", "<</SYS>> ")));
    assert!(own.0 != other.0 && own.1 != other.1 && own.2 != other.2);
}
