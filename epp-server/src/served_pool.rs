//! A pool with everything that fills it, learns for it and shows it.

use std::sync::Arc;

use tokio::task::JoinSet;

use crate::admin::ShownPool;
use crate::admin::metrics::Metrics;
use crate::admin::recorder::Recorder;
use crate::config::{EndpointSource, PoolSettings, Settings};
use crate::discovery::dns::{Dns, Pace};
use crate::discovery::{self, Pool, kubernetes};
use crate::distrust;
use crate::health::Conditions;
use crate::profiles::Profiles;
use crate::scrape::Scraper;
use crate::server::follow;
use crate::state_file::{StateFile, StateSettings};

/// One of the pools that a server picks for.
pub(crate) struct ServedPool {
    settings: PoolSettings,
    pool: Arc<Pool>,
    recorder: Arc<Recorder>,
    scraper: Arc<Scraper>,
    dns: Option<Dns>,
    state_files: Vec<Arc<StateFile>>,
}

impl ServedPool {
    /// A pool with the endpoints that are known at once, and with what is left of the last run.
    ///
    /// # Errors
    ///
    /// The message says what cannot work and what would be right.
    pub(crate) fn new(
        settings: PoolSettings,
        server: &Settings,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, String> {
        let profiles = Profiles::new(settings.scheduler.clone(), settings.profiles.clone());
        let pool = Arc::new(Pool::with_profiles(profiles.map_err(|error| error.to_string())?));
        let state_files = state_files(settings.state.as_ref(), pool.profiles())?;
        let mut dns = None;
        let endpoints = match &settings.endpoints {
            EndpointSource::Fixed(endpoints) => endpoints.clone(),
            EndpointSource::File(path) => discovery::file::read(path)?,
            EndpointSource::Dns(name, server) => {
                dns = Some(Dns::new(name.clone(), *server, Pace::default())?);
                Vec::new()
            }
            EndpointSource::Kubernetes(_) => Vec::new(),
        };
        pool.set(endpoints).map_err(|error| error.to_string())?;
        pool.policies().set(settings.policies.clone());
        let recorder = Arc::new(Recorder::new(server.log_decisions)?);
        let scraper = Scraper::new(server.scrape.clone(), Arc::clone(&pool), Arc::clone(metrics))?;
        Ok(Self { settings, pool, recorder, scraper: Arc::new(scraper), dns, state_files })
    }

    /// What it was told.
    pub(crate) fn settings(&self) -> &PoolSettings {
        &self.settings
    }

    /// Value of the label `name`: the pool's own name as in the reference picker, with its namespace where there are several.
    pub(crate) fn label(&self, pools: usize) -> String {
        let name = &self.settings.name;
        let own = name.rsplit_once('/').map_or(name.as_str(), |(_, own)| own);
        if pools > 1 { name.clone() } else { own.to_owned() }
    }

    /// Its endpoints.
    pub(crate) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Its decisions.
    pub(crate) fn recorder(&self) -> &Arc<Recorder> {
        &self.recorder
    }

    /// It for the page and its API.
    pub(crate) fn shown(&self) -> ShownPool {
        let (pool, recorder) = (Arc::clone(&self.pool), Arc::clone(&self.recorder));
        ShownPool { name: self.settings.name.clone(), pool, recorder }
    }

    /// Starts what follows the endpoints, their load and the state; the conditions hold once the endpoints are known.
    ///
    /// # Errors
    ///
    /// A folder cannot be watched.
    pub(crate) fn start(
        &mut self,
        tasks: &mut JoinSet<Result<(), String>>,
        kubernetes: Option<&kube::Client>,
        conditions: &Conditions,
    ) -> Result<(), String> {
        let pool = || Arc::clone(&self.pool);
        if let EndpointSource::File(path) = &self.settings.endpoints {
            follow(tasks, discovery::file::watch(path.clone(), pool())?);
        }
        if let (EndpointSource::Kubernetes(source), Some(client)) = (&self.settings.endpoints, kubernetes) {
            let (source, configured) = (source.clone(), self.settings.policies.clone());
            follow(tasks, kubernetes::follow(client.clone(), source, pool(), configured, conditions.add()));
        }
        if let Some(dns) = self.dns.take() {
            follow(tasks, dns.follow(pool(), conditions.add()));
        }
        for file in &self.state_files {
            follow(tasks, Arc::clone(file).keep());
        }
        follow(tasks, distrust::watch(pool()));
        follow(tasks, Arc::clone(&self.scraper).run());
        Ok(())
    }

    /// Writes the state, if it is kept.
    pub(crate) async fn save(&self) {
        for file in &self.state_files {
            file.save().await;
        }
    }
}

/// One file for each scheduler: that for prefill has its own beside the named one.
fn state_files(settings: Option<&StateSettings>, profiles: &Profiles) -> Result<Vec<Arc<StateFile>>, String> {
    let Some(settings) = settings else { return Ok(Vec::new()) };
    let mut files = vec![StateFile::open(settings.clone(), Arc::clone(profiles.scheduler()))?];
    if let Some(scheduler) = profiles.prefill_scheduler() {
        let mut path = settings.path.clone().into_os_string();
        path.push(".prefill");
        let settings = StateSettings { path: path.into(), ..settings.clone() };
        files.push(StateFile::open(settings, Arc::clone(scheduler))?);
    }
    Ok(files.into_iter().map(Arc::new).collect())
}
