//! `/api/…`: what the page shows, as JSON.
//!
//! | route | answer |
//! |---|---|
//! | `GET /api/endpoints` | [`EndpointList`] |
//! | `GET /api/decisions?after=N` | [`DecisionList`] |
//! | `GET /api/decisions/{id}` | [`DecisionRecord`] |
//! | `POST /api/explain?path=P` | [`Explained`]: a [`Decision`] with its explanation and `id` 0 |
//! | `GET /api/config` | [`ConfigInForce`]: a [`SchedulerConfig`], and that for prefill |
//! | `GET /api/index` | [`IndexState`] |
//! | `GET /api/history` | [`HistoryColumns`](super::history::HistoryColumns) |
//!
//! Any other answer is an [`ApiError`].

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use p3sched::stats::{Counters, EndpointStats};
use p3sched::{Decision, Error, Request, SchedulerConfig};
use serde::{Deserialize, Serialize};

use super::Admin;
use super::decision_log::DecisionRecord;
use crate::clock;
use crate::profiles::Picks;

/// Largest request that is explained, in bytes.
const MAX_EXPLAINED_BODY: usize = 16 << 20;

/// The routes below `/api`.
pub(super) fn routes() -> Router<Arc<Admin>> {
    Router::new()
        .route("/endpoints", get(endpoints))
        .route("/decisions", get(decisions))
        .route("/decisions/{id}", get(decision))
        .route("/explain", post(explain).layer(DefaultBodyLimit::max(MAX_EXPLAINED_BODY)))
        .route("/config", get(config))
        .route("/index", get(index))
        .route("/history", get(history))
        .fallback(|| async { ApiError::not_found("no such route; see `/`".to_owned()) })
        .method_not_allowed_fallback(|| async {
            let message = "only `/api/explain` is asked with POST, all others with GET".to_owned();
            ApiError { status: StatusCode::METHOD_NOT_ALLOWED, code: "MethodNotAllowed", message }
        })
}

/// Why there is no answer: the body is `{"code": …, "message": …}`.
#[derive(Debug, Serialize)]
pub(super) struct ApiError {
    #[serde(skip)]
    pub(super) status: StatusCode,
    /// Stable name of the kind of error; those of the scheduler are the same in every language.
    pub(super) code: &'static str,
    /// What is wrong and what would be right.
    pub(super) message: String,
}

impl ApiError {
    fn bad_request(message: String) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code: "BadRequest", message }
    }

    fn not_found(message: String) -> Self {
        Self { status: StatusCode::NOT_FOUND, code: "NotFound", message }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(self)).into_response()
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let status = match error {
            Error::InvalidRequest(_) => StatusCode::BAD_REQUEST,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self { status, code: error.code(), message: error.to_string() }
    }
}

/// Every endpoint in force, by name.
#[derive(Debug, Serialize)]
struct EndpointList {
    /// Requests in flight, all endpoints together.
    requests_in_flight: usize,
    endpoints: Vec<EndpointState>,
}

/// One endpoint.
#[derive(Debug, Serialize)]
struct EndpointState {
    /// What the scheduler knows of it.
    #[serde(flatten)]
    stats: EndpointStats,
    /// What its metrics are worth now.
    state: MetricsState,
    /// What discovery said of it.
    labels: BTreeMap<String, String>,
}

/// What the metrics of an endpoint are worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum MetricsState {
    /// They count fully.
    Fresh,
    /// They are old enough to count less.
    Fading,
    /// They are too old to count; only own bookings do.
    Stale,
    /// There are none yet.
    Unknown,
    /// The endpoint does not answer, and is not picked while another one does.
    Unreachable,
}

impl MetricsState {
    fn of(stats: &EndpointStats, config: &SchedulerConfig) -> Self {
        match stats.metrics_age_seconds {
            _ if !stats.reachable => Self::Unreachable,
            None => Self::Unknown,
            Some(age) if age <= config.metrics.fresh_seconds => Self::Fresh,
            Some(age) if age <= config.metrics.expire_seconds => Self::Fading,
            Some(_) => Self::Stale,
        }
    }
}

async fn endpoints(State(admin): State<Arc<Admin>>) -> Response {
    let scheduler = admin.pool.scheduler();
    let known = admin.pool.endpoints();
    let mut labels: HashMap<&str, &BTreeMap<String, String>> =
        known.iter().map(|endpoint| (&*endpoint.name, &endpoint.labels)).collect();
    let stats = admin.pool.profiles().stats(clock::now());
    let mut endpoints: Vec<_> = (stats.endpoints.into_iter())
        .map(|stats| EndpointState {
            state: MetricsState::of(&stats, scheduler.config()),
            labels: labels.remove(&*stats.endpoint).cloned().unwrap_or_default(),
            stats,
        })
        .collect();
    endpoints.sort_by(|a, b| a.stats.endpoint.cmp(&b.stats.endpoint));
    Json(EndpointList { requests_in_flight: stats.requests_in_flight, endpoints }).into_response()
}

/// The kept decisions after `after`, oldest first.
#[derive(Debug, Serialize)]
struct DecisionList {
    /// What to ask for next time.
    last_sequence: u64,
    /// Picks that were counted and not kept, because their second was busy.
    skipped: u64,
    decisions: Vec<DecisionSummary>,
}

/// A decision in one line.
#[derive(Debug, Serialize)]
struct DecisionSummary {
    /// Place in the log, from 1.
    sequence: u64,
    /// What `/api/decisions/{id}` wants.
    id: u64,
    /// When it was made, in seconds since 1970.
    at: f64,
    model: Box<str>,
    endpoint: Arc<str>,
    /// The endpoint that does the prefill, if that is another one.
    prefill_endpoint: Option<Arc<str>>,
    /// Prompt tokens that the endpoint was expected to hold.
    matched_tokens: u32,
    prompt_tokens: u32,
    pick_microseconds: f64,
}

impl DecisionSummary {
    fn of(record: &DecisionRecord) -> Self {
        Self {
            sequence: record.sequence,
            id: record.decision.id,
            at: record.observed.at,
            model: record.observed.model.clone(),
            endpoint: Arc::clone(&record.decision.endpoint),
            prefill_endpoint: record.prefill.as_ref().map(|prefill| Arc::clone(&prefill.endpoint)),
            matched_tokens: record.decision.matched_tokens,
            prompt_tokens: record.decision.prompt_tokens,
            pick_microseconds: record.observed.pick_microseconds,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DecisionsQuery {
    #[serde(default)]
    after: u64,
}

async fn decisions(
    State(admin): State<Arc<Admin>>,
    query: Result<Query<DecisionsQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::bad_request(error.body_text()))?;
    let (records, last_sequence, skipped) = admin.recorder.decisions_after(query.after);
    let decisions = records.iter().map(|record| DecisionSummary::of(record)).collect();
    Ok(Json(DecisionList { last_sequence, skipped, decisions }).into_response())
}

async fn decision(
    State(admin): State<Arc<Admin>>,
    id: Result<Path<u64>, PathRejection>,
) -> Result<Response, ApiError> {
    let Path(id) = id.map_err(|error| ApiError::bad_request(error.body_text()))?;
    let record = admin
        .recorder
        .decision(id)
        .ok_or_else(|| ApiError::not_found(format!("this decision is not kept, or no longer: `{id}`")))?;
    Ok(Json(record).into_response())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExplainQuery {
    path: String,
}

/// What would be picked now.
#[derive(Debug, Serialize)]
struct Explained {
    #[serde(flatten)]
    decision: Decision,
    /// The same for the endpoint that does the prefill, if that is another one.
    prefill: Option<Decision>,
}

async fn explain(
    State(admin): State<Arc<Admin>>,
    query: Result<Query<ExplainQuery>, QueryRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::bad_request(error.body_text()))?;
    let body = body.map_err(|error| match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError {
            status: StatusCode::PAYLOAD_TOO_LARGE,
            code: "PayloadTooLarge",
            message: format!("request is larger than the limit of bytes: `{MAX_EXPLAINED_BODY}`"),
        },
        _ => ApiError::bad_request(error.body_text()),
    })?;
    let request = Request::from_body(&query.path, &body)?;
    let Picks { decision, prefill } = admin.pool.profiles().explain(&request, clock::now())?;
    Ok(Json(Explained { decision, prefill: prefill.into_remote() }).into_response())
}

/// How endpoints are picked.
#[derive(Debug, Serialize)]
struct ConfigInForce<'a> {
    /// As a configuration file writes it.
    #[serde(flatten)]
    scheduler: &'a SchedulerConfig,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefill: Option<PrefillInForce<'a>>,
}

/// How other endpoints are picked for the prefill.
#[derive(Debug, Serialize)]
struct PrefillInForce<'a> {
    /// Which requests have one.
    requests: String,
    scheduler: &'a SchedulerConfig,
}

async fn config(State(admin): State<Arc<Admin>>) -> Response {
    let profiles = admin.pool.profiles();
    let prefill = profiles.decider().zip(profiles.prefill_scheduler());
    let prefill = prefill.map(|(decider, scheduler)| PrefillInForce {
        requests: decider.to_string(),
        scheduler: scheduler.config(),
    });
    Json(ConfigInForce { scheduler: profiles.scheduler().config(), prefill }).into_response()
}

/// The prefix index, and what was counted since the scheduler was made.
#[derive(Debug, Serialize)]
struct IndexState {
    /// Different blocks.
    unique_blocks: usize,
    /// Memory in bytes, and its bound.
    bytes: usize,
    max_bytes: usize,
    block_size_tokens: u32,
    /// Blocks of each endpoint, by name.
    endpoints: BTreeMap<Arc<str>, usize>,
    counters: Counters,
}

async fn index(State(admin): State<Arc<Admin>>) -> Response {
    let profiles = admin.pool.profiles();
    let (scheduler, stats) = (profiles.scheduler(), profiles.stats(clock::now()));
    let prefill = profiles.prefill_scheduler();
    let blocks = |endpoint: &EndpointStats| (Arc::clone(&endpoint.endpoint), endpoint.index_blocks);
    Json(IndexState {
        unique_blocks: stats.index.unique_blocks,
        bytes: stats.index.bytes,
        max_bytes: scheduler.config().index_max_bytes
            + prefill.map_or(0, |prefill| prefill.config().index_max_bytes),
        block_size_tokens: scheduler.config().block_size_tokens,
        endpoints: stats.endpoints.iter().map(blocks).collect(),
        counters: stats.counters,
    })
    .into_response()
}

async fn history(State(admin): State<Arc<Admin>>) -> Response {
    Json(admin.recorder.history(clock::now())).into_response()
}
