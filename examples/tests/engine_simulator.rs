//! The simulated engine over HTTP: the API, the metrics and the faults that other tests rely on.

use p3sched_examples::engine_simulator::{EngineSimulator, EngineSimulatorOptions, Fault, TimingModel};
use serde_json::{Value, json};
use std::time::Duration;

fn start() -> std::io::Result<(EngineSimulator, String)> {
    let timing = TimingModel { speed: 20.0, ..TimingModel::default() };
    let options = EngineSimulatorOptions {
        engine_id: "one".to_owned(),
        adapters: vec!["tuned".to_owned()],
        timing,
        ..EngineSimulatorOptions::default()
    };
    let engine = EngineSimulator::start(options)?;
    let url = format!("http://{}", engine.addr());
    Ok((engine, url))
}

fn chat(model: &str, stream: bool) -> Value {
    json!({
        "model": model, "max_tokens": 3, "stream": stream, "stream_options": {"include_usage": true},
        "messages": [{"role": "user", "content": "tell me a story ".repeat(20)}],
    })
}

#[tokio::test]
async fn json_answers_carry_usage_and_name_the_replica() {
    let (_engine, url) = start().unwrap();
    let client = reqwest::Client::new();
    let body = chat("simulated", false).to_string();
    let mut cached = Vec::new();
    for _ in 0..2 {
        let response =
            client.post(format!("{url}/v1/chat/completions")).body(body.clone()).send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["x-engine-id"], "one");
        assert_eq!(response.headers()["x-body-bytes"], body.len().to_string());
        let hash = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(body.as_bytes()));
        assert_eq!(response.headers()["x-body-hash"], hash);
        let answer: Value = response.json().await.unwrap();
        assert_eq!(answer["usage"]["completion_tokens"], 3);
        assert_eq!(answer["choices"][0]["message"]["content"].as_str().map(str::len), Some(12));
        cached.push(answer["usage"]["prompt_tokens_details"]["cached_tokens"].clone());
    }
    assert_eq!(cached, [json!(0), json!(80)]);
}

#[tokio::test]
async fn a_stream_has_one_event_per_token_then_usage_then_done() {
    let (_engine, url) = start().unwrap();
    let body = chat("simulated", true).to_string();
    let response =
        reqwest::Client::new().post(format!("{url}/v1/chat/completions")).body(body).send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream; charset=utf-8");
    let text = response.text().await.unwrap();
    let events: Vec<_> = text.split("\n\n").filter(|event| !event.is_empty()).collect();
    assert_eq!(events.len(), 1 + 3 + 2, "{text}");
    assert!(events[4].contains("\"prompt_tokens\":") && events[5] == "data: [DONE]", "{text}");
}

#[tokio::test]
async fn the_metrics_page_counts_tokens_and_adapters() {
    let (_engine, url) = start().unwrap();
    let client = reqwest::Client::new();
    let body = chat("tuned", false).to_string();
    client.post(format!("{url}/v1/chat/completions")).body(body).send().await.unwrap();
    let page = client.get(format!("{url}/metrics")).send().await.unwrap().text().await.unwrap();
    for line in [
        "vllm:num_requests_waiting{engine=\"0\",model_name=\"simulated\"} 0.0",
        "vllm:request_success_total{finished_reason=\"length\",engine=\"0\",model_name=\"simulated\"} 1.0",
        "vllm:prefix_cache_hits_total{engine=\"0\",model_name=\"simulated\"} 0.0",
        "vllm:lora_requests_info{max_lora=\"2\",running_lora_adapters=\"\",waiting_lora_adapters=\"\"}",
    ] {
        assert!(page.contains(line), "{line} is missing: {page}");
    }
    assert!(page.contains("block_size=\"16\"") && page.contains("num_gpu_blocks=\"1024\""), "{page}");
}

#[tokio::test]
async fn wrong_requests_are_refused_with_a_reason() {
    let (_engine, url) = start().unwrap();
    let client = reqwest::Client::new();
    for (body, status) in [("{", 400), ("{\"model\":\"other\"}", 404), ("{\"model\":\"simulated\"}", 400)] {
        let response = client.post(format!("{url}/v1/completions")).body(body).send().await.unwrap();
        assert_eq!(response.status(), status, "{body}");
        let answer: Value = response.json().await.unwrap();
        assert!(answer["error"]["message"].is_string());
    }
}

#[tokio::test]
async fn faults_are_switched_by_route_and_a_killed_engine_closes_its_connections() {
    let (engine, url) = start().unwrap();
    let client = reqwest::Client::builder().timeout(Duration::from_millis(500)).build().unwrap();
    let post = |path: &str, body: String| client.post(format!("{url}{path}")).body(body).send();
    let completion = || json!({"model": "simulated", "prompt": "hello", "max_tokens": 1}).to_string();

    assert_eq!(
        post("/simulator/fault", json!({"fault": "server-error"}).to_string()).await.unwrap().status(),
        204
    );
    assert_eq!(post("/v1/completions", completion()).await.unwrap().status(), 500);
    engine.set_fault(Fault::Hang);
    assert!(post("/v1/completions", completion()).await.unwrap_err().is_timeout());
    engine.set_fault(Fault::GarbageMetrics);
    let page = client.get(format!("{url}/metrics")).send().await.unwrap().text().await.unwrap();
    assert!(!page.contains("# TYPE"), "{page}");
    assert_eq!(post("/v1/completions", completion()).await.unwrap().status(), 200);
    assert_eq!(engine.requests_received(), 3);

    let long = json!({"model": "simulated", "prompt": "hello", "max_tokens": 4000}).to_string();
    let (answer, ()) = tokio::join!(post("/v1/completions", long), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        engine.kill();
    });
    assert!(!answer.unwrap_err().is_timeout(), "the connection ends, it does not hang");
    assert!(post("/v1/completions", completion()).await.unwrap_err().is_connect());
}
