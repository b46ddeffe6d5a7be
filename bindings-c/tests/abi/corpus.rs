//! What of `core/testdata` C programs can reach: bodies, metrics pages, usage, KV events of real engines.

use std::fs;
use std::path::{Path, PathBuf};
use std::ptr;

use p3sched_c::*;
use serde_json::{Value, json};

use crate::client::{Client, check, decode_kv_batch, no_options};

fn testdata(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../core/testdata").join(path)
}

fn cases(path: &str) -> Vec<Value> {
    serde_json::from_slice(&fs::read(testdata(path)).unwrap()).unwrap()
}

fn from_hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// A body is the prompt that the corpus says: the scheduler finds it again, to its last byte, when it is given as such.
#[test]
fn bodies() {
    for case in cases("bodies.json") {
        let name = &case["name"];
        let client = Client::new(r#"{"block_size_tokens": 1, "bytes_per_token": 1}"#).unwrap();
        client.add_endpoint("10.0.0.1:8000", &[]).unwrap();
        // Texts in JSON cannot hold all bytes, so bodies and prompts are passed beside it.
        let body =
            case["body"].as_str().map_or_else(|| from_hex(case["body_hex"].as_str().unwrap()), Into::into);
        let picked = client.body(case["path"].as_str().unwrap(), &body, &no_options(), false);
        if let Some(error) = case["error"].as_str() {
            let message = format!("invalid request: {error}");
            assert_eq!(picked, Err(json!({"code": "InvalidRequest", "message": message})), "{name}");
            continue;
        }
        let mut request =
            json!({"model": case["model"].as_str().unwrap_or(""), "tokens": case["prompt_tokens"]});
        request["cache_salt"] = case["cache_salt"].clone();
        let prompt = from_hex(case["prompt_hex"].as_str().unwrap_or(""));
        let found = client.prompt(&request, &prompt, no_options(), true).unwrap();
        assert_eq!(found["prompt_tokens"], picked.unwrap()["prompt_tokens"], "{name}");
        assert_eq!(found["matched_tokens"], found["prompt_tokens"], "{name}");
    }
}

#[test]
fn metrics_pages() {
    let expected: Value =
        serde_json::from_slice(&fs::read(testdata("metrics/expected.json")).unwrap()).unwrap();
    let captures = expected.as_object().unwrap().iter().map(|(file, metrics)| {
        let page = fs::read_to_string(testdata("metrics").join(file)).unwrap();
        json!({"name": file, "page": page, "metrics": metrics})
    });
    for case in cases("metrics/pages.json").into_iter().chain(captures) {
        let name = &case["name"];
        let client = Client::new("{}").unwrap();
        client.add_endpoint("10.0.0.1:8000", &[]).unwrap();
        let read =
            client.send(p3sched_scheduler_ingest_metrics, "10.0.0.1:8000", case["page"].as_str().unwrap());
        if let Some(error) = case["error"].as_str() {
            let message = format!("invalid metrics: {error}");
            assert_eq!(read, Err(json!({"code": "InvalidMetrics", "message": message})), "{name}");
            continue;
        }
        read.unwrap();
        let stats = client.stats().unwrap();
        for key in ["waiting_requests", "running_requests", "kv_cache_utilization"] {
            assert_eq!(stats["endpoints"][0][key].as_f64(), case["metrics"][key].as_f64(), "{name}, {key}");
        }
    }
}

#[test]
fn usage_of_answers() {
    let captured = ["vllm-0.32.txt", "sglang-0.5.23.txt"].map(|file| {
        let body = fs::read_to_string(testdata("sse").join(file)).unwrap();
        json!({"name": file, "body": body, "prompt_tokens": 13, "completion_tokens": 3, "cached_tokens": 0})
    });
    for case in cases("usage/answers.json").into_iter().chain(captured) {
        for size in [1, 7, usize::MAX] {
            let usage = scan_usage(case["body"].as_str().unwrap().as_bytes(), size);
            let found = [usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens];
            for (key, found) in ["prompt_tokens", "completion_tokens", "cached_tokens"].iter().zip(found) {
                let found = (found.is_known != 0).then_some(u64::from(found.tokens));
                assert_eq!(found, case[*key].as_u64(), "{}, {key}, chunks of {size}", case["name"]);
            }
        }
    }
}

fn scan_usage(body: &[u8], size: usize) -> Usage {
    let unknown = TokenCount { is_known: 1, tokens: 77 };
    let mut usage = Usage { prompt_tokens: unknown, completion_tokens: unknown, cached_tokens: unknown };
    let mut scanner = ptr::null_mut();
    // SAFETY: the scanner is freed once, behind its last use; what else is pointed to lives as long as the calls.
    unsafe {
        check(p3sched_usage_scanner_new(&raw mut scanner)).unwrap();
        for chunk in body.chunks(size) {
            check(p3sched_usage_scanner_push(scanner, chunk.as_ptr().cast(), chunk.len())).unwrap();
        }
        check(p3sched_usage_scanner_finish(scanner, &raw mut usage)).unwrap();
        p3sched_usage_scanner_free(scanner);
    }
    usage
}

/// Payloads of real engines mean the same as payloads and as the JSON that they are decoded to.
#[test]
fn kv_events_of_engines() {
    let mut applied = 0;
    for file in fs::read_dir(testdata("kv-events")).unwrap() {
        let file = fs::read_to_string(file.unwrap().path()).unwrap();
        let clients = [(); 2].map(|()| Client::new(r#"{"kv_events": {"model": "tiny"}}"#).unwrap());
        for client in &clients {
            client.set_time(0);
            client.add_endpoint("10.0.0.1:8000", &[]).unwrap();
        }
        for line in file.lines().filter(|line| !line.starts_with('#')) {
            let fields: Vec<&str> = line.split(' ').collect();
            let sequence = u64::from_str_radix(fields[1], 16).unwrap();
            let payload = from_hex(fields[2]);
            let json = decode_kv_batch(&payload, sequence).unwrap();
            let by_payload = clients[0].apply_kv_payload("10.0.0.1:8000", &payload, sequence);
            let by_json = clients[1].apply_kv_batch("10.0.0.1:8000", str::from_utf8(&json).unwrap());
            assert_eq!(by_payload, by_json);
            applied += usize::from(by_payload.unwrap()["type"] == "applied");
        }
        assert_eq!(clients[0].stats(), clients[1].stats());
    }
    assert!(applied > 50, "{applied}");
}
