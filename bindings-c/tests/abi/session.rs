//! The session of every language, call by call through the C functions: `core/testdata/session.jsonl`, described in
//! `core/tests/session.rs`.

use std::ffi::CString;

use crate::client::{Answer, Client, c_text};
use p3sched_c::*;
use serde_json::{Value, json};

const SESSION: &str = include_str!("../../../core/testdata/session.jsonl");

#[test]
fn the_session_gives_the_same_results() {
    let mut player = Player::default();
    for (number, line) in SESSION.lines().enumerate() {
        let call: Value = serde_json::from_str(line).unwrap();
        let expected = match call.get("error") {
            Some(error) => Err(error.clone()),
            None => Ok(call["result"].clone()),
        };
        assert_eq!(player.play(&call), expected, "line {}: {line}", number + 1);
    }
    assert!(SESSION.lines().count() > 500);
}

/// Carries out calls.
#[derive(Default)]
struct Player {
    client: Option<Client>,
    saved: Vec<u8>,
}

impl Player {
    fn play(&mut self, call: &Value) -> Answer {
        if call["op"] == "new" {
            self.client = None;
            self.client = Some(Client::new(&call["config"].to_string())?);
            return Ok(Value::Null);
        }
        let client = self.client.as_ref().unwrap();
        if let Some(now) = call["now"].as_u64() {
            client.set_time(now);
        }
        let text = |key: &str| call[key].as_str().unwrap();
        let number = |key: &str| call[key].as_u64().unwrap();
        let json = |key: &str| call[key].to_string();
        match text("op") {
            "add_endpoint" => {
                let (name, labels) = endpoint(&call["endpoint"]);
                client.add_endpoint(name.to_str().unwrap(), &labels)
            }
            "remove_endpoint" => client.remove_endpoint(text("name")),
            "set_endpoints" => {
                let endpoints: Vec<_> = call["endpoints"].as_array().unwrap().iter().map(endpoint).collect();
                client.set_endpoints(&endpoints)
            }
            "ingest_metrics" => client.send(p3sched_scheduler_ingest_metrics, text("endpoint"), text("page")),
            "observe" => client.send(p3sched_scheduler_observe, text("endpoint"), json("metrics")),
            "ingest_load_header" => {
                client.send(p3sched_scheduler_ingest_load_header, text("endpoint"), text("value"))
            }
            "scrape_failed" => {
                let unreachable = text("failure") == "unreachable";
                let failure = if unreachable { ScrapeFailure::Unreachable } else { ScrapeFailure::Failed };
                client.scrape_failed(text("endpoint"), failure)
            }
            "pick" => client.pick(&call["request"], false),
            "explain" => client.pick(&call["request"], true),
            "first_token" => client.first_token(number("id")),
            "complete" => client.complete(number("id"), &call["outcome"]),
            "apply_kv_event" => {
                client.send(p3sched_scheduler_apply_kv_event, text("endpoint"), json("event"))
            }
            "apply_kv_batch" => client.apply_kv_batch(text("endpoint"), &json("batch")),
            "resume_kv_events" => {
                client.resume_kv_events(text("endpoint"), number("rank") as u32, number("next"))
            }
            "snapshot" => {
                self.saved = client.snapshot();
                Ok(json!(self.saved.len()))
            }
            "restore" if text("bytes") == "saved" => client.restore(&self.saved),
            "restore" => client.restore(text("bytes").as_bytes()),
            "stats" => client.stats().map(|mut stats| {
                stats["index"].as_object_mut().unwrap().remove("bytes");
                stats
            }),
            op => panic!("unknown op: {op}"),
        }
    }
}

fn endpoint(value: &Value) -> (CString, Vec<(CString, CString)>) {
    let labels = value["labels"].as_object().into_iter().flatten();
    let labels = labels.map(|(name, value)| (c_text(name), c_text(value.as_str().unwrap())));
    (c_text(value["name"].as_str().unwrap()), labels.collect())
}
