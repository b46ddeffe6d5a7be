//! gRPC health for probes and load balancers: `grpc.health.v1.Health`.

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
    /// Says whether new requests should be sent here.
    pub async fn set(&self, ready: bool) {
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        for name in READINESS {
            self.0.set_service_status(name, status).await;
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
