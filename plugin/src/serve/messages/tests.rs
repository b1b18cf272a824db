use super::*;

fn read(body: Value) -> Result<Conversation, Refusal> {
    let Value::Object(body) = body else {
        panic!("an object")
    };
    conversation(&Body(&body))
}

#[test]
fn messages_that_are_none_are_refused_by_their_place() {
    let call = json!({"id": "1", "type": "function", "function": {"name": "f"}});
    for (body, said) in [
        (
            json!({}),
            "`messages` to be a list of messages, found nothing",
        ),
        (json!({"messages": []}), "found []"),
        (json!({"messages": "x"}), "found \"x\""),
        (
            json!({"messages": [1]}),
            "`messages[0]` to be an object, found 1",
        ),
        (
            json!({"messages": [{"content": "x"}]}),
            "`messages[0].role` to be a text, found nothing",
        ),
        (
            json!({"messages": [{"role": "user"}]}),
            "`messages[0].content` to be a text, found nothing",
        ),
        (
            json!({"messages": [{"role": "assistant", "tool_calls": [call]}]}),
            "`messages[0].tool_calls[0]` to be a call with `function.name` and `function.arguments`",
        ),
        (
            json!({"messages": [{"role": "assistant", "content": null, "tool_calls": []}]}),
            "`messages[0].content` to be a text",
        ),
    ] {
        let refusal = read(body).expect_err("refused").message;
        assert!(refusal.contains(said), "{refusal}\n{said}");
    }
    let user = json!([{"role": "user", "content": "x"}]);
    for (field, value, said) in [
        ("chat_template_kwargs", json!(1), "to be an object"),
        (
            "chat_template_kwargs",
            json!({"messages": []}),
            "without `messages`",
        ),
        ("enable_thinking", json!("no"), "true or false"),
        ("reasoning_effort", json!(3), "to be a text"),
        ("documents", json!("x"), "to be a list"),
    ] {
        let body = json!({"messages": user, field: value});
        let refusal = read(body).expect_err("refused").message;
        assert!(
            refusal.contains(said) && refusal.contains(field),
            "{refusal}"
        );
    }
    let both =
        json!({"messages": user, "add_generation_prompt": true, "continue_final_message": true});
    let refusal = read(both).expect_err("refused").message;
    assert!(
        refusal.contains("`add_generation_prompt` false"),
        "{refusal}"
    );
}

#[test]
fn parts_of_another_type_than_text_are_refused() {
    for kind in ["image_url", "audio_url", "video_url", "file"] {
        let parts = json!([
            {"type": "text", "text": "a"},
            {"type": kind, kind: {"url": "file:///etc/passwd"}},
        ]);
        let body = json!({"messages": [{"role": "user", "content": parts}]});
        let refusal = read(body).expect_err("refused").message;
        let named = refusal.contains("messages[0].content[1]") && refusal.contains(kind);
        assert!(named && !refusal.contains("passwd"), "{refusal}");
    }
}

#[test]
fn a_developer_is_the_system_and_null_is_not_given() {
    let read = read(json!({
        "messages": [
            {"role": "developer", "content": "Be kind.", "name": null},
            {"role": "user", "content": "x", "tool_calls": null},
        ],
        "enable_thinking": null,
        "chat_template_kwargs": null,
    }));
    let read = read.expect("a conversation");
    let expected = [
        json!({"role": "system", "content": "Be kind."}),
        json!({"role": "user", "content": "x"}),
    ];
    assert_eq!(
        read.messages
            .into_iter()
            .map(Value::Object)
            .collect::<Vec<_>>(),
        expected
    );
    assert!(read.variables.is_empty());
}
