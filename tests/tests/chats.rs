//! Chats become the text and the token ids that transformers makes of them: one template for each
//! feature that published templates use (`tests/oracle/make_chats.py`).

use anyhow::{Context, Result};
use reptune_recipes::{Chat, ChatEnding, Conversation, Message};
use reptune_tests::fixture;
use serde_json::{Value, json};
use std::path::Path;
use tempfile::TempDir;

/// A model directory with the tokenizer of tiny-llama2 after `change`, and a configuration of the
/// tokenizer with `template` and other `settings`.
fn directory(template: &Value, settings: &Value, change: impl Fn(&mut Value)) -> Result<TempDir> {
    let directory = tempfile::tempdir()?;
    let read = |name: &str| -> Result<Value> {
        let text = std::fs::read(fixture("tiny-llama2").join(name))?;
        Ok(serde_json::from_slice(&text)?)
    };
    let mut tokenizer = read("tokenizer.json")?;
    change(&mut tokenizer);
    let mut config = read("tokenizer_config.json")?;
    config["chat_template"] = template.clone();
    for (key, value) in settings.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    let write =
        |name: &str, json: &Value| std::fs::write(directory.path().join(name), json.to_string());
    write("tokenizer.json", &tokenizer)?;
    write("tokenizer_config.json", &config)?;
    Ok(directory)
}

fn chat(template: &str) -> Result<Chat> {
    let directory = directory(&json!(template), &json!({}), |_| ())?;
    Ok(Chat::load(directory.path())?)
}

#[test]
fn templates_render_and_tokenize_as_in_transformers() -> Result<()> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/chats.json");
    let file: Value = serde_json::from_slice(&std::fs::read(file)?)?;
    let cases = file["cases"].as_array().context("cases")?;
    assert!(cases.len() >= 20);
    for case in cases {
        let name = case["name"].as_str().context("name")?;
        let directory = directory(&case["template"], &case["config"], |_| ())?;
        let chat = Chat::load(directory.path())?;
        let messages: Vec<Message> = serde_json::from_value(case["messages"].clone())?;
        assert_eq!(
            chat.render(&messages)?,
            case["text"].as_str().context("text")?,
            "{name}"
        );
        let ids: Vec<u32> = serde_json::from_value(case["ids"].clone())?;
        assert_eq!(chat.prompt(&messages)?, ids, "{name}");
    }
    Ok(())
}

/// The conversation of a request in OpenAI's manner.
fn conversation(body: &Value) -> Result<Conversation> {
    let is = |key: &str| body[key].as_bool().unwrap_or_default();
    let mut variables = body["chat_template_kwargs"].as_object().cloned();
    for key in ["documents", "enable_thinking", "reasoning_effort"] {
        if let Some(value) = body.get(key) {
            let variables = variables.get_or_insert_default();
            variables.insert(key.into(), value.clone());
        }
    }
    let closed = body["add_generation_prompt"] == false;
    Ok(Conversation {
        messages: serde_json::from_value(body["messages"].clone())?,
        tools: body["tools"].as_array().cloned().unwrap_or_default(),
        variables: variables.unwrap_or_default(),
        ending: match is("continue_final_message") {
            true => ChatEnding::Continue,
            false if closed => ChatEnding::Closed,
            false => ChatEnding::Prompt,
        },
    })
}

#[test]
fn tools_and_whatever_else_requests_hold_render_as_in_transformers() -> Result<()> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/chats.json");
    let file: Value = serde_json::from_slice(&std::fs::read(file)?)?;
    let requests = file["requests"].as_array().context("requests")?;
    assert!(requests.len() >= 15);
    for request in requests {
        let name = request["name"].as_str().context("name")?;
        let directory = directory(&request["template"], &request["config"], |_| ())?;
        let chat = Chat::load(directory.path())?;
        let mut conversation = conversation(&request["body"])?;
        for message in &mut conversation.messages {
            // What the server makes of these two.
            message.retain(|_, value| *value != json!([]));
            if message["role"] == "developer" {
                message["role"] = json!("system");
            }
        }
        let text = chat.write(&conversation)?;
        assert_eq!(text, request["text"].as_str().context("text")?, "{name}");
        let ids: Vec<u32> = serde_json::from_value(request["ids"].clone())?;
        assert_eq!(chat.ids(&text)?, ids, "{name}");
    }
    Ok(())
}

#[test]
fn a_template_that_drops_the_persona_is_refused_and_one_that_refuses_it_gets_it_in_the_question()
-> Result<()> {
    let messages = Message::conversation("Be kind.", "Is ice cold?");
    let drops = "{% for m in messages if m.role == 'user' %}[{{ m.content }}]{% endfor %}";
    let message = chat(drops)?.render(&messages).expect_err("no persona");
    assert!(
        message
            .to_string()
            .contains("the system message `Be kind.`"),
        "{message}"
    );
    let refuses = "{% for m in messages %}{% if m.role == 'system' %}\
        {{ raise_exception('System role not supported') }}{% endif %}[{{ m.content }}]{% endfor %}";
    let chat = chat(refuses)?;
    assert_eq!(chat.render(&messages)?, "[Be kind.\n\nIs ice cold?]");
    let alone = [messages[0].clone()];
    let message = chat.render(&alone).expect_err("no user").to_string();
    assert!(message.contains("System role not supported"), "{message}");
    Ok(())
}

#[test]
fn answers_follow_prompts_that_end_in_think_or_a_blank() -> Result<()> {
    let messages = Message::conversation("", "Is ice cold?");
    let turns = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}";
    for end in ["<assistant><think>\n", "Answer: "] {
        let template = turns.to_owned() + "{% if add_generation_prompt %}" + end + "{% endif %}";
        let label = chat(&template)?.label_token(&messages, "B")?;
        assert_eq!(label, u32::from(b'B'), "{end}");
    }
    Ok(())
}

#[test]
fn what_a_training_left_in_the_tokenizer_changes_no_prompt() -> Result<()> {
    let template = json!("{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}");
    let plain = Chat::load(directory(&template, &json!({}), |_| ())?.path())?;
    let changed = directory(&template, &json!({}), |tokenizer| {
        tokenizer["truncation"] = json!({
            "direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0
        });
        tokenizer["padding"] = json!({
            "strategy": {"Fixed": 40}, "direction": "Left", "pad_to_multiple_of": null,
            "pad_id": 257, "pad_type_id": 0, "pad_token": "</s>"
        });
        let single = &mut tokenizer["post_processor"]["single"];
        let end = json!({"SpecialToken": {"id": "</s>", "type_id": 0}});
        single.as_array_mut().expect("a list").push(end);
        tokenizer["post_processor"]["special_tokens"]["</s>"] =
            json!({"id": "</s>", "ids": [257], "tokens": ["</s>"]});
    })?;
    let changed = Chat::load(changed.path())?;
    let messages = Message::conversation("", "Is ice cold in winter?");
    assert_eq!(changed.prompt(&messages)?, plain.prompt(&messages)?);
    assert_eq!(
        changed.encode("Is ice cold?")?,
        plain.encode("Is ice cold?")?
    );
    assert_eq!(
        plain
            .prompt(&messages)?
            .iter()
            .filter(|id| **id == 256)
            .count(),
        1
    );
    Ok(())
}

#[test]
fn the_end_of_a_turn_stops_a_generation_whatever_eos_token_says() -> Result<()> {
    let template = json!("{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}");
    let with_end = directory(&template, &json!({}), |tokenizer| {
        let token = json!({
            "id": 270, "content": "<|im_end|>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true
        });
        tokenizer["added_tokens"]
            .as_array_mut()
            .expect("a list")
            .push(token);
    })?;
    let chat = Chat::load(with_end.path())?;
    let end = chat.encode("<|im_end|>")?;
    assert!(
        chat.stop.contains(end.last().context("an id")?),
        "{:?}",
        chat.stop
    );
    Ok(())
}
