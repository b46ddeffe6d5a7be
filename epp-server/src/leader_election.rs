//! Several servers for one pool, of which one is ready: the holder of a lease of the Kubernetes API.
//!
//! The lease has the name and the times of the reference picker's, so that servers of both kinds take turns while one replaces
//! the other. Different from it: an API that does not answer takes the leadership from nobody. Where it is away for all, no
//! other server can become leader, and the pool would lose its only ready server. A leader that alone is cut off from the API
//! stays ready beside the one that takes its lease, until it reaches the API again. One whom the API refuses to write gives up
//! when its lease has run out.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client, Error};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::discovery::kubernetes::client_error;
use crate::health::Condition;

/// How long a lease is left to a holder that does not renew it.
const LEASE_SECONDS: i32 = 15;
/// Time between two looks at the lease, and between two renewals.
const PERIOD: Duration = Duration::from_secs(2);
/// An API that takes longer for an answer counts as away.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Which lease is sought, and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElectionSettings {
    /// Namespace of the lease.
    pub namespace: String,
    /// Name of the pool that the servers are for.
    pub pool: String,
    /// Name of this server that no other one has.
    pub identity: String,
}

impl ElectionSettings {
    fn lease(&self) -> String {
        format!("epp-{}-{}.llm-d.ai", self.namespace, self.pool)
    }
}

/// Seeks the lease; `leads` holds while it is held. Once `resigns` turns true it is given up, and the task ends.
pub async fn run(
    client: Client,
    settings: ElectionSettings,
    mut leads: Condition,
    mut resigns: watch::Receiver<bool>,
) {
    let mut candidate = Candidate {
        leases: Api::namespaced(client, &settings.namespace),
        name: settings.lease(),
        identity: settings.identity,
        held: None,
        renewed: None,
        rival: None,
        shown: None,
    };
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = resigns.wait_for(|resigns| *resigns) => break,
        }
        match timeout(ANSWER_TIMEOUT, candidate.seek()).await {
            Ok(Ok(holder)) => {
                leads.set(holder == candidate.identity);
                candidate.show(Ok(holder));
            }
            Ok(Err(error)) => {
                if candidate.is_shut_out(&error) {
                    leads.set(false);
                }
                candidate.missed(client_error(&error));
            }
            Err(_elapsed) => candidate.missed("no answer in time".to_owned()),
        }
    }
    leads.set(false);
    if timeout(ANSWER_TIMEOUT, candidate.resign()).await.is_err() {
        tracing::warn!("lease not given up, the API does not answer in time");
    }
}

struct Candidate {
    leases: Api<Lease>,
    name: String,
    identity: String,
    /// The lease as it was last written here, while it is held.
    held: Option<Lease>,
    /// When it was last written here, while this server leads.
    renewed: Option<Instant>,
    /// The version of the lease that another one holds, and since when it is known.
    rival: Option<(Option<String>, Instant)>,
    /// The last outcome that the log knows.
    shown: Option<Result<String, String>>,
}

impl Candidate {
    /// Renews or takes the lease if that is possible; tells who holds it.
    async fn seek(&mut self) -> Result<String, Error> {
        match self.attempt().await {
            // Somebody else wrote it meanwhile: what it says now counts.
            Err(Error::Api(status)) if status.code == 409 => self.attempt().await,
            other => other,
        }
    }

    async fn attempt(&mut self) -> Result<String, Error> {
        let lease = match self.held.take() {
            Some(lease) => lease,
            None => match self.leases.get_opt(&self.name).await? {
                Some(lease) => lease,
                None => return self.create().await,
            },
        };
        if let Some(holder) = self.rival_of(&lease) {
            self.renewed = None;
            return Ok(holder);
        }
        let lease = taken(lease, &self.identity);
        let written = self.leases.replace(&self.name, &PostParams::default(), &lease).await?;
        Ok(self.hold(written))
    }

    async fn create(&mut self) -> Result<String, Error> {
        let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
        let lease = taken(Lease { metadata, spec: None }, &self.identity);
        let created = self.leases.create(&PostParams::default(), &lease).await?;
        Ok(self.hold(created))
    }

    fn hold(&mut self, lease: Lease) -> String {
        self.rival = None;
        self.held = Some(lease);
        self.renewed = Some(Instant::now());
        self.identity.clone()
    }

    /// Whether the lease ran out while the API, which others may still write, refuses this server.
    fn is_shut_out(&mut self, error: &Error) -> bool {
        let is_refused = matches!(error, Error::Api(status) if matches!(status.code, 401 | 403));
        let lease_time = Duration::from_secs(LEASE_SECONDS.unsigned_abs().into());
        let has_run_out = self.renewed.is_some_and(|renewed| renewed.elapsed() >= lease_time);
        if is_refused && has_run_out {
            self.renewed = None;
            tracing::warn!(lease = self.name, "no longer leading, the API refuses this server the lease");
            return true;
        }
        false
    }

    /// The other holder of a lease, as long as it may still renew it.
    ///
    /// Only own time counts, from when the lease was first seen as it is: the clocks of two machines differ.
    fn rival_of(&mut self, lease: &Lease) -> Option<String> {
        let spec = lease.spec.as_ref()?;
        let holder = spec.holder_identity.clone().filter(|holder| !holder.is_empty())?;
        if holder == self.identity {
            return None;
        }
        let version = &lease.metadata.resource_version;
        let seen_since = match &self.rival {
            Some((seen, since)) if seen == version => *since,
            _ => Instant::now(),
        };
        self.rival = Some((version.clone(), seen_since));
        let seconds = spec.lease_duration_seconds.unwrap_or(LEASE_SECONDS);
        let duration = Duration::from_secs(seconds.unsigned_abs().into());
        (seen_since.elapsed() < duration).then_some(holder)
    }

    /// Without an answer nothing changes, and a rival gets its full time again: it had none to renew in.
    fn missed(&mut self, error: String) {
        self.held = None;
        self.rival = None;
        self.show(Err(error));
    }

    fn show(&mut self, outcome: Result<String, String>) {
        if self.shown.as_ref() == Some(&outcome) {
            return;
        }
        match &outcome {
            Ok(holder) if *holder == self.identity => tracing::info!(lease = self.name, "leading"),
            Ok(holder) => tracing::info!(lease = self.name, leader = holder, "another server leads"),
            Err(error) => {
                tracing::warn!(lease = self.name, error, "lease not read, the last leader stays in force");
            }
        }
        self.shown = Some(outcome);
    }

    /// Leaves the lease to whoever asks next.
    async fn resign(&mut self) {
        let Some(mut lease) = self.held.take() else { return };
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = Some(MicroTime(Timestamp::now()));
        }
        match self.leases.replace(&self.name, &PostParams::default(), &lease).await {
            Ok(_) => tracing::info!(lease = self.name, "lease given up"),
            Err(error) => {
                tracing::warn!(lease = self.name, error = client_error(&error), "lease not given up");
            }
        }
    }
}

/// The lease as this holder writes it.
fn taken(mut lease: Lease, identity: &str) -> Lease {
    let now = MicroTime(Timestamp::now());
    let before = lease.spec.unwrap_or_default();
    let is_new = before.holder_identity.as_deref() != Some(identity);
    let transitions = before.lease_transitions.unwrap_or(0);
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: Some(LEASE_SECONDS),
        acquire_time: before.acquire_time.clone().filter(|_| !is_new).or_else(|| Some(now.clone())),
        renew_time: Some(now),
        lease_transitions: Some(if is_new { transitions.saturating_add(1) } else { transitions }),
        ..before
    });
    lease
}
