//! Body scan beside `serde_json` into borrowed structs: `cargo bench --bench body_scan`.

#![expect(clippy::unwrap_used, reason = "a benchmark of what fails is void")]

use std::borrow::Cow;
use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use p3sched::Request;
use serde::Deserialize;

/// What the scan reads of a chat body, for `serde_json`; content that has no escapes is not copied.
#[derive(Deserialize)]
struct Chat<'a> {
    #[serde(borrow)]
    model: Cow<'a, str>,
    #[serde(borrow)]
    messages: Vec<Message<'a>>,
    #[serde(default)]
    stream: bool,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    role: Cow<'a, str>,
    #[serde(borrow)]
    content: Cow<'a, str>,
}

/// A body of `size` bytes in `messages` messages, each made of repetitions of `text`, which is JSON.
fn body(size: usize, messages: usize, text: &str) -> Vec<u8> {
    let content = text.repeat(size / messages / text.len());
    let message = |index: usize| {
        let role = if index.is_multiple_of(2) { "user" } else { "assistant" };
        format!(r#"{{"role":"{role}","content":"{content}"}}"#)
    };
    let messages: Vec<String> = (0..messages).map(message).collect();
    format!(r#"{{"model":"llama-3-8b","messages":[{}],"stream":true}}"#, messages.join(",")).into_bytes()
}

fn body_scan(criterion: &mut Criterion) {
    let plain = "The quick brown fox jumps over the lazy dog, and then it comes back to do so. ";
    let escaped = "The quick brown fox jumps over the lazy dog, and then it comes back to do so.\\n";
    let chinese = "敏捷的棕色狐狸跳过了懒狗，然后又回来再跳一次。";
    let bodies = [
        ("plain_4k", body(4_000, 4, plain)),
        ("plain_400k_1_message", body(400_000, 1, plain)),
        ("plain_400k", body(400_000, 16, plain)),
        ("escape_per_80_bytes_400k", body(400_000, 16, escaped)),
        ("chinese_400k", body(400_000, 16, chinese)),
    ];
    for (name, body) in &bodies {
        let mut group = criterion.benchmark_group(format!("body_scan/{name}"));
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function("p3sched", |bencher| {
            bencher.iter(|| Request::from_body("/v1/chat/completions", black_box(body)).unwrap());
        });
        group.bench_function("serde_json", |bencher| {
            bencher.iter(|| {
                let chat: Chat<'_> = serde_json::from_slice(black_box(body)).unwrap();
                let length: usize =
                    chat.messages.iter().map(|message| message.role.len() + message.content.len()).sum();
                (chat.model.len(), length, chat.stream)
            });
        });
        group.finish();
    }
}

criterion_group!(benches, body_scan);
criterion_main!(benches);
