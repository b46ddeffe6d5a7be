//! What several tests need.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use epp_server::admin::metrics::Metrics;
use epp_server::admin::recorder::Recorder;
use epp_server::config::Settings;
use epp_server::discovery::Pool;
use epp_server::ext_proc::router::{Router, RoutingSettings};
use epp_server::flags::CommandLine;
use p3sched::{Endpoint, Scheduler, SchedulerConfig};

/// A pool of these endpoints with the default configuration.
pub(crate) fn pool(endpoints: &[&str]) -> Arc<Pool> {
    pool_with(SchedulerConfig::default(), endpoints)
}

/// A pool of these endpoints.
pub(crate) fn pool_with(config: SchedulerConfig, endpoints: &[&str]) -> Arc<Pool> {
    let pool = Pool::new(Arc::new(Scheduler::new(config).unwrap()));
    pool.set(endpoints.iter().map(|name| Endpoint::new(*name)).collect()).unwrap();
    Arc::new(pool)
}

/// A router over a pool.
pub(crate) fn router(pool: &Arc<Pool>, settings: RoutingSettings) -> Router {
    let recorder = Recorder::new(false).unwrap();
    Router::new(Arc::clone(pool), Arc::new(Metrics::new()), Arc::new(recorder), settings)
}

/// Settings of a command line, with free ports on loopback.
pub(crate) fn settings(arguments: &[&str]) -> Settings {
    let fixed = [
        "epp-server",
        "--bind-address=127.0.0.1",
        "--grpc-port=0",
        "--grpc-health-port=0",
        "--metrics-port=0",
        "--secure-serving=false",
    ];
    let arguments = [&fixed, arguments].concat().into_iter().map(OsString::from);
    Settings::from_flags(CommandLine::read(arguments).unwrap().flags).unwrap()
}

/// Waits until something holds; fails after ten seconds.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("did not happen: {what}");
}
