//! Bodies beside `serde_json`, metrics pages beside `prometheus-parse`.

use std::borrow::Cow;
use std::hint::black_box;
use std::io::BufRead;

use anyhow::Result;
use p3sched::{EndpointMetrics, Request};
use prometheus_parse::Scrape;
use serde::Deserialize;

use super::{Case, speed_up};
use crate::Settings;
use crate::measure::{repeat, take_turns};
use crate::report::{Figure, Goal};

const PAGE: &str = include_str!("../../../testdata/metrics/vllm-0.32-under-load.txt");

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

pub fn cases() -> Vec<Case> {
    let plain = "The quick brown fox jumps over the lazy dog, and then it comes back to do so. ";
    let escaped = "The quick brown fox jumps over the lazy dog, and then it comes back to do so.\\n";
    vec![
        Case::new("scan/body/plain", move |settings| body(settings, "scan/body/plain", plain, 4.0)),
        Case::new("scan/body/escapes", move |settings| body(settings, "scan/body/escapes", escaped, 2.0)),
        Case::new("scan/metrics-page", metrics_page),
    ]
}

fn body(settings: &Settings, name: &str, text: &str, goal: f64) -> Result<Vec<Figure>> {
    let content = text.repeat(400_000 / 16 / text.len());
    let message = |index: usize| {
        let role = if index.is_multiple_of(2) { "user" } else { "assistant" };
        format!(r#"{{"role":"{role}","content":"{content}"}}"#)
    };
    let messages: Vec<String> = (0..16).map(message).collect();
    let body = format!(r#"{{"model":"llama-3-8b","messages":[{}],"stream":true}}"#, messages.join(","));
    let body = body.as_bytes();
    Request::from_body("/v1/chat/completions", body)?;
    serde_json::from_slice::<Chat<'_>>(body)?;

    let mut ours = repeat(|| {
        black_box(Request::from_body("/v1/chat/completions", black_box(body))).ok();
    });
    let mut theirs = repeat(|| {
        if let Ok(chat) = serde_json::from_slice::<Chat<'_>>(black_box(body)) {
            let length: usize =
                chat.messages.iter().map(|message| message.role.len() + message.content.len()).sum();
            black_box((chat.model.len(), length, chat.stream));
        }
    });
    let [ours, theirs] = take_turns(settings, [&mut ours, &mut theirs]);
    Ok(vec![speed_up(name, Goal::AtLeast(goal), &ours, "serde_json", &theirs)])
}

fn metrics_page(settings: &Settings) -> Result<Vec<Figure>> {
    EndpointMetrics::from_page(PAGE)?;
    Scrape::parse(PAGE.as_bytes().lines())?;
    let mut ours = repeat(|| {
        black_box(EndpointMetrics::from_page(black_box(PAGE))).ok();
    });
    let mut theirs = repeat(|| {
        black_box(Scrape::parse(black_box(PAGE).as_bytes().lines())).ok();
    });
    let [ours, theirs] = take_turns(settings, [&mut ours, &mut theirs]);
    Ok(vec![speed_up("scan/metrics-page", Goal::AtLeast(20.0), &ours, "prometheus-parse", &theirs)])
}
