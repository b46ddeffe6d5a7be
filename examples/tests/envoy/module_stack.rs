//! What the tests of dynamic modules start: engines and an Envoy that picks by itself.

use crate::stack::{Gateway, addresses, engines, folder, read};
use p3sched_examples::engine_simulator::EngineSimulator;
use p3sched_examples::envoy::{DynamicModule, Envoy, EnvoyConfig, EnvoyOptions, EnvoyVersion, PickSource};
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;

/// Engines and Envoy of one test; dropping it ends them.
pub(crate) struct ModuleStack(Gateway);

impl Deref for ModuleStack {
    type Target = Gateway;

    fn deref(&self) -> &Gateway {
        &self.0
    }
}

impl DerefMut for ModuleStack {
    fn deref_mut(&mut self) -> &mut Gateway {
        &mut self.0
    }
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
        Ok(Self(Gateway::new(engines, envoy)))
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
        Ok(Self(Gateway::new(engines, envoy)))
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
    options.module =
        DynamicModule { name: module.to_owned(), folder: library_folder(), config: String::new() };
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
