use super::*;

fn refused(body: Value) -> String {
    let Value::Object(mut body) = body else {
        panic!("an object")
    };
    let refusal = check(&body).and_then(|()| only_text(&mut body));
    format!("{:?}", refusal.expect_err("refused"))
}

#[test]
fn what_mistral_rs_would_take_in_silence_is_refused_by_name() {
    let user = json!([{"role": "user", "content": "x"}]);
    for (body, said) in [
        (
            json!({}),
            "`messages` to be a list of messages, found nothing",
        ),
        (json!({"messages": []}), "found []"),
        (json!({"messages": "x"}), "found \\\"x\\\""),
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
            json!({"messages": user, "n": 17}),
            "`n` from 1 to 16, found 17",
        ),
        (
            json!({"messages": user, "temperature": "hot"}),
            "`temperature` from 0 to 100, found \\\"hot\\\"",
        ),
        (
            json!({"messages": user, "top_logprobs": 1e6}),
            "`top_logprobs` from 0 to 20",
        ),
        (
            json!({"messages": user, "stream": "yes"}),
            "`stream` true or false",
        ),
        (
            json!({"messages": user, "web_search_options": {}}),
            "fetches nothing",
        ),
    ] {
        let refusal = refused(body);
        assert!(refusal.contains(said), "{refusal}\n{said}");
    }
}

#[test]
fn parts_of_text_become_one_text_and_others_are_refused() {
    let part = |part: Value| json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, part]}]});
    let Value::Object(mut body) = part(json!({"type": "text", "text": "b"})) else {
        panic!("an object")
    };
    only_text(&mut body).expect("text");
    assert_eq!(body["messages"][0]["content"], "a b");
    for kind in ["image_url", "audio_url", "video_url", "file"] {
        let refusal = refused(part(
            json!({"type": kind, kind: {"url": "file:///etc/passwd"}}),
        ));
        assert!(
            refusal.contains("messages[0].content[1]") && refusal.contains(kind),
            "{refusal}"
        );
        assert!(!refusal.contains("passwd"), "{refusal}");
    }
}
