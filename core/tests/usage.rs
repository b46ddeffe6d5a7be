//! The usage of real and written answers, however they are cut into chunks.

use p3sched::usage::{Usage, UsageScanner};
use serde::Deserialize;

#[derive(Deserialize)]
struct Answer {
    name: String,
    body: String,
    prompt_tokens: Option<u32>,
    completion_tokens: Option<u32>,
    cached_tokens: Option<u32>,
}

type Tokens = (Option<u32>, Option<u32>, Option<u32>);

fn tokens(usage: Usage) -> Tokens {
    (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)
}

fn scan<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Tokens {
    let mut scanner = UsageScanner::new();
    chunks.into_iter().for_each(|chunk| scanner.push(chunk));
    tokens(scanner.finish())
}

/// Whole, cut in two at every byte, and byte by byte.
fn check(name: &str, body: &[u8], expected: Tokens) {
    assert_eq!(scan([body]), expected, "{name}");
    for at in 0..=body.len() {
        let (first, second) = body.split_at(at);
        assert_eq!(scan([first, second]), expected, "{name}, cut at {at}");
    }
    for size in [1, 2, 3, 7] {
        assert_eq!(scan(body.chunks(size)), expected, "{name}, chunks of {size}");
    }
}

#[test]
fn captured_streams() {
    let expected = (Some(13), Some(3), Some(0));
    check("vllm", include_bytes!("../testdata/sse/vllm-0.32.txt"), expected);
    check("sglang", include_bytes!("../testdata/sse/sglang-0.5.23.txt"), expected);
}

#[test]
fn answers_of_every_api() {
    let answers: Vec<Answer> = serde_json::from_str(include_str!("../testdata/usage/answers.json")).unwrap();
    assert!(answers.len() > 10);
    for answer in answers {
        let expected = (answer.prompt_tokens, answer.completion_tokens, answer.cached_tokens);
        check(&answer.name, answer.body.as_bytes(), expected);
    }
}

#[test]
fn an_object_without_end_takes_no_memory_and_hides_nothing_behind_it() {
    let long = format!(
        r#"{{"usage":{{"x":"{}","prompt_tokens":1}},"usage":{{"prompt_tokens":2}}}}"#,
        "y".repeat(1 << 20)
    );
    assert_eq!(scan(long.as_bytes().chunks(1000)), (Some(2), None, None));
}
