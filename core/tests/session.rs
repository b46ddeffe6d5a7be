//! One long session, the same in every language: `testdata/session.jsonl`.
//!
//! Each line is one call with its `result`, or with the `error` that it must end in (`code` and `message`). `op` names the
//! method of [`Scheduler`]; `new` makes the scheduler that the lines after it use. The other keys are the arguments:
//! plain strings and numbers, or the JSON of the library's own types. What is special:
//!
//! * `pick` and `explain` have a `request`: a `path` and a `body` to be read (`from_body`), or a `model` with a `text`
//!   (`from_text`) or with `tokens` (`from_tokens`) and any of `adapter`, `cache_salt`, `session`, `priority`, `subset`;
//!   in both cases `explain: true` asks for an explanation.
//! * `restore` has `bytes`: `"saved"` for what the last `snapshot` gave, else a text that is none. The result of
//!   `snapshot` is its length.
//! * The result of `stats` has no `index.bytes`, which depend on how memory is laid out.
//! * Fractions in results have the digits of the 32-bit float that they come from, or of a 64-bit one in those of `stats`.
//!   The result of a method that returns nothing is `null`.
//!
//! `cargo test -p p3sched --test session -- --ignored` writes the file anew.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that panics has failed"
)]

use std::fmt::Write as _;

use p3sched::{Error, Request, Scheduler};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const SESSION: &str = include_str!("../testdata/session.jsonl");

/// Calls per scheduler.
const CALLS: u64 = 160;

#[test]
fn the_session_gives_the_same_results() {
    assert_eq!(SESSION.lines().count(), generate().len(), "write the file anew");
    let mut player = Player::default();
    for (number, (line, generated)) in SESSION.lines().zip(generate()).enumerate() {
        let mut call: Value = serde_json::from_str(line).unwrap();
        let expected: Vec<_> =
            ["result", "error"].map(|key| call.as_object_mut().unwrap().remove(key)).into();
        assert_eq!(call, generated, "line {}: write the file anew", number + 1);
        let (result, error) = match player.play(&call) {
            Ok(result) => (Some(result), None),
            Err(error) => (None, Some(describe(&error))),
        };
        assert_eq!(expected, [result, error], "line {}: {call}", number + 1);
    }
}

#[test]
fn the_session_meets_all_it_should() {
    let calls: Vec<Value> = SESSION.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let count = |test: &dyn Fn(&Value) -> bool| calls.iter().filter(|call| test(call)).count();
    let picks = count(&|call| call["op"] == "pick" && call["result"].is_object());
    let hits = count(&|call| call["op"] == "pick" && call["result"]["matched_tokens"].as_u64() > Some(0));
    assert!(hits * 10 > picks * 3, "too few hits: {hits} of {picks}");
    for op in ["snapshot", "restore", "stats", "apply_kv_batch", "resume_kv_events", "ingest_load_header"] {
        assert!(count(&|call| call["op"] == op && call["error"].is_null()) > 0, "{op}");
    }
    for code in [
        "InvalidConfig",
        "InvalidRequest",
        "NoEndpoints",
        "NoEligibleEndpoint",
        "UnknownEndpoint",
        "UnknownRequest",
        "InvalidMetrics",
        "InvalidKvEvent",
        "InvalidSnapshot",
    ] {
        assert!(count(&|call| call["error"]["code"] == code) > 0, "{code}");
    }
}

#[test]
#[ignore = "writes the file"]
#[expect(clippy::disallowed_methods, reason = "writes the file")]
fn write_the_session_anew() {
    let mut player = Player::default();
    let mut text = String::new();
    for mut call in generate() {
        match player.play(&call) {
            Ok(result) => call["result"] = result,
            Err(error) => call["error"] = describe(&error),
        }
        writeln!(text, "{call}").unwrap();
    }
    std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/session.jsonl"), text).unwrap();
}

/// Carries out calls.
#[derive(Default)]
struct Player {
    scheduler: Option<Scheduler>,
    saved: Vec<u8>,
}

impl Player {
    fn play(&mut self, call: &Value) -> Result<Value, Error> {
        if call["op"] == "new" {
            self.scheduler = None;
            self.scheduler = Some(Scheduler::new(read(&call["config"]))?);
            return Ok(Value::Null);
        }
        let scheduler = self.scheduler.as_ref().unwrap();
        let text = |key: &str| call[key].as_str().unwrap();
        let number = |key: &str| call[key].as_u64().unwrap();
        match text("op") {
            "add_endpoint" => scheduler.add_endpoint(read(&call["endpoint"])).map(written),
            "remove_endpoint" => scheduler.remove_endpoint(text("name")).map(written),
            "set_endpoints" => scheduler.set_endpoints(read(&call["endpoints"])).map(written),
            "ingest_metrics" => scheduler
                .ingest_metrics(text("endpoint"), text("page").as_bytes(), number("now"))
                .map(written),
            "observe" => {
                scheduler.observe(text("endpoint"), read(&call["metrics"]), number("now")).map(written)
            }
            "ingest_load_header" => {
                scheduler.ingest_load_header(text("endpoint"), text("value"), number("now")).map(written)
            }
            "scrape_failed" => {
                scheduler.scrape_failed(text("endpoint"), read(&call["failure"]), number("now")).map(written)
            }
            "pick" => scheduler.pick(&request(&call["request"])?, number("now")).map(written),
            "explain" => scheduler.explain(&request(&call["request"])?, number("now")).map(written),
            "first_token" => scheduler.first_token(number("id"), number("now")).map(written),
            "complete" => {
                scheduler.complete(number("id"), read(&call["outcome"]), number("now")).map(written)
            }
            "apply_kv_event" => {
                scheduler.apply_kv_event(text("endpoint"), &read(&call["event"]), number("now")).map(written)
            }
            "apply_kv_batch" => {
                scheduler.apply_kv_batch(text("endpoint"), &read(&call["batch"]), number("now")).map(written)
            }
            "resume_kv_events" => scheduler
                .resume_kv_events(text("endpoint"), call["rank"].as_u64().unwrap() as u32, number("next"))
                .map(written),
            "snapshot" => {
                self.saved = scheduler.snapshot();
                Ok(json!(self.saved.len()))
            }
            "restore" if text("bytes") == "saved" => scheduler.restore(&self.saved).map(written),
            "restore" => scheduler.restore(text("bytes").as_bytes()).map(written),
            "stats" => {
                let mut stats = written(scheduler.stats(number("now")));
                stats["index"].as_object_mut().unwrap().remove("bytes");
                Ok(stats)
            }
            op => panic!("unknown op: {op}"),
        }
    }
}

fn request(value: &Value) -> Result<Request, Error> {
    let text = |key: &str| value[key].as_str().map(str::to_owned);
    let mut request = match (text("path"), text("text")) {
        (Some(path), _) => Request::from_body(&path, text("body").unwrap().as_bytes())?,
        (None, Some(prompt)) => Request::from_text(text("model").unwrap(), prompt),
        (None, None) => Request::from_tokens(text("model").unwrap(), read::<Vec<u32>>(&value["tokens"])),
    };
    if text("path").is_none() {
        request.adapter = text("adapter");
        request.cache_salt = text("cache_salt");
        request.session = text("session");
        request.priority = value["priority"].as_i64().unwrap_or(0) as i32;
        request.subset = read(&value["subset"]);
    }
    request.explain = value["explain"] == true;
    Ok(request)
}

fn read<T: DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

/// As it looks in the file: a 32-bit float has the digits of one.
fn written(value: impl Serialize) -> Value {
    serde_json::from_str(&serde_json::to_string(&value).unwrap()).unwrap()
}

fn describe(error: &Error) -> Value {
    json!({"code": error.code(), "message": error.to_string()})
}

/// Everything that a gateway may call, in an order that a gateway may call it in, for several configurations.
fn generate() -> Vec<Value> {
    let configs = [
        json!({}),
        json!({"preset": "latency", "fallbacks": 2, "seed": 7}),
        json!({"preset": "literal-3-1-1", "metrics": {"fresh_seconds": 0.5, "expire_seconds": 2.0}}),
        json!({"preset": "kserve-current", "load_gate_seconds": 0.5, "prefill_tokens_per_second": 4000.0}),
        json!({"preset": "power-of-two", "fallbacks": 1}),
        json!({"filters": [{"type": "reachable-filter"}, {"type": "subset-filter"}],
               "scorers": [{"type": "prefix-cache-scorer", "weight": 2.5}, {"type": "session-affinity-scorer"},
                           {"type": "lora-affinity-scorer"}, {"type": "no-hit-lru-scorer", "weight": 0.3}],
               "picker": {"type": "weighted-random-picker"}, "kv_events": {"model": "llama"}}),
    ];
    let mut calls = vec![json!({"op": "new", "config": {"block_size_tokens": 0}})];
    for (number, config) in configs.into_iter().enumerate() {
        calls.push(json!({"op": "new", "config": config}));
        calls.push(json!({"op": "pick", "request": {"model": "llama", "text": "too early"}, "now": 0}));
        for endpoint in 0..4 {
            let labels = json!({"zone": format!("z{}", endpoint % 2)});
            calls.push(json!({"op": "add_endpoint", "endpoint": {"name": name(endpoint), "labels": labels}}));
        }
        Generator { random: number as u64, now: 0, picks: 0, sequence: 0 }.append(&mut calls);
    }
    calls
}

fn name(number: u64) -> String {
    format!("10.0.0.{number}:8000")
}

struct Generator {
    random: u64,
    now: u64,
    /// Picks asked for: ids beyond are unknown for sure.
    picks: u64,
    sequence: u64,
}

impl Generator {
    fn append(&mut self, calls: &mut Vec<Value>) {
        for _ in 0..CALLS {
            self.now += self.below(400_000_000);
            let now = self.now;
            let call = match self.below(40) {
                0..=13 => self.pick(),
                14..=16 => json!({"op": "first_token", "id": self.id(), "now": now}),
                17..=24 => {
                    json!({"op": "complete", "id": self.id(), "outcome": self.outcome(), "now": now})
                }
                25..=28 => {
                    json!({"op": "observe", "endpoint": self.name(), "metrics": self.metrics(), "now": now})
                }
                29 | 30 => {
                    json!({"op": "ingest_metrics", "endpoint": self.name(), "page": self.page(), "now": now})
                }
                31 => {
                    let value =
                        format!("JSON {{\"named_metrics\":{{\"num_requests_waiting\":{}}}}}", self.below(9));
                    json!({"op": "ingest_load_header", "endpoint": self.name(), "value": value, "now": now})
                }
                32 => {
                    let failure = if self.below(4) == 0 { "unreachable" } else { "failed" };
                    json!({"op": "scrape_failed", "endpoint": self.name(), "failure": failure, "now": now})
                }
                33 => {
                    json!({"op": "explain", "request": self.request(), "now": now})
                }
                34 | 35 => self.kv_call(),
                36 => json!({"op": "stats", "now": now}),
                37 => self.endpoint_call(),
                38 => json!({"op": "snapshot"}),
                _ if self.below(3) > 0 => json!({"op": "restore", "bytes": "saved"}),
                _ => json!({"op": "restore", "bytes": "p3sched, but not a snapshot"}),
            };
            calls.push(call);
        }
    }

    fn pick(&mut self) -> Value {
        self.picks += 1;
        json!({"op": "pick", "request": self.request(), "now": self.now})
    }

    fn request(&mut self) -> Value {
        let shared =
            format!("You are assistant {} of a shop. ", self.below(4)).repeat(8 + self.below(3) as usize);
        let question = format!("{shared}Question {}: where is my \"parcel\"? é☃\n", self.below(5));
        let mut request = match self.below(8) {
            0 => {
                json!({"path": "/v1/completions", "body": json!({"model": "llama", "prompt": question}).to_string()})
            }
            1 => json!({"path": "/v1/chat/completions", "body": "{\"model\": \"llama\", \"messages\": [}"}),
            2 | 3 => {
                let body = json!({"model": "llama", "stream": self.below(2) == 0, "messages": [
                    {"role": "system", "content": shared}, {"role": "user", "content": question}]});
                json!({"path": "/v1/chat/completions", "body": body.to_string()})
            }
            4 | 5 => {
                let first = 32 * self.below(3) as u32;
                json!({"model": "llama", "tokens": (first..first + 40 + self.below(3) as u32 * 16).collect::<Vec<_>>()})
            }
            _ => json!({"model": "llama", "text": question}),
        };
        if request["path"].is_null() {
            match self.below(8) {
                0 => request["adapter"] = json!("sql"),
                1 => request["cache_salt"] = json!("tenant"),
                2 | 3 => request["session"] = json!(format!("user {}", self.below(3))),
                4 => request["priority"] = json!(-1),
                5 => request["subset"] = json!([self.name(), "10.0.0.9"]),
                _ => {}
            }
        }
        if self.below(6) == 0 {
            request["explain"] = json!(true);
        }
        request
    }

    fn outcome(&mut self) -> Value {
        match self.below(5) {
            0 => json!({"success": false}),
            1 => json!({"success": true, "served_by": self.name()}),
            2 | 3 => {
                let cached = 16 * self.below(6);
                json!({"success": true, "prompt_tokens": 96, "completion_tokens": 8, "cached_tokens": cached})
            }
            _ => json!({"success": true}),
        }
    }

    fn metrics(&mut self) -> Value {
        json!({
            "waiting_requests": self.below(12), "running_requests": self.below(9),
            "kv_cache_utilization": self.below(101) as f64 / 100.0, "block_size_tokens": 16, "block_count": 2_000,
            "max_adapters": 2, "running_adapters": if self.below(2) == 0 { json!(["sql"]) } else { json!([]) },
        })
    }

    fn page(&mut self) -> String {
        match self.below(6) {
            0 => "<html>502 Bad Gateway</html>".to_owned(),
            _ => format!(
                "# TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting{{engine=\"0\"}} {}.0\n\
                 vllm:num_requests_running{{engine=\"0\"}} {}.0\nvllm:kv_cache_usage_perc{{engine=\"0\"}} 0.{}\n",
                self.below(12),
                self.below(9),
                self.below(100)
            ),
        }
    }

    fn kv_call(&mut self) -> Value {
        let tokens: Vec<u64> = (0..32 + 16 * self.below(2)).map(|token| token + 32 * self.below(2)).collect();
        let hashes: Vec<u64> = (0..tokens.len() as u64 / 16).map(|_| self.below(1 << 40)).collect();
        let stored = json!({"type": "stored", "block_hashes": hashes, "token_ids": tokens, "block_size": 16});
        let now = self.now;
        // One endpoint only: once it sends events, its own picks say nothing any more.
        let endpoint = name(3);
        match self.below(8) {
            0 => {
                json!({"op": "apply_kv_event", "endpoint": endpoint, "event": {"type": "cleared"}, "now": now})
            }
            1 => {
                let event =
                    json!({"type": "stored", "block_hashes": [1], "token_ids": [1, 2, 3], "block_size": 3});
                json!({"op": "apply_kv_event", "endpoint": endpoint, "event": event, "now": now})
            }
            2 => {
                self.sequence += 3;
                json!({"op": "resume_kv_events", "endpoint": endpoint, "rank": 0, "next": self.sequence})
            }
            3 => {
                let batch = json!({"sequence": self.sequence + 2, "events": [stored]});
                json!({"op": "apply_kv_batch", "endpoint": endpoint, "batch": batch, "now": now})
            }
            _ => {
                let batch = json!({"sequence": self.sequence, "events": [stored]});
                self.sequence += 1;
                json!({"op": "apply_kv_batch", "endpoint": endpoint, "batch": batch, "now": now})
            }
        }
    }

    fn endpoint_call(&mut self) -> Value {
        match self.below(4) {
            0 => json!({"op": "remove_endpoint", "name": self.name()}),
            1 => json!({"op": "add_endpoint", "endpoint": {"name": ""}}),
            2 => json!({"op": "add_endpoint", "endpoint": {"name": self.name()}}),
            _ => {
                let endpoints: Vec<_> = (0..4).map(|number| json!({"name": name(number)})).collect();
                json!({"op": "set_endpoints", "endpoints": endpoints})
            }
        }
    }

    /// Mostly one that is known.
    fn name(&mut self) -> String {
        name(match self.below(20) {
            0 => 99,
            other => other % 4,
        })
    }

    /// Mostly one of the newest picks.
    fn id(&mut self) -> u64 {
        match self.below(20) {
            0 => self.picks + 1_000,
            _ => (self.picks + 1).saturating_sub(self.below(8)).max(1),
        }
    }

    /// A number below `bound`, by `SplitMix64`: the file must not change with the version of a crate.
    fn below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}
