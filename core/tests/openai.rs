//! The body scan against a slow extraction that is written over `serde_json`, and against the corpus.

#![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use p3sched::{Prompt, Request, openai};
use proptest::prelude::*;
use serde::Deserialize;

mod generated_bodies;
mod reference_extraction;

use generated_bodies::{Json, any_body, any_json, conversation, json_text};
use reference_extraction::{is_json, reference};

const PATHS: [&str; 7] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/embeddings",
    "/inference/v1/generate",
    "/generate",
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    path: String,
    body: Option<String>,
    body_hex: Option<String>,
    #[serde(default)]
    model: String,
    #[serde(default)]
    prompt_hex: String,
    prompt_tokens: Option<Vec<u32>>,
    cache_salt: Option<String>,
    session: Option<String>,
    #[serde(default)]
    stream: bool,
    error: Option<String>,
}

fn from_hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn corpus() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("../testdata/bodies.json")).unwrap();
    let names: BTreeSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    assert_eq!(names.len(), cases.len());
    for case in cases {
        let body = case.body.map_or_else(|| from_hex(&case.body_hex.unwrap()), String::into_bytes);
        let found = Request::from_body(&case.path, &body);
        if let Some(error) = case.error {
            let found = found.unwrap_err();
            assert_eq!(found.code(), "InvalidRequest");
            assert_eq!(found.to_string(), format!("invalid request: {error}"), "{}", case.name);
            continue;
        }
        let mut expected = Request::from_text(case.model, from_hex(&case.prompt_hex));
        if let Some(tokens) = case.prompt_tokens {
            expected.prompt = Prompt::Tokens(tokens);
        }
        (expected.cache_salt, expected.session) = (case.cache_salt, case.session);
        expected.stream = case.stream;
        assert_eq!(found.unwrap(), expected, "{}", case.name);
    }
}

#[test]
fn place_of_the_model() {
    for (body, span) in [
        (r#"{"model":"a\"b","prompt":""}"#, Some(9..15)),
        (r#"{ "prompt": "", "model" : "x" }"#, Some(26..29)),
        (r#"{"model":"old","prompt":"","model":"new"}"#, Some(35..40)),
    ] {
        let found = openai::scan("/v1/completions", body.as_bytes()).unwrap();
        assert_eq!(found.model_span, span);
        assert_eq!(serde_json::from_str::<String>(&body[span.unwrap()]).unwrap(), found.request.model);
    }
    assert_eq!(openai::scan("/generate", b"{}").unwrap().model_span, None);
}

#[test]
fn null_under_one_key_of_the_prompt_leaves_the_other() {
    for body in [r#"{"text":"long","input_ids":null}"#, r#"{"input_ids": null ,"text":"long"}"#] {
        let found = Request::from_body("/generate", body.as_bytes()).unwrap();
        assert_eq!(found.prompt, Prompt::Bytes(b"long".to_vec()), "{body}");
    }
    for body in [r#"{"input_ids":[1,2],"text":null}"#, r#"{"text":null,"input_ids":null}"#, r#"{"text":nul}"#]
    {
        check("/generate", body.as_bytes());
    }
}

/// What nests up to the limit of `serde_json`, and one level more.
#[test]
fn depth() {
    for levels in [1, 125, 126, 127, 128, 10_000] {
        for (open, close) in
            [("[", "]"), ("{\"a\":", "}"), ("{\"content\":[", "]}"), ("{\"type\":\"x\",\"b\":[", "]}")]
        {
            for key in ["x", "tools", "messages", "model"] {
                let nested = format!("{}0{}", open.repeat(levels), close.repeat(levels));
                let body = format!(r#"{{"model":"m","messages":[],"{key}":{nested}}}"#);
                check("/v1/chat/completions", body.as_bytes());
            }
        }
    }
}

/// Compares the scan with the reference, in what it accepts and in what it extracts.
fn check(path: &str, body: &[u8]) {
    let found = Request::from_body(path, body);
    if let Some(expected) = reference(path, body) {
        assert_eq!(found.clone().ok(), expected, "{path} {} {found:?}", String::from_utf8_lossy(body));
    }
}

fn any_path() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&PATHS[..])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn generated_bodies_as_the_reference(path in any_path(), body in any_body(), style in any::<u64>()) {
        check(path, json_text(&body, style).as_bytes());
    }

    #[test]
    fn damaged_bodies_as_the_reference(path in any_path(), body in any_body(), style in any::<u64>(), damage in proptest::collection::vec((any::<prop::sample::Index>(), damage()), 1..4)) {
        let mut text = json_text(&body, style).into_bytes();
        for (place, damage) in damage {
            if text.is_empty() {
                break;
            }
            let place = place.index(text.len());
            match damage {
                Damage::Set(byte) => text[place] = byte,
                Damage::Insert(bytes) => drop(text.splice(place..place, bytes.bytes())),
                Damage::Remove => drop(text.remove(place)),
                Damage::Cut => text.truncate(place + 1),
            }
        }
        check(path, &text);
    }

    #[test]
    fn values_as_serde_json(bytes in proptest::collection::vec(json_byte(), 0..12)) {
        let body = [&br#"{"model":"m","prompt":"","x":"#[..], &bytes, b"}"].concat();
        if let Some(valid) = is_json(&body) {
            prop_assert_eq!(Request::from_body("/v1/completions", &body).is_ok(), valid, "{}", String::from_utf8_lossy(&body));
        }
    }

    #[test]
    fn strings_as_serde_json(content in proptest::collection::vec(string_piece(), 0..40)) {
        let content = content.concat();
        let body = [&br#"{"model":"m","prompt":""#[..], &content, b"\"}"].concat();
        check("/v1/completions", &body);
    }

    /// Neither white space nor escapes show.
    #[test]
    fn style_does_not_show(path in any_path(), body in any_body(), one in any::<u64>(), other in any::<u64>()) {
        let (one, other) = (json_text(&body, one), json_text(&body, other));
        // Where numbers stand inside a string of another spelling the texts are the same, so that errors differ in places only.
        prop_assert_eq!(Request::from_body(path, one.as_bytes()).ok(), Request::from_body(path, other.as_bytes()).ok());
    }

    /// Other bytes at the place of the model make it a request for another model, and change nothing else.
    #[test]
    fn another_model_changes_nothing_else(path in any_path(), body in any_body(), style in any::<u64>(), model in "\\PC{0,12}") {
        let text = json_text(&body, style);
        let Ok(found) = openai::scan(path, text.as_bytes()) else { return Ok(()) };
        let Some(span) = found.model_span else { return Ok(()) };
        let name = serde_json::to_string(&model).unwrap();
        let renamed = [&text[..span.start], &name, &text[span.end..]].concat();
        let mut expected = found.request;
        expected.model = model;
        prop_assert_eq!(Request::from_body(path, renamed.as_bytes()).unwrap(), expected);
    }

    /// A body that is cut within a message's text has the beginning of the whole one's prompt, and its model.
    #[test]
    fn a_beginning_has_the_beginning_of_the_prompt(content in "[ -~é中😀\n\"]{1,60}", before in conversation(), style in any::<u64>(), cut in any::<prop::sample::Index>()) {
        let mark = "the last message: ";
        let last = Json::Object(vec![("role".to_owned(), Json::Text("user".to_owned())), ("content".to_owned(), Json::Text(format!("{mark}{content}")))]);
        let messages = before.into_iter().chain([last]).collect();
        let members = vec![("model".to_owned(), Json::Text("llama".to_owned())), ("messages".to_owned(), Json::Array(messages))];
        let text = json_text(&Json::Object(members), style);
        let Some(start) = text.rfind(mark).map(|at| at + mark.len()) else { return Ok(()) };
        let end = start + cut.index(text.len() - start);
        let path = "/v1/chat/completions";
        let bytes = |request: Request| match request.prompt {
            Prompt::Bytes(bytes) => bytes,
            prompt => panic!("{prompt:?}"),
        };
        let whole = bytes(Request::from_body(path, text.as_bytes()).unwrap());
        let beginning = openai::scan_beginning(path, &text.as_bytes()[..end]).unwrap();
        prop_assert_eq!(&beginning.request.model, "llama");
        prop_assert!(whole.starts_with(&bytes(beginning.request)));
    }

    /// Whatever is cut off, what is left is JSON: only the model or the prompt may be missing.
    #[test]
    fn a_beginning_is_no_malformed_body(path in any_path(), body in any_body(), style in any::<u64>(), cut in any::<prop::sample::Index>()) {
        let text = json_text(&body, style);
        if openai::scan(path, text.as_bytes()).is_err() {
            return Ok(());
        }
        if let Err(error) = openai::scan_beginning(path, &text.as_bytes()[..cut.index(text.len() + 1)]) {
            let error = error.to_string();
            prop_assert!(["names no", "holds no", "is cut off", "expected a JSON object"].iter().any(|part| error.contains(part)), "{}", error);
        }
    }

    /// The bytes of a conversation begin with those of each of its beginnings.
    #[test]
    fn conversations_grow_at_the_end(messages in conversation(), tools in any_json(), at in any::<prop::sample::Index>(), tools_first in any::<bool>(), style in any::<u64>()) {
        let bytes = |messages: &[Json]| {
            let mut members = vec![("model".to_owned(), Json::Text("m".to_owned())), ("tools".to_owned(), tools.clone()), ("messages".to_owned(), Json::Array(messages.to_vec()))];
            if !tools_first {
                members.reverse();
            }
            let request = Request::from_body("/v1/chat/completions", json_text(&Json::Object(members), style).as_bytes());
            match request.unwrap().prompt {
                Prompt::Bytes(bytes) => bytes,
                prompt => panic!("{prompt:?}"),
            }
        };
        prop_assert!(bytes(&messages).starts_with(&bytes(&messages[..at.index(messages.len())])));
    }
}

#[derive(Debug, Clone)]
enum Damage {
    Set(u8),
    Insert(&'static str),
    Remove,
    Cut,
}

fn damage() -> impl Strategy<Value = Damage> {
    let inserts: &'static [&str] = &[
        "\"", "\\", "\\u", "\\ud800", "\\udc00", "{", "}", "[", "]", ",", ":", "-", "0", "1e5", ".", "null",
        "\u{7f}", " ", "é",
    ];
    prop_oneof![
        json_byte().prop_map(Damage::Set),
        prop::sample::select(inserts).prop_map(Damage::Insert),
        Just(Damage::Remove),
        Just(Damage::Cut),
    ]
}

/// Bytes that matter in JSON, and any.
fn json_byte() -> impl Strategy<Value = u8> {
    prop_oneof![4 => prop::sample::select(&b"\"\\{}[]:,-+.eE0123456789 \n\ttruefalsn\x00\x1f\x7f\x80\xc3\xff"[..]), 1 => any::<u8>()]
}

/// Pieces of strings: plain text of any length, escapes, and what breaks a string.
fn string_piece() -> impl Strategy<Value = Vec<u8>> {
    let escapes: &'static [&str] = &[
        "\\n",
        "\\\"",
        "\\\\",
        "\\/",
        "\\b\\f\\r\\t",
        "\\u0041",
        "\\u00e9",
        "\\uFFFF",
        "\\ud83d\\ude00",
        "\\u0000",
    ];
    let broken: &'static [&str] =
        &["\\", "\\u12", "\\uD800", "\\udc00", "\\ud800\\u0041", "\\x", "\n", "\u{1}", "\""];
    let invalid: &'static [&[u8]] = &[b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf0\x9f\x98", b"\xc0\x80"];
    prop_oneof![
        12 => "[ -!#-\\[\\]-~]{0,100}".prop_map(String::into_bytes),
        1 => (100_usize..20_000).prop_map(|length| vec![b'x'; length]),
        6 => prop::sample::select(escapes).prop_map(|text| text.as_bytes().to_vec()),
        6 => "[é中😀]{1,30}".prop_map(String::into_bytes),
        1 => prop::sample::select(broken).prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::sample::select(invalid).prop_map(<[u8]>::to_vec),
    ]
}
