//! `Scheduler`: the core's scheduler, method by method.

use std::sync::Arc;

use napi::bindgen_prelude::*;
use napi_derive::napi;
use p3sched::{Decision, Endpoint, EndpointMetrics, Error, Outcome, Request, SchedulerConfig, ScrapeFailure};
use serde_json::Value;

use crate::clock::time;
use crate::decision::{self, Endpoints, Explained};
use crate::error::{from_core, from_napi, throw};
use crate::kv_events::KvEventBatch;
use crate::number::{count, sequence};
use crate::{error, plain, request};

/// The core's scheduler.
#[napi]
pub struct Scheduler {
    core: Arc<p3sched::Scheduler>,
}

#[napi]
impl Scheduler {
    /// A scheduler without endpoints, from a configuration or the name of a preset.
    #[napi(constructor, catch_unwind)]
    pub fn new(config: Option<Value>) -> error::Result<Self> {
        let config = match config {
            None => SchedulerConfig::default(),
            Some(Value::String(preset)) => SchedulerConfig::preset(&preset).map_err(from_core)?,
            Some(config) => plain::read_verbatim(config, Error::InvalidConfig)?,
        };
        Ok(Self { core: Arc::new(p3sched::Scheduler::new(config).map_err(from_core)?) })
    }

    /// The configuration in force.
    #[napi(catch_unwind)]
    pub fn config(&self) -> error::Result<Value> {
        plain::write_verbatim(self.core.config())
    }

    /// Adds an endpoint.
    #[napi(catch_unwind)]
    pub fn add_endpoint(&self, endpoint: Value) -> error::Result<()> {
        self.core.add_endpoint(read_endpoint(endpoint)?).map_err(from_core)
    }

    /// Removes an endpoint.
    #[napi(catch_unwind)]
    pub fn remove_endpoint(&self, name: String) -> error::Result<()> {
        self.core.remove_endpoint(&name).map_err(from_core)
    }

    /// Makes these the only endpoints.
    #[napi(catch_unwind)]
    pub fn set_endpoints(&self, endpoints: Vec<Value>) -> error::Result<()> {
        let endpoints = endpoints.into_iter().map(read_endpoint).collect::<error::Result<_>>()?;
        self.core.set_endpoints(endpoints).map_err(from_core)
    }

    /// Reads an engine's metrics page.
    #[napi(catch_unwind)]
    pub fn ingest_metrics(
        &self,
        endpoint: String,
        page: Uint8ArraySlice<'_>,
        now: Option<f64>,
    ) -> error::Result<()> {
        time(now).and_then(|now| self.core.ingest_metrics(&endpoint, &page, now)).map_err(from_core)
    }

    /// Takes metrics that were read in some other way.
    #[napi(catch_unwind)]
    pub fn observe(&self, endpoint: String, metrics: Value, now: Option<f64>) -> error::Result<()> {
        let metrics: EndpointMetrics = plain::read(metrics, Error::InvalidMetrics)?;
        time(now).and_then(|now| self.core.observe(&endpoint, metrics, now)).map_err(from_core)
    }

    /// Reads the load that an engine reported with a response.
    #[napi(catch_unwind)]
    pub fn ingest_load_header(&self, endpoint: String, value: String, now: Option<f64>) -> error::Result<()> {
        time(now).and_then(|now| self.core.ingest_load_header(&endpoint, &value, now)).map_err(from_core)
    }

    /// Takes note that a scrape failed.
    #[napi(catch_unwind)]
    pub fn scrape_failed(&self, endpoint: String, failure: Value, now: Option<f64>) -> error::Result<()> {
        let failure: ScrapeFailure = plain::read_verbatim(failure, Error::InvalidMetrics)?;
        time(now).and_then(|now| self.core.scrape_failed(&endpoint, failure, now)).map_err(from_core)
    }

    /// Picks the endpoint for a request.
    #[napi(catch_unwind)]
    pub fn pick(&self, request: Object<'_>, now: Option<f64>) -> error::Result<Explained> {
        let request = request::read(&request)?;
        self.explained(now, |now| self.core.pick(&request, now))
    }

    /// Picks the endpoint for a request body, some of whose fields the caller sets.
    #[napi(catch_unwind)]
    pub fn pick_body_with(
        &self,
        path: String,
        body: Uint8ArraySlice<'_>,
        fields: Object<'_>,
        now: Option<f64>,
    ) -> error::Result<Explained> {
        let request = read_body(&path, &body, &fields)?;
        self.explained(now, |now| self.core.pick(&request, now))
    }

    /// The function that picks the endpoint for a request body and writes id, matched tokens and prompt tokens into an array.
    ///
    /// A function of its own costs less per call than a method: what it works on need not be looked up.
    #[napi(
        catch_unwind,
        ts_return_type = "(path: string, body: Uint8Array, numbers: Float64Array, now?: number) => string | string[]"
    )]
    pub fn body_picker<'a>(&self, env: &'a Env) -> error::Result<Function<'a, (), Endpoints>> {
        let core = Arc::clone(&self.core);
        // The closure's caller catches panics.
        let pick = move |call: FunctionCallContext<'_>| {
            let (path, body) = (call.get::<String>(0)?, call.get::<Uint8ArraySlice<'_>>(1)?);
            let now = if call.length() > 3 { call.get::<Option<f64>>(3)? } else { None };
            let decision = Request::from_body(&path, &body)
                .and_then(|request| core.pick(&request, time(now)?))
                .map_err(|error| throw(call.env, &error))?;
            decision::write_numbers(&decision, call.get(2)?);
            Ok(decision::endpoints(&decision))
        };
        env.create_function_from_closure("pickBody", pick).map_err(from_napi)
    }

    /// What a pick would answer now; records nothing.
    #[napi(catch_unwind)]
    pub fn explain(&self, request: Object<'_>, now: Option<f64>) -> error::Result<Explained> {
        let request = request::read(&request)?;
        self.explained(now, |now| self.core.explain(&request, now))
    }

    /// What a pick for a request body would answer now; records nothing.
    #[napi(catch_unwind)]
    pub fn explain_body(
        &self,
        path: String,
        body: Uint8ArraySlice<'_>,
        fields: Object<'_>,
        now: Option<f64>,
    ) -> error::Result<Explained> {
        let request = read_body(&path, &body, &fields)?;
        self.explained(now, |now| self.core.explain(&request, now))
    }

    /// Reports the first token of a request.
    #[napi(catch_unwind)]
    pub fn first_token(&self, id: f64, now: Option<f64>) -> error::Result<()> {
        sequence("id", id).and_then(|id| self.core.first_token(id, time(now)?)).map_err(from_core)
    }

    /// Reports the end of a request.
    #[napi(catch_unwind)]
    pub fn complete(&self, id: f64, outcome: Value, now: Option<f64>) -> error::Result<()> {
        let outcome: Outcome =
            plain::read(outcome, |reason| Error::InvalidRequest(format!("outcome: {reason}")))?;
        sequence("id", id).and_then(|id| self.core.complete(id, outcome, time(now)?)).map_err(from_core)
    }

    /// Applies one event of an endpoint's engine.
    #[napi(catch_unwind)]
    pub fn apply_kv_event(&self, endpoint: String, event: Value, now: Option<f64>) -> error::Result<()> {
        let event = plain::read(event, Error::InvalidKvEvent)?;
        time(now).and_then(|now| self.core.apply_kv_event(&endpoint, &event, now)).map_err(from_core)
    }

    /// Applies a batch of an engine's stream.
    #[napi(catch_unwind)]
    pub fn apply_kv_batch(
        &self,
        endpoint: String,
        batch: &KvEventBatch,
        now: Option<f64>,
    ) -> error::Result<Value> {
        let outcome = time(now).and_then(|now| self.core.apply_kv_batch(&endpoint, &batch.core, now));
        plain::write(&outcome.map_err(from_core)?)
    }

    /// Goes on after missing batches that cannot be replayed.
    #[napi(catch_unwind)]
    pub fn resume_kv_events(&self, endpoint: String, rank: f64, next: f64) -> error::Result<()> {
        count("rank", rank)
            .and_then(|rank| self.core.resume_kv_events(&endpoint, rank, sequence("next", next)?))
            .map_err(from_core)
    }

    /// The prefix index and the learned rates as bytes.
    #[napi(catch_unwind)]
    pub fn snapshot(&self) -> Buffer {
        self.core.snapshot().into()
    }

    /// Takes over what a snapshot holds.
    #[napi(catch_unwind)]
    pub fn restore(&self, snapshot: Uint8ArraySlice<'_>) -> error::Result<()> {
        self.core.restore(&snapshot).map_err(from_core)
    }

    /// A picture of the scheduler.
    #[napi(catch_unwind)]
    pub fn stats(&self, now: Option<f64>) -> error::Result<Value> {
        plain::write(&self.core.stats(time(now).map_err(from_core)?))
    }

    fn explained(
        &self,
        now: Option<f64>,
        answer: impl FnOnce(u64) -> std::result::Result<Decision, Error>,
    ) -> error::Result<Explained> {
        let decision = time(now).and_then(answer).map_err(from_core)?;
        decision::explained(&decision)
    }
}

fn read_endpoint(endpoint: Value) -> error::Result<Endpoint> {
    match endpoint {
        Value::String(name) => Ok(Endpoint::new(name)),
        fields => plain::read_verbatim(fields, Error::InvalidConfig),
    }
}

fn read_body(path: &str, body: &[u8], fields: &Object<'_>) -> error::Result<Request> {
    let mut request = Request::from_body(path, body).map_err(from_core)?;
    request::set_fields(&mut request, fields)?;
    Ok(request)
}
