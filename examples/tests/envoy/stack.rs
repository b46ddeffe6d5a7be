//! What every test here starts: engines, picker and Envoy.

use p3sched_examples::engine_simulator::{EngineSimulator, EngineSimulatorOptions, TimingModel};
use p3sched_examples::envoy::{Envoy, EnvoyConfig, EnvoyOptions, PickSource};
use p3sched_examples::picker::{Picker, PickerOptions};
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::time::Duration;

/// The combinations of configuration and pick source that gateways use.
pub(crate) const WAYS: [(EnvoyConfig, PickSource); 6] = [
    (EnvoyConfig::FullDuplexOverrideHost, PickSource::Metadata),
    (EnvoyConfig::FullDuplexOverrideHost, PickSource::Header),
    (EnvoyConfig::BufferedOverrideHost, PickSource::Metadata),
    (EnvoyConfig::BufferedOverrideHost, PickSource::Header),
    (EnvoyConfig::BufferedOriginalDst, PickSource::Header),
    (EnvoyConfig::IstioPerRoute, PickSource::Metadata),
];

/// Long enough for anything that is going to happen at all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Engines behind an Envoy, whoever picks; dropping it ends them.
pub(crate) struct Gateway {
    pub(crate) engines: Vec<Option<EngineSimulator>>,
    pub(crate) envoy: Envoy,
    pub(crate) http: reqwest::Client,
}

/// Engines and Envoy of one test with a picker beside them; dropping it ends them.
pub(crate) struct Stack {
    pub(crate) picker: Picker,
    pub(crate) gateway: Gateway,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    /// The engine that answered; empty if none did.
    pub(crate) fn engine(&self) -> &str {
        self.header("x-engine-id")
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// Three engines that are fast enough not to wait for.
pub(crate) fn engines() -> Vec<EngineSimulator> {
    let start = |number| {
        EngineSimulator::start(EngineSimulatorOptions {
            engine_id: format!("engine-{number}"),
            timing: TimingModel { speed: 50.0, ..TimingModel::default() },
            ..EngineSimulatorOptions::default()
        })
    };
    (1..=3).map(|number| start(number).unwrap()).collect()
}

/// Where a test keeps its logs.
pub(crate) fn folder(test: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(test);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

pub(crate) fn addresses(engines: &[EngineSimulator]) -> Vec<SocketAddr> {
    engines.iter().map(EngineSimulator::addr).collect()
}

impl Gateway {
    pub(crate) fn new(engines: Vec<EngineSimulator>, envoy: Envoy) -> Self {
        Self { engines: engines.into_iter().map(Some).collect(), envoy, http: http(PATIENCE) }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        read(self.http.get(format!("{}{path}", self.envoy.url()))).await
    }

    pub(crate) async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> Answer {
        read(self.request(path).body(body)).await
    }

    pub(crate) fn request(&self, path: &str) -> reqwest::RequestBuilder {
        self.http.post(format!("{}{path}", self.envoy.url())).header("content-type", "application/json")
    }

    pub(crate) async fn chat(&self, prompt: &str) -> Answer {
        self.post("/v1/chat/completions", chat_body(prompt, false).to_string()).await
    }

    /// Requests that reached any engine.
    pub(crate) fn requests_received(&self) -> u64 {
        self.engines.iter().flatten().map(EngineSimulator::requests_received).sum()
    }

    /// Whether requests with the same beginning go to one replica, and different beginnings to all three.
    pub(crate) async fn assert_prefixes_find_their_replicas(&self, way: &str) {
        let mut engines = BTreeSet::new();
        for group in 0..3 {
            let mut homes = BTreeSet::new();
            for turn in 0..5 {
                let prompt = text(&format!("group {group}"), 300) + &format!("question {turn}");
                let answer = self.chat(&prompt).await;
                assert_eq!(answer.status, 200, "{way}: {}", answer.body);
                homes.insert(answer.engine().to_owned());
            }
            assert_eq!(homes.len(), 1, "{way}: {homes:?}");
            engines.extend(homes);
        }
        assert_eq!(engines.len(), 3, "{way}: three cold prefixes go to three idle replicas");
    }

    /// Whether every request is answered while one of the three replicas dies.
    pub(crate) async fn assert_nobody_notices_a_dying_replica(&mut self) {
        let mut engines = BTreeSet::new();
        for number in 0..60 {
            if number == 20 {
                self.engines.get_mut(1).and_then(Option::take).unwrap().kill();
            }
            let answer = self.chat(&text(&format!("caller {number}"), 50)).await;
            assert_eq!(answer.status, 200, "request {number}: {}", answer.body);
            engines.insert(answer.engine().to_owned());
        }
        assert_eq!(engines.len(), 3);
    }
}

impl Deref for Stack {
    type Target = Gateway;

    fn deref(&self) -> &Gateway {
        &self.gateway
    }
}

impl DerefMut for Stack {
    fn deref_mut(&mut self) -> &mut Gateway {
        &mut self.gateway
    }
}

impl Stack {
    pub(crate) async fn start(test: &str, config: EnvoyConfig, source: PickSource) -> Self {
        Self::start_with(test, config, |envoy, _| envoy.pick_source = source).await
    }

    /// Starts with changed options of Envoy and the picker.
    pub(crate) async fn start_with(
        test: &str,
        config: EnvoyConfig,
        change: impl FnOnce(&mut EnvoyOptions, &mut PickerOptions),
    ) -> Self {
        let folder = folder(test);
        let engines = engines();
        let unknown = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut envoy_options = EnvoyOptions::new(config, addresses(&engines), unknown);
        let mut picker_options = PickerOptions::new(addresses(&engines));
        change(&mut envoy_options, &mut picker_options);
        let picker = Picker::start(&picker_options, &folder).await.unwrap();
        envoy_options.picker = picker.grpc_addr();
        let envoy = Envoy::start(&envoy_options, &folder).await.unwrap();
        Self { picker, gateway: Gateway::new(engines, envoy) }
    }

    /// Waits until the picker has no open stream, no booking and no request that counts as running.
    pub(crate) async fn assert_nothing_is_left(&self, after: &str) {
        self.assert_no_stream_is_left(after).await;
        for name in ["llm_d_epp_inflight_requests", "llm_d_epp_inflight_tokens", "llm_d_epp_request_running"]
        {
            let is_zero = async || self.picker_metric(name).await.unwrap_or(0.0) == 0.0;
            eventually(&format!("`{name}` is 0 after {after}"), is_zero).await;
        }
    }

    /// Waits until the picker has no open stream.
    pub(crate) async fn assert_no_stream_is_left(&self, after: &str) {
        let name = "llm_d_epp_extproc_streams_inflight";
        let is_zero = async || self.picker_metric(name).await == Some(0.0);
        eventually(&format!("`{name}` is 0 after {after}"), is_zero).await;
    }

    /// The sum over all series of one of the picker's metrics; `None` if there is no such metric.
    pub(crate) async fn picker_metric(&self, name: &str) -> Option<f64> {
        self.picker_series(name, "").await
    }

    /// As [`picker_metric`](Self::picker_metric), for the series with a label such as `result="timeout"`.
    pub(crate) async fn picker_series(&self, name: &str, label: &str) -> Option<f64> {
        let page = read(self.http.get(format!("{}/metrics", self.picker.metrics_url()))).await.body;
        let series = page.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            (series.split('{').next() == Some(name) && series.contains(label))
                .then(|| value.parse::<f64>().unwrap())
        });
        series.reduce(|sum, value| sum + value)
    }
}

/// Waits until something holds; fails after [`PATIENCE`].
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "did not happen: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A client that gives up after `limit`.
pub(crate) fn http(limit: Duration) -> reqwest::Client {
    reqwest::Client::builder().no_proxy().timeout(limit).build().unwrap()
}

pub(crate) async fn read(request: reqwest::RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Answer { status, headers, body: response.text().await.unwrap() }
}

pub(crate) fn chat_body(prompt: &str, stream: bool) -> Value {
    json!({
        "model": "simulated",
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": 4,
        "stream": stream,
    })
}

/// A text of about `tokens` tokens that shares nothing with the text of another key.
pub(crate) fn text(key: &str, tokens: usize) -> String {
    format!("{key} says: ").chars().cycle().take(tokens * 4).collect()
}
