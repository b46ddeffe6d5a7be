//! The engines' metrics and the cluster's hosts, asked for through Envoy: what is due, and what an answer means.
//!
//! All of it runs on Envoy's main thread. An answer may come while its request is still being made, so that nothing
//! is borrowed during the calls.

use std::collections::HashMap;
use std::sync::Arc;

use p3sched::{Endpoint, ScrapeFailure};

use crate::discovery;
use crate::router::Router;
use crate::settings::{ScrapeSettings, Settings};

/// A request that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// What it asks for.
    pub purpose: Purpose,
    /// Envoy's cluster to go through.
    pub cluster: String,
    /// Path, query included.
    pub path: String,
    /// Address of the engine; also in the header that the cluster reads.
    pub destination: String,
    /// Longest time for an answer, in milliseconds.
    pub timeout_milliseconds: u64,
}

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// The metrics of this endpoint.
    Metrics(Arc<str>),
    /// The hosts of the cluster.
    Hosts,
}

/// What came of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply<'a> {
    /// An answer.
    Answer {
        /// HTTP status.
        status: u16,
        /// All of its body.
        body: &'a [u8],
    },
    /// None: the connection broke, the page is too large, or there is no such cluster.
    Nothing,
}

/// What is known after a reply.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Metrics pages that were read.
    pub succeeded: u64,
    /// Metrics pages that could not be read.
    pub failed: u64,
    /// Something that the log should say, once until it changes.
    pub message: Option<String>,
}

/// What is asked for, and what is under way.
#[derive(Debug)]
pub struct Scraper {
    scrape: Option<ScrapeSettings>,
    endpoints: Vec<Target>,
    hosts_due: u64,
    hosts_under_way: bool,
    calls: HashMap<u64, Purpose>,
    last_message: String,
}

#[derive(Debug)]
struct Target {
    name: Arc<str>,
    due: u64,
    under_way: bool,
}

impl Scraper {
    /// A scraper to which everything is due.
    pub fn new(settings: &Settings, now: u64) -> Self {
        let mut scraper = Self {
            scrape: settings.scrape.clone(),
            endpoints: Vec::new(),
            hosts_due: now,
            hosts_under_way: false,
            calls: HashMap::new(),
            last_message: String::new(),
        };
        scraper.follow(&settings.endpoints(), now);
        scraper
    }

    /// What is to be asked now; each has to be followed by [`called`](Self::called) or by [`replied`](Self::replied).
    pub fn due(&mut self, settings: &Settings, now: u64) -> Vec<Call> {
        let mut calls = Vec::new();
        if let Some(cluster) = &settings.cluster
            && self.hosts_due <= now
            && !self.hosts_under_way
        {
            self.hosts_under_way = true;
            self.hosts_due = now.saturating_add(nanoseconds(cluster.period()));
            calls.push(Call {
                purpose: Purpose::Hosts,
                cluster: cluster.admin_cluster.clone(),
                path: discovery::PATH.to_owned(),
                destination: "admin".to_owned(),
                timeout_milliseconds: 2_000,
            });
        }
        let Some(scrape) = &self.scrape else { return calls };
        let period = nanoseconds(scrape.period());
        for target in self.endpoints.iter_mut().filter(|target| target.due <= now && !target.under_way) {
            target.under_way = true;
            // What was missed is not made up for.
            target.due = target.due.saturating_add(period).max(now.saturating_add(period / 2));
            calls.push(Call {
                purpose: Purpose::Metrics(Arc::clone(&target.name)),
                cluster: scrape.cluster.clone(),
                path: scrape.path.clone(),
                destination: destination(&target.name, scrape.port),
                timeout_milliseconds: u64::try_from(scrape.timeout().as_millis()).unwrap_or(u64::MAX),
            });
        }
        calls
    }

    /// A request is under way as this call.
    pub fn called(&mut self, id: u64, purpose: Purpose) {
        self.calls.insert(id, purpose);
    }

    /// The request that went out as this call.
    pub fn purpose_of(&mut self, id: u64) -> Option<Purpose> {
        self.calls.remove(&id)
    }

    /// Puts a reply into the scheduler.
    pub fn replied(&mut self, purpose: &Purpose, reply: Reply<'_>, router: &Router, now: u64) -> Report {
        let (mut report, message) = match purpose {
            Purpose::Metrics(name) => self.metrics_replied(name, reply, router, now),
            Purpose::Hosts => (Report::default(), self.hosts_replied(reply, router, now)),
        };
        if let Some(message) = message
            && message != self.last_message
        {
            self.last_message.clone_from(&message);
            report.message = Some(message);
        }
        report
    }

    fn metrics_replied(
        &mut self,
        name: &str,
        reply: Reply<'_>,
        router: &Router,
        now: u64,
    ) -> (Report, Option<String>) {
        let Some(target) = self.endpoints.iter_mut().find(|target| *target.name == *name) else {
            return (Report::default(), None);
        };
        target.under_way = false;
        let has_own_port = self.scrape.as_ref().is_some_and(|scrape| scrape.port.is_some());
        let (failure, message) = match reply {
            Reply::Answer { status: 200..=299, body } => {
                match router.scheduler().ingest_metrics(name, body, now) {
                    Ok(()) => return (Report { succeeded: 1, ..Report::default() }, None),
                    Err(error) => (None, error.to_string()),
                }
            }
            Reply::Answer { status, body } => match broken_connection(status, body) {
                // Only the engine's own port tells that nobody is there.
                Some(ScrapeFailure::Unreachable) if !has_own_port => {
                    (Some(ScrapeFailure::Unreachable), "nobody listens".to_owned())
                }
                Some(_) => (Some(ScrapeFailure::Failed), "no answer".to_owned()),
                None => (None, format!("unexpected status: `{status}`")),
            },
            Reply::Nothing => (Some(ScrapeFailure::Failed), "no answer".to_owned()),
        };
        if let Some(failure) = failure {
            // The endpoint may have left during its scrape.
            let _ = router.scheduler().scrape_failed(name, failure, now);
        }
        let message = format!("metrics of `{name}` cannot be read, {message}");
        (Report { failed: 1, ..Report::default() }, Some(message))
    }

    fn hosts_replied(&mut self, reply: Reply<'_>, router: &Router, now: u64) -> Option<String> {
        self.hosts_under_way = false;
        let cluster = &router.settings().cluster.as_ref()?.name;
        let endpoints = match reply {
            Reply::Answer { status: 200, body } => discovery::endpoints(cluster, body),
            Reply::Answer { status, .. } => Err(format!("unexpected status: `{status}`")),
            Reply::Nothing => Err("no answer of the admin interface".to_owned()),
        };
        match endpoints.and_then(|endpoints| {
            self.follow(&endpoints, now);
            router.scheduler().set_endpoints(endpoints).map_err(|error| error.to_string())
        }) {
            Ok(()) => None,
            Err(error) => Some(format!("hosts of cluster `{cluster}` stay as they were, {error}")),
        }
    }

    /// Keeps the rhythm of the endpoints that stay and spreads the new ones over the period.
    fn follow(&mut self, endpoints: &[Endpoint], now: u64) {
        let period = self.scrape.as_ref().map_or(0, |scrape| nanoseconds(scrape.period()));
        let step = period / (endpoints.len() as u64).max(1);
        let mut before = std::mem::take(&mut self.endpoints);
        for (endpoint, place) in endpoints.iter().zip(0..) {
            let known = before.iter().position(|target| target.name == endpoint.name);
            self.endpoints.push(known.map_or_else(
                || Target { name: Arc::clone(&endpoint.name), due: now + step * place, under_way: false },
                |at| before.swap_remove(at),
            ));
        }
    }
}

/// What Envoy's own answer says where the engine gave none; `None` for an answer of the engine.
fn broken_connection(status: u16, body: &[u8]) -> Option<ScrapeFailure> {
    let says = |words: &[u8]| body.windows(words.len()).any(|window| window.eq_ignore_ascii_case(words));
    match status {
        // The peer closed the connection before it was there.
        503 if says(b"remote connection failure") => Some(ScrapeFailure::Unreachable),
        503 if says(b"upstream connect error") || says(b"no healthy upstream") => Some(ScrapeFailure::Failed),
        504 => Some(ScrapeFailure::Failed),
        _ => None,
    }
}

fn destination(endpoint: &str, port: Option<u16>) -> String {
    match (port, endpoint.rsplit_once(':')) {
        (Some(port), Some((host, _))) => format!("{host}:{port}"),
        _ => endpoint.to_owned(),
    }
}

fn nanoseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
