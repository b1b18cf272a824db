use super::*;

fn read(endpoint: Endpoint, body: Value) -> Result<Fields, Refusal> {
    let Value::Object(body) = body else {
        panic!("an object")
    };
    Fields::read(&body, endpoint)
}

#[test]
fn what_would_be_ignored_in_silence_is_refused_by_name() {
    let tool = json!({"type": "function", "function": {"name": "f"}});
    for (body, said) in [
        (json!({"n": 17}), "`n` from 1 to 16, found 17"),
        (
            json!({"temperature": "hot"}),
            "`temperature` from 0 to 100, found \"hot\"",
        ),
        (json!({"top_logprobs": 1e6}), "`top_logprobs` from 0 to 20"),
        (
            json!({"top_logprobs": 2}),
            "`logprobs` true beside `top_logprobs`",
        ),
        (json!({"stream": "yes"}), "`stream` true or false"),
        (json!({"web_search_options": {}}), "fetches nothing"),
        (json!({"suffix": "x"}), "no `suffix`"),
        (json!({"functions": []}), "use `tools`"),
        (json!({"truncate_sequence": true}), "shorten the prompt"),
        (
            json!({"min_tokens": 3}),
            "does not know the field `min_tokens`",
        ),
        (json!({"best_of": 2}), "`best_of` to equal `n`, 1, found 2"),
        (json!({"seed": 1.5}), "`seed` a whole number, found 1.5"),
        (json!({"top_k": -2}), "`top_k` from -1, found -2"),
        (
            json!({"logit_bias": {"x": 1}}),
            "`logit_bias` a map from token ids to numbers",
        ),
        (json!({"stop": [1]}), "`stop` a text or a list of texts"),
        (
            json!({"stream_options": {"include_usage": true}}),
            "only where `stream` is true",
        ),
        (
            json!({"stream": true, "stream_options": 1}),
            "`stream_options` with `include_usage`",
        ),
        (json!({"echo": true}), "`echo` only in completions"),
        (
            json!({"response_format": {"type": "xml"}}),
            "text, json_object or json_schema",
        ),
        (
            json!({"response_format": {"type": "json_schema"}}),
            "with `json_schema.schema`",
        ),
        (
            json!({"response_format": {"type": "json_object"}, "grammar": {"type": "regex", "value": "a"}}),
            "only without `response_format`",
        ),
        (json!({"tools": [{}]}), "`tools[0]` of the type function"),
        (json!({"tool_choice": "required"}), "only beside `tools`"),
        (
            json!({"tools": [tool], "tool_choice": "all"}),
            "none, auto, required or a function",
        ),
        (
            json!({"tools": [tool], "tool_choice": {"type": "function", "function": {"name": "g"}}}),
            "`tool_choice` one of `tools`",
        ),
    ] {
        let shown = body.to_string();
        let refusal = read(Endpoint::Chat, body).err().expect(&shown).message;
        assert!(refusal.contains(said), "{shown}: {refusal}");
    }
    let refusal = read(Endpoint::Completion, json!({"prompt": "x", "messages": []}));
    assert!(
        refusal
            .err()
            .expect("a chat")
            .message
            .contains("`messages`")
    );
}

#[test]
fn null_means_not_given() {
    let both = BOTH.iter().chain(&CHAT).chain(&IGNORED);
    let refused = REFUSED.iter().map(|(name, _)| name);
    let body = both
        .chain(refused)
        .map(|name| ((*name).to_owned(), Value::Null));
    let fields = read(Endpoint::Chat, Value::Object(body.collect())).expect("accepted");
    assert_eq!(
        (fields.n, fields.max_tokens, fields.stream),
        (1, None, false)
    );
    assert_eq!(fields.sampling, RequestSampling::default());
    assert!(fields.stop.is_empty() && fields.logprobs.is_none() && !fields.calls);
}

#[test]
fn fields_of_several_spellings_mean_the_same() {
    let chat = |body| read(Endpoint::Chat, body).expect("accepted");
    let most = chat(json!({"max_tokens": 5, "max_completion_tokens": 3})).max_tokens;
    assert_eq!(most, Some(3));
    assert_eq!(chat(json!({"max_tokens": 5})).max_tokens, Some(5));
    for (given, k) in [(json!(0), 0), (json!(-1), 0), (json!(40), 40)] {
        assert_eq!(chat(json!({"top_k": given})).sampling.top_k, k);
    }
    assert_eq!(chat(json!({"stop": "a"})).stop, ["a"]);
    assert_eq!(chat(json!({"stop": ["", "a"]})).stop, ["a"]);
    assert_eq!(chat(json!({"logprobs": true})).logprobs, Some(0));
    let counted = json!({"stream": true, "stream_options": {"include_usage": true}});
    assert!(chat(counted).include_usage);
    let completion = read(Endpoint::Completion, json!({"prompt": "x", "logprobs": 3}));
    assert_eq!(completion.expect("accepted").logprobs, Some(3));
    let object = chat(json!({"response_format": {"type": "json_object"}})).constraint;
    assert!(matches!(object, Constraint::JsonSchema(schema) if schema["type"] == "object"));
    let tools = json!([{"type": "function", "function": {"name": "f"}}]);
    assert!(chat(json!({"tools": tools})).calls);
    assert!(!chat(json!({"tools": tools, "tool_choice": "none"})).calls);
    let required = chat(json!({"tools": tools, "tool_choice": "required"})).constraint;
    assert!(matches!(required, Constraint::JsonSchema(schema)
        if schema["properties"]["name"]["const"] == "f"));
}
