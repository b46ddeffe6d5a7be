//! What the tests of dynamic modules start: engines and an Envoy that picks by itself.

use crate::stack::{Answer, PATIENCE, addresses, chat_body, engines, folder, http, read};
use p3sched_examples::engine_simulator::EngineSimulator;
use p3sched_examples::envoy::{DynamicModule, Envoy, EnvoyConfig, EnvoyOptions, PickSource};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Engines and Envoy of one test; dropping it ends them.
pub(crate) struct ModuleStack {
    pub(crate) engines: Vec<Option<EngineSimulator>>,
    pub(crate) envoy: Envoy,
    pub(crate) http: reqwest::Client,
}

impl ModuleStack {
    /// Starts three engines and Envoy with a module, whose configuration is written for the engines' addresses.
    pub(crate) async fn start(
        test: &str,
        module: &str,
        config: impl FnOnce(&[SocketAddr]) -> String,
        change: impl FnOnce(&mut EnvoyOptions),
    ) -> anyhow::Result<Self> {
        let engines = engines();
        let nobody = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut options = EnvoyOptions::new(EnvoyConfig::DynamicModule, addresses(&engines), nobody);
        options.pick_source = PickSource::OverrideApi;
        options.module = DynamicModule {
            name: module.to_owned(),
            folder: library_folder(),
            config: config(&addresses(&engines)),
            access_log: None,
        };
        change(&mut options);
        let envoy = Envoy::start(&options, &folder(test)).await?;
        Ok(Self { engines: engines.into_iter().map(Some).collect(), envoy, http: http(PATIENCE) })
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

    /// One of Envoy's counters or gauges by the end of its name; `None` if there is none.
    pub(crate) async fn stat(&self, name: &str) -> Option<u64> {
        let page = read(self.http.get(format!("{}/stats", self.envoy.admin_url()))).await.body;
        let values = page.lines().filter_map(|line| line.split_once(": "));
        let mut named = values.filter(|(known, _)| known.ends_with(name));
        named.next().map(|(_, value)| value.parse().unwrap())
    }
}

/// Where cargo puts the shared libraries of this workspace: two folders above the test.
fn library_folder() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().to_owned()
}
