//! What may happen to good bytes, and to good JSON.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

/// A change of bytes.
#[derive(Debug, Clone)]
pub enum Change {
    /// Bits of a byte turn.
    Flip(Index, u8),
    /// Everything behind is gone.
    Cut(Index),
    /// Four bytes say another number.
    Word(Index, u32),
    /// Bytes come in between.
    Insert(Index, Vec<u8>),
    /// Some bytes are gone.
    Drop(Index, usize),
}

/// One to three changes.
pub fn changes() -> impl Strategy<Value = Vec<Change>> {
    let word = prop_oneof![
        Just(0u32),
        Just(1),
        Just(u32::MAX),
        Just(i32::MAX as u32),
        any::<u32>()
    ];
    let change = prop_oneof![
        4 => (any::<Index>(), 1u8..).prop_map(|(at, mask)| Change::Flip(at, mask)),
        1 => any::<Index>().prop_map(Change::Cut),
        3 => (any::<Index>(), word).prop_map(|(at, word)| Change::Word(at, word)),
        1 => (any::<Index>(), vec(any::<u8>(), 1..9)).prop_map(|(at, new)| Change::Insert(at, new)),
        1 => (any::<Index>(), 1usize..9).prop_map(|(at, count)| Change::Drop(at, count)),
    ];
    vec(change, 1..4)
}

/// `bytes` with `changes`, all of them within the first `reach` bytes.
pub fn changed(bytes: &[u8], reach: usize, changes: &[Change]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for change in changes {
        let length = bytes.len().min(reach);
        if length == 0 {
            break;
        }
        match change {
            Change::Flip(at, mask) => bytes[at.index(length)] ^= mask,
            Change::Cut(at) => bytes.truncate(at.index(length)),
            Change::Word(at, word) => {
                let at = at.index(length);
                for (byte, new) in bytes[at..].iter_mut().zip(word.to_le_bytes()) {
                    *byte = new;
                }
            }
            Change::Insert(at, new) => {
                let at = at.index(length);
                bytes.splice(at..at, new.iter().copied());
            }
            Change::Drop(at, count) => {
                let at = at.index(length);
                let end = (at + count).min(bytes.len());
                bytes.drain(at..end);
            }
        }
    }
    bytes
}

/// Values that hardly any key expects.
pub fn odd() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        prop_oneof![
            Just(0u64),
            Just(1),
            Just(u64::MAX),
            Just(1 << 62),
            any::<u64>()
        ]
        .prop_map(Value::from),
        prop_oneof![Just(-1i64), Just(i64::MIN), any::<i64>()].prop_map(Value::from),
        prop_oneof![Just(0.5), Just(1e300), Just(-1e-300), any::<f64>()].prop_map(|x| json!(x)),
        prop_oneof![
            Just(String::new()),
            "\\PC{0,12}",
            Just("../../etc/passwd".into())
        ]
        .prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
        Just(json!([[[1, "a"]]])),
        Just(json!({"a": {"b": null}})),
    ]
}

/// `json` with the value at one place, at any depth, replaced by `odd`; and that place.
pub fn replaced(json: &Value, at: Index, odd: Value) -> (Value, String) {
    let mut places = Vec::new();
    list(json, String::new(), &mut places);
    let place = at.get(&places).clone();
    let mut json = json.clone();
    if let Some(value) = json.pointer_mut(&place) {
        *value = odd;
    }
    (json, place)
}

fn list(json: &Value, place: String, places: &mut Vec<String>) {
    match json {
        Value::Object(object) => {
            for (key, value) in object {
                let key = key.replace('~', "~0").replace('/', "~1");
                list(value, format!("{place}/{key}"), places);
            }
        }
        Value::Array(array) => {
            for (i, value) in array.iter().enumerate() {
                list(value, format!("{place}/{i}"), places);
            }
        }
        _ => {}
    }
    places.push(place);
}
