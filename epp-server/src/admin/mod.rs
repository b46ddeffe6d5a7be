//! What people and monitoring ask the server: plain HTTP beside the gRPC ports.
//!
//! - [`metrics`]: counters, at `/metrics`.
//! - [`recorder`]: the last decisions and minutes.
//! - `api`: both, the endpoints, the index and the configuration as JSON below `/api`.
//! - `page`: the same for people, at `/`.
//! - [`access`]: who may see the last two.
//! - [`review`]: who may read anything, if the Kubernetes API is asked.

pub mod access;
mod api;
mod decision_log;
mod history;
pub mod metrics;
mod page;
mod pool_metrics;
pub mod recorder;
mod request_metrics;
pub mod review;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::{StatusCode, header};
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};

use self::access::AccessRules;
use self::metrics::Metrics;
use self::recorder::Recorder;
use self::review::Reviewer;
use crate::discovery::Pool;

/// What prometheus-client writes.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A pool as the routes show it.
pub struct ShownPool {
    /// Empty for one without a name.
    pub name: String,
    /// Its endpoints.
    pub pool: Arc<Pool>,
    /// Its decisions.
    pub recorder: Arc<Recorder>,
}

/// What the routes of a pool read.
struct Admin {
    pool: Arc<Pool>,
    recorder: Arc<Recorder>,
}

/// The routes of the admin port; to be served with the addresses of the peers, which the rules ask for.
///
/// `/api` is of the first pool, `/api/pools/<name>` of each one that has a name.
pub fn routes(
    metrics: Arc<Metrics>,
    pools: Vec<ShownPool>,
    rules: AccessRules,
    reviewer: Option<Reviewer>,
) -> Router {
    let names: Vec<String> = pools.iter().map(|shown| shown.name.clone()).collect();
    let list = get(async || Json(BTreeMap::from([("pools", names)])));
    let mut app = page::routes().route("/api/pools", list);
    for (number, ShownPool { name, pool, recorder }) in pools.into_iter().enumerate() {
        let api = api::routes().with_state(Arc::new(Admin { pool, recorder }));
        if number == 0 {
            app = app.nest("/api", api.clone());
        }
        if !name.is_empty() {
            app = app.nest(&format!("/api/pools/{name}"), api);
        }
    }
    app.layer(from_fn_with_state(Arc::new(rules), access::check))
        .route("/metrics", get(async move || metrics_page(&metrics)))
        .layer(from_fn_with_state(reviewer.map(Arc::new), review::check))
        .route("/healthz", get(|| async { "ok\n" }))
        .layer(map_response(page::with_security_headers))
}

fn metrics_page(metrics: &Metrics) -> Response {
    match metrics.page() {
        Ok(page) => ([(header::CONTENT_TYPE, OPEN_METRICS)], page).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
