//! What the tests of dynamic modules start: engines and an Envoy that picks by itself.

use crate::stack::{Answer, PATIENCE, addresses, chat_body, engines, folder, http, read};
use p3sched_examples::engine_simulator::EngineSimulator;
use p3sched_examples::envoy::{DynamicModule, Envoy, EnvoyConfig, EnvoyOptions, EnvoyVersion, PickSource};
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
        let mut options = options(module, &engines);
        options.module.config = config(&addresses(&engines));
        change(&mut options);
        assert_built(&options.module);
        let envoy = Envoy::start(&options, &folder(test)).await?;
        Ok(Self::of(engines, envoy))
    }

    /// Starts three engines and Envoy with a configuration that is written for the listener's port, the admin port and the
    /// engines' addresses.
    pub(crate) async fn start_with(
        test: &str,
        module: &str,
        version: EnvoyVersion,
        write: impl FnOnce(u16, u16, &[SocketAddr]) -> String,
    ) -> anyhow::Result<Self> {
        let engines = engines();
        let mut options = options(module, &engines);
        options.version = version;
        assert_built(&options.module);
        let text = |listen, admin| Ok(write(listen, admin, &addresses(&engines)));
        let envoy = Envoy::start_with(&options, &folder(test), text).await?;
        Ok(Self::of(engines, envoy))
    }

    fn of(engines: Vec<EngineSimulator>, envoy: Envoy) -> Self {
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

    /// One of Envoy's counters or gauges by the end of its name; `None` if there is none.
    pub(crate) async fn stat(&self, name: &str) -> Option<u64> {
        let page = read(self.http.get(format!("{}/stats", self.envoy.admin_url()))).await.body;
        let values = page.lines().filter_map(|line| line.split_once(": "));
        let mut named = values.filter(|(known, _)| known.ends_with(name));
        named.next().map(|(_, value)| value.parse().unwrap())
    }
}

fn options(module: &str, engines: &[EngineSimulator]) -> EnvoyOptions {
    let nobody = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut options = EnvoyOptions::new(EnvoyConfig::DynamicModule, addresses(engines), nobody);
    options.pick_source = PickSource::OverrideApi;
    options.module = DynamicModule {
        name: module.to_owned(),
        folder: library_folder(),
        config: String::new(),
        access_log: None,
    };
    options
}

/// Where cargo puts the shared libraries of this workspace: two folders above the test.
fn library_folder() -> PathBuf {
    std::env::current_exe().unwrap().ancestors().nth(2).unwrap().to_owned()
}

fn assert_built(module: &DynamicModule) {
    let library = module.folder.join(format!("lib{}.so", module.name));
    assert!(library.is_file(), "not built, `make test` does that first: `{}`", library.display());
}
