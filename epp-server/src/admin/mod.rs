//! What people and monitoring ask the server: plain HTTP beside the gRPC ports.
//!
//! - [`metrics`]: counters, at `/metrics`.
//! - [`recorder`]: the last decisions and minutes.
//! - `api`: both, the endpoints, the index and the configuration as JSON below `/api`.
//! - `page`: the same for people, at `/`.
//! - [`access`]: who may see the last two.

pub mod access;
mod api;
mod decision_log;
mod history;
pub mod metrics;
mod page;
mod pool_metrics;
pub mod recorder;
mod request_metrics;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use self::access::AccessRules;
use self::metrics::Metrics;
use self::recorder::Recorder;
use crate::discovery::Pool;

/// What prometheus-client writes.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the routes read.
struct Admin {
    metrics: Arc<Metrics>,
    pool: Arc<Pool>,
    recorder: Arc<Recorder>,
}

/// The routes of the admin port; to be served with the addresses of the peers, which the rules ask for.
pub fn routes(metrics: Arc<Metrics>, pool: Arc<Pool>, recorder: Arc<Recorder>, rules: AccessRules) -> Router {
    Router::new()
        .merge(page::routes())
        .nest("/api", api::routes())
        .layer(from_fn_with_state(Arc::new(rules), access::check))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/metrics", get(metrics_page))
        .layer(map_response(page::with_security_headers))
        .with_state(Arc::new(Admin { metrics, pool, recorder }))
}

async fn metrics_page(State(admin): State<Arc<Admin>>) -> Response {
    match admin.metrics.page() {
        Ok(page) => ([(header::CONTENT_TYPE, OPEN_METRICS)], page).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
