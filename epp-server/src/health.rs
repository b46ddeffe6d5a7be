//! gRPC health for probes and load balancers: `grpc.health.v1.Health`.

use std::sync::Arc;

use tokio::sync::watch;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::{HealthReporter, health_reporter};

/// Service name that stays healthy while the process lives.
const LIVENESS: &str = "liveness";

/// Service names that different deployments ask for readiness; the empty one asks for the whole server.
const READINESS: [&str; 4] =
    ["", "readiness", "inference-extension", "envoy.service.ext_proc.v3.ExternalProcessor"];

/// Turns readiness on and off.
#[derive(Clone)]
pub struct Readiness(HealthReporter);

impl Readiness {
    /// Keeps readiness at whether all conditions hold, until the task is dropped.
    pub async fn follow(self, conditions: Conditions) {
        let mut unmet = conditions.unmet.subscribe();
        loop {
            let ready = *unmet.borrow_and_update() == 0;
            tracing::info!(ready, "readiness");
            self.set(ready).await;
            if unmet.wait_for(|unmet| (*unmet == 0) != ready).await.is_err() {
                return;
            }
        }
    }

    async fn set(&self, ready: bool) {
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        for name in READINESS {
            self.0.set_service_status(name, status).await;
        }
    }
}

/// What has to hold before new requests should be sent here.
#[derive(Debug, Clone, Default)]
pub struct Conditions {
    /// How many conditions do not hold.
    unmet: Arc<watch::Sender<usize>>,
    only_at_start: bool,
}

impl Conditions {
    /// One more condition, which does not hold yet.
    pub fn add(&self) -> Condition {
        self.unmet.send_modify(|unmet| *unmet += 1);
        Condition { unmet: Arc::clone(&self.unmet), only_at_start: self.only_at_start, holds: false }
    }

    /// The same ones; what is added through this holds for good once it has held.
    #[must_use]
    pub fn only_at_start(&self) -> Self {
        Self { unmet: Arc::clone(&self.unmet), only_at_start: true }
    }
}

/// One of the [`Conditions`]; it stays as it was when this is dropped.
#[derive(Debug)]
pub struct Condition {
    unmet: Arc<watch::Sender<usize>>,
    only_at_start: bool,
    holds: bool,
}

impl Condition {
    /// Says whether it holds.
    pub fn set(&mut self, holds: bool) {
        if holds != self.holds && (holds || !self.only_at_start) {
            self.holds = holds;
            self.unmet.send_modify(|unmet| if holds { *unmet -= 1 } else { *unmet += 1 });
        }
    }
}

/// The health service, alive and not yet ready.
pub async fn service() -> (Readiness, HealthServer<impl Health>) {
    let (reporter, server) = health_reporter();
    reporter.set_service_status(LIVENESS, ServingStatus::Serving).await;
    let readiness = Readiness(reporter);
    readiness.set(false).await;
    (readiness, server)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_only_at_start_takes_readiness_from_nobody() {
        let conditions = Conditions::default();
        let mut always = conditions.add();
        let mut first = conditions.only_at_start().add();
        let unmet = || *conditions.unmet.borrow();
        always.set(true);
        assert_eq!(unmet(), 1);
        first.set(true);
        assert_eq!(unmet(), 0);
        first.set(false);
        assert_eq!(unmet(), 0);
        always.set(false);
        assert_eq!(unmet(), 1);
    }
}
