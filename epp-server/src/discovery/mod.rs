//! Which endpoints there are: the pool, and the sources that fill it.
//!
//! - [`dns`]: the addresses of a DNS name.
//! - [`fixed`]: a list that was given at start.
//! - [`file`](mod@file): a file that is read again when it changes.
//! - [`kubernetes`]: the pods of an `InferencePool`, or of a label selector.

pub mod dns;
pub mod file;
pub mod fixed;
pub mod kubernetes;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use p3sched::{Endpoint, Error, Scheduler};
use parking_lot::Mutex;
use serde::Deserialize;
use serde::de::{self, MapAccess, Visitor};
use tokio::sync::watch;

use crate::policies::Policies;
use crate::profiles::Profiles;

/// The endpoints in force, known to the schedulers and to everybody who watches them.
pub struct Pool {
    profiles: Profiles,
    endpoints: watch::Sender<Arc<[Endpoint]>>,
    policies: Policies,
    /// What engines say they serve, by endpoint, where discovery does not.
    models: Mutex<HashMap<Arc<str>, String>>,
}

/// The label that tells the scheduler which model an endpoint's KV events belong to.
const MODEL_LABEL: &str = "model";

impl Pool {
    /// A pool without endpoints, among which one scheduler picks.
    pub fn new(scheduler: Arc<Scheduler>) -> Self {
        Self::with_profiles(Profiles::single(scheduler))
    }

    /// A pool without endpoints.
    pub fn with_profiles(profiles: Profiles) -> Self {
        Self {
            profiles,
            endpoints: watch::Sender::new(Arc::from([])),
            policies: Policies::default(),
            models: Mutex::default(),
        }
    }

    /// The scheduler whose picks requests go to.
    pub fn scheduler(&self) -> &Arc<Scheduler> {
        self.profiles.scheduler()
    }

    /// What picks among the endpoints.
    pub fn profiles(&self) -> &Profiles {
        &self.profiles
    }

    /// What operators decided about the requests to the endpoints.
    pub fn policies(&self) -> &Policies {
        &self.policies
    }

    /// The endpoints in force.
    pub fn endpoints(&self) -> Arc<[Endpoint]> {
        Arc::clone(&self.endpoints.borrow())
    }

    /// Tells of every change from now on.
    pub fn watch(&self) -> watch::Receiver<Arc<[Endpoint]>> {
        self.endpoints.subscribe()
    }

    /// Replaces the endpoints; those that stay keep what is known of them, one that is named twice counts once, and one
    /// that no profile picks is left out.
    ///
    /// # Errors
    ///
    /// What [`Scheduler::set_endpoints`] refuses; the old endpoints then stay in force.
    pub fn set(&self, endpoints: Vec<Endpoint>) -> Result<(), Error> {
        self.set_restarted(endpoints, &[])
    }

    /// Replaces the endpoints as [`set`](Self::set) does; of those that restarted nothing is known any more.
    ///
    /// # Errors
    ///
    /// Those of [`set`](Self::set).
    pub fn set_restarted(&self, mut endpoints: Vec<Endpoint>, restarted: &[&str]) -> Result<(), Error> {
        let mut seen = HashSet::new();
        endpoints.retain(|endpoint| seen.insert(Arc::clone(&endpoint.name)));
        let found = endpoints.len();
        endpoints.retain(|endpoint| self.profiles.selects(endpoint));
        // Held to the end: a model that is learned meanwhile has to find the new endpoints.
        let mut models = self.models.lock();
        models.retain(|name, _| seen.contains(name) && !restarted.contains(&&**name));
        let labelled: Vec<_> = endpoints.iter().map(|endpoint| with_model(endpoint, &models)).collect();
        self.profiles.set_endpoints(&labelled)?;
        for endpoint in labelled.iter().filter(|endpoint| restarted.contains(&&*endpoint.name)) {
            tracing::info!(endpoint = %endpoint.name, "replica restarted, its cache counts as empty");
            self.profiles.forget(endpoint)?;
        }
        let names: Vec<&str> = endpoints.iter().map(|endpoint| &*endpoint.name).collect();
        let left_out = found - names.len();
        tracing::info!(count = names.len(), left_out, endpoints = names.join(","), "endpoints in force");
        self.endpoints.send_replace(endpoints.into());
        Ok(())
    }

    /// Whether anything says which model the KV events of an endpoint belong to.
    pub fn knows_model(&self, endpoint: &str) -> bool {
        let is_labelled =
            |known: &Endpoint| *known.name == *endpoint && known.labels.contains_key(MODEL_LABEL);
        self.model_is_configured()
            || self.models.lock().contains_key(endpoint)
            || self.endpoints().iter().any(is_labelled)
    }

    /// Takes note of the model that an endpoint's engine says it serves; a label of the endpoint goes before it, and so
    /// does the model of the configuration.
    pub fn learn_model(&self, endpoint: &Arc<str>, model: &str) {
        if self.model_is_configured() {
            return;
        }
        let mut models = self.models.lock();
        if models.get(endpoint).is_some_and(|known| known == model) {
            return;
        }
        let endpoints = self.endpoints();
        let Some(known) = endpoints.iter().find(|known| known.name == *endpoint) else { return };
        models.insert(Arc::clone(endpoint), model.to_owned());
        // Adding an endpoint that is there changes its labels, and only an empty name is refused.
        let _added = self.profiles.relabel(&with_model(known, &models));
    }

    fn model_is_configured(&self) -> bool {
        !self.scheduler().config().kv_events.model.is_empty()
    }
}

fn with_model(endpoint: &Endpoint, models: &HashMap<Arc<str>, String>) -> Endpoint {
    let mut endpoint = endpoint.clone();
    if let Some(model) = models.get(&endpoint.name) {
        endpoint.labels.entry(MODEL_LABEL.to_owned()).or_insert_with(|| model.clone());
    }
    endpoint
}

/// An endpoint as a file writes it: `10.0.0.7:8000`, or `{name: 10.0.0.7:8000, labels: {…}}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointEntry(pub Endpoint);

impl<'de> Deserialize<'de> for EndpointEntry {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EntryVisitor).map(Self)
    }
}

struct EntryVisitor;

impl<'de> Visitor<'de> for EntryVisitor {
    type Value = Endpoint;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an endpoint as `ip:port` or as a map with `name` and `labels`")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Endpoint, E> {
        fixed::parse_endpoint(name).map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Endpoint, A::Error> {
        let mut endpoint = Endpoint::deserialize(de::value::MapAccessDeserializer::new(map))?;
        endpoint.name = fixed::parse_endpoint(&endpoint.name).map_err(de::Error::custom)?.name;
        Ok(endpoint)
    }
}

#[cfg(test)]
mod tests {
    use p3sched::SchedulerConfig;

    use super::*;

    #[test]
    fn an_endpoint_that_is_named_twice_counts_once() {
        let pool = Pool::new(Arc::new(Scheduler::new(SchedulerConfig::default()).unwrap()));
        let changes = pool.watch();
        pool.set(["10.0.0.1:1", "10.0.0.2:1", "10.0.0.1:1"].map(Endpoint::new).to_vec()).unwrap();
        let names: Vec<_> = pool.endpoints().iter().map(|endpoint| endpoint.name.to_string()).collect();
        assert_eq!(names, ["10.0.0.1:1", "10.0.0.2:1"]);
        assert!(changes.has_changed().unwrap());
    }

    #[test]
    fn nothing_is_known_of_a_restarted_endpoint() {
        let pool = Pool::new(Arc::new(Scheduler::new(SchedulerConfig::default()).unwrap()));
        let endpoints = ["10.0.0.1:1", "10.0.0.2:1"].map(Endpoint::new).to_vec();
        pool.set(endpoints.clone()).unwrap();
        let request = p3sched::Request::from_text("llama", "What is rain? ".repeat(200));
        let pick = || {
            let decision = pool.scheduler().pick(&request, 1).unwrap();
            (decision.endpoint, decision.matched_tokens)
        };
        let (holder, matched) = pick();
        assert_eq!(matched, 0);
        pool.set_restarted(endpoints.clone(), &["10.0.0.9:1"]).unwrap();
        assert!(pick().1 > 0);
        pool.set_restarted(endpoints, &[&*holder]).unwrap();
        assert_eq!(pick().1, 0);
    }

    #[test]
    fn an_endpoint_without_a_name_is_refused_and_changes_nothing() {
        let pool = Pool::new(Arc::new(Scheduler::new(SchedulerConfig::default()).unwrap()));
        pool.set(vec![Endpoint::new("10.0.0.1:1")]).unwrap();
        assert_eq!(pool.set(vec![Endpoint::new("")]).unwrap_err().code(), "InvalidConfig");
        assert_eq!(pool.endpoints().len(), 1);
    }
}
