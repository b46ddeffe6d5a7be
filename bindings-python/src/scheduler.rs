//! `Scheduler`: the calls of a gateway.

use p3sched::{Endpoint, Error, Outcome, SchedulerConfig};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString};

use crate::buffer::Buffer;
use crate::clock;
use crate::decision::Decision;
use crate::error::Failure;
use crate::interpreter::lend;
use crate::json;
use crate::kv_events::with_batch;
use crate::number::{optional, time, whole};
use crate::request::Request;
use crate::route::Route;

/// Picks endpoints for requests.
///
/// Every method may be called from any thread, and none waits for anything but a short critical section. ``now`` is a
/// time in nanoseconds; without it the monotonic clock is read (``time.monotonic_ns()`` gives the same times).
///
/// The configuration is a dict, the name of a preset, keyword arguments, or a dict or name with keyword arguments that
/// replace some of its fields. What is left out has its default. Raises ``InvalidConfig`` for what cannot work.
///
/// ```python
/// >>> from p3sched import Scheduler
/// >>> scheduler = Scheduler("latency", fallbacks=1)
/// >>> scheduler.set_endpoints(["10.0.0.1:8000", "10.0.0.2:8000"])
/// >>> body = b'{"model": "llama", "messages": [{"role": "user", "content": "Tell me about the sea."}]}'
/// >>> decision = scheduler.pick_body("/v1/chat/completions", body)
/// >>> decision.endpoint, decision.fallbacks
/// ('10.0.0.1:8000', ('10.0.0.2:8000',))
/// >>> scheduler.first_token(decision.id)
/// >>> scheduler.complete(decision.id, cached_tokens=0)
///
/// ```
#[pyclass(frozen, module = "p3sched")]
pub(crate) struct Scheduler {
    /// Boxed, since it holds whole cache lines and Python aligns objects to 16 bytes only.
    pub(crate) core: Box<p3sched::Scheduler>,
}

#[pymethods]
impl Scheduler {
    #[new]
    #[pyo3(signature = (config=None, /, **fields))]
    fn new(
        py: Python<'_>,
        config: Option<&Bound<'_, PyAny>>,
        fields: Option<&Bound<'_, PyDict>>,
    ) -> Result<Self, Failure> {
        let merged = PyDict::new(py);
        match config {
            Some(name) if name.is_instance_of::<PyString>() => merged.set_item("preset", name)?,
            Some(config) => merged.call_method1("update", (config,)).map(drop)?,
            None => {}
        }
        if let Some(fields) = fields {
            merged.update(fields.as_mapping())?;
        }
        let config: SchedulerConfig = json::from_python(&merged, Error::InvalidConfig)?;
        Ok(Self { core: Box::new(p3sched::Scheduler::new(config)?) })
    }

    /// The configuration in force, as a plain dict.
    #[getter]
    fn config<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        json::to_python(py, self.core.config())
    }

    /// Adds an endpoint: its name (``host:port``), or a dict with ``name`` and ``labels``. One of the same name keeps
    /// its state and takes the new labels.
    ///
    /// Raises ``InvalidConfig`` if the name is empty.
    fn add_endpoint(&self, endpoint: &Bound<'_, PyAny>) -> Result<(), Failure> {
        Ok(self.core.add_endpoint(endpoint_of(endpoint)?)?)
    }

    /// Removes an endpoint and everything that is known of it.
    ///
    /// Raises ``UnknownEndpoint`` if there is none of this name.
    fn remove_endpoint(&self, name: &str) -> Result<(), Failure> {
        Ok(self.core.remove_endpoint(name)?)
    }

    /// Makes these the only endpoints, and keeps what is known of those that stay.
    ///
    /// Raises ``InvalidConfig`` if a name is empty; then nothing has changed.
    fn set_endpoints(&self, endpoints: &Bound<'_, PyAny>) -> Result<(), Failure> {
        // Its letters would be taken for names.
        if endpoints.is_instance_of::<PyString>() {
            return Err(Failure::type_error("endpoints must be a list of names or dicts, not one `str`"));
        }
        let endpoints = endpoints.try_iter()?.map(|endpoint| endpoint_of(&endpoint?));
        Ok(self.core.set_endpoints(endpoints.collect::<Result<_, _>>()?)?)
    }

    /// Picks the endpoint for a request, books the work on it and remembers the prefix, in one step.
    ///
    /// Report what happens to the request with ``first_token`` and ``complete``. Raises ``NoEndpoints`` if there is none
    /// at all, ``NoEligibleEndpoint`` if a filter left none.
    #[pyo3(signature = (request, *, now=None))]
    fn pick(
        &self,
        py: Python<'_>,
        request: &Bound<'_, Request>,
        now: Option<&Bound<'_, PyAny>>,
    ) -> Result<Decision, Failure> {
        let (request, now) = (request.get(), time(now)?);
        Ok(Decision::new(lend(py, request.size(), || self.core.pick(&request.0, now))?))
    }

    /// Reads the body of an HTTP request and picks the endpoint for it: ``Request.from_body`` and ``pick`` in one call.
    ///
    /// ``body`` may be anything with the buffer protocol. Raises ``InvalidRequest`` if it cannot be read, and what
    /// ``pick`` raises.
    #[pyo3(name = "pick_body", signature = (path, body, *, explain=None, now=None))]
    fn pick_body_of(
        &self,
        py: Python<'_>,
        path: &str,
        body: Buffer,
        explain: Option<bool>,
        now: Option<&Bound<'_, PyAny>>,
    ) -> Result<Decision, Failure> {
        Ok(Decision::new(self.pick_body(py, path, &body, explain, time(now)?)?))
    }

    /// Picks like ``pick_body`` and completes by itself at the end of a ``with`` statement, as a failure if an exception
    /// leaves it.
    ///
    /// Works in ``async`` functions as it is. Completing inside of the statement, for example to report
    /// ``cached_tokens``, takes precedence.
    ///
    /// ```python
    /// >>> from p3sched import Scheduler
    /// >>> scheduler = Scheduler()
    /// >>> scheduler.add_endpoint("10.0.0.1:8000")
    /// >>> with scheduler.route("/v1/completions", b'{"model": "llama", "prompt": "Hi"}') as decision:
    /// ...     scheduler.stats()["requests_in_flight"]  # forward the request to decision.endpoint
    /// 1
    /// >>> scheduler.stats()["requests_in_flight"]
    /// 0
    ///
    /// ```
    #[pyo3(signature = (path, body, *, explain=None))]
    fn route(slf: Bound<'_, Self>, path: String, body: Buffer, explain: Option<bool>) -> Route {
        Route::new(slf.unbind(), path, body, explain)
    }

    /// What ``pick`` would answer now, with its explanation; records nothing.
    ///
    /// ```python
    /// >>> from p3sched import Request, Scheduler
    /// >>> scheduler = Scheduler()
    /// >>> scheduler.set_endpoints(["10.0.0.1:8000", "10.0.0.2:8000"])
    /// >>> decision = scheduler.explain(Request("llama", text="Hi"))
    /// >>> decision.explanation["endpoints"][0]["endpoint"] == decision.endpoint
    /// True
    /// >>> decision.explanation.text.splitlines()[0].split()[:3]
    /// ['endpoint', 'total', 'matched']
    ///
    /// ```
    #[pyo3(signature = (request, *, now=None))]
    fn explain(
        &self,
        py: Python<'_>,
        request: &Bound<'_, Request>,
        now: Option<&Bound<'_, PyAny>>,
    ) -> Result<Decision, Failure> {
        let (request, now) = (request.get(), time(now)?);
        Ok(Decision::new(lend(py, request.size(), || self.core.explain(&request.0, now))?))
    }

    /// Reports the first token of a request: its prefill is done. A second report changes nothing.
    ///
    /// Raises ``UnknownRequest`` if no pick of this scheduler handed out this id.
    #[pyo3(signature = (id, *, now=None))]
    fn first_token(&self, id: &Bound<'_, PyAny>, now: Option<&Bound<'_, PyAny>>) -> Result<(), Failure> {
        Ok(self.core.first_token(whole("id", id)?, time(now)?)?)
    }

    /// Reports the end of a request. A second report changes nothing.
    ///
    /// ``success`` says whether the endpoint answered, ``served_by`` names the endpoint that really served, where that
    /// may be another one than the chosen; the counts are those of the answer's ``usage``.
    ///
    /// Raises ``UnknownRequest`` if no pick of this scheduler handed out this id.
    #[pyo3(signature = (
        id, *, success=None, prompt_tokens=None, completion_tokens=None, cached_tokens=None, served_by=None, now=None
    ))]
    fn complete(
        &self,
        id: &Bound<'_, PyAny>,
        success: Option<bool>,
        prompt_tokens: Option<&Bound<'_, PyAny>>,
        completion_tokens: Option<&Bound<'_, PyAny>>,
        cached_tokens: Option<&Bound<'_, PyAny>>,
        served_by: Option<String>,
        now: Option<&Bound<'_, PyAny>>,
    ) -> Result<(), Failure> {
        let success = success.unwrap_or(Outcome::success().success);
        let prompt_tokens = optional("prompt_tokens", prompt_tokens)?;
        let completion_tokens = optional("completion_tokens", completion_tokens)?;
        let cached_tokens = optional("cached_tokens", cached_tokens)?;
        let outcome = Outcome { success, prompt_tokens, completion_tokens, cached_tokens, served_by };
        Ok(self.core.complete(whole("id", id)?, outcome, time(now)?)?)
    }

    /// Reads an engine's metrics page (Prometheus text) for an endpoint.
    ///
    /// Raises ``InvalidMetrics`` if the page cannot be read, ``UnknownEndpoint`` if there is no such endpoint.
    #[pyo3(signature = (endpoint, page, *, now=None))]
    fn ingest_metrics(
        &self,
        py: Python<'_>,
        endpoint: &str,
        page: Buffer,
        now: Option<&Bound<'_, PyAny>>,
    ) -> Result<(), Failure> {
        let now = time(now)?;
        Ok(lend(py, page.len(), || self.core.ingest_metrics(endpoint, &page, now))?)
    }

    /// Takes metrics that were read in some other way, as a dict.
    ///
    /// Raises ``InvalidMetrics`` for an unknown field, ``UnknownEndpoint`` if there is no such endpoint.
    #[pyo3(signature = (endpoint, metrics, *, now=None))]
    fn observe(
        &self,
        endpoint: &str,
        metrics: &Bound<'_, PyAny>,
        now: Option<&Bound<'_, PyAny>>,
    ) -> Result<(), Failure> {
        let metrics = json::from_python(metrics, Error::InvalidMetrics)?;
        Ok(self.core.observe(endpoint, metrics, time(now)?)?)
    }

    /// Reports the load that an engine sent with a response (header ``endpoint-load-metrics``) for an endpoint.
    ///
    /// Raises ``InvalidMetrics`` if the header cannot be read, ``UnknownEndpoint`` if there is no such endpoint.
    #[pyo3(signature = (endpoint, value, *, now=None))]
    fn ingest_load_header(
        &self,
        endpoint: &str,
        value: &str,
        now: Option<&Bound<'_, PyAny>>,
    ) -> Result<(), Failure> {
        Ok(self.core.ingest_load_header(endpoint, value, time(now)?)?)
    }

    /// Takes note that a scrape of an endpoint failed: ``"unreachable"`` if nobody listens, ``"failed"`` if there was no
    /// answer.
    ///
    /// Raises ``UnknownEndpoint`` if there is no such endpoint.
    #[pyo3(signature = (endpoint, failure, *, now=None))]
    fn scrape_failed(
        &self,
        endpoint: &str,
        failure: &Bound<'_, PyAny>,
        now: Option<&Bound<'_, PyAny>>,
    ) -> Result<(), Failure> {
        let failure = json::from_python(failure, Error::InvalidMetrics)?;
        Ok(self.core.scrape_failed(endpoint, failure, time(now)?)?)
    }

    /// Applies one KV event of an endpoint's engine, as a dict, outside of any numbered stream.
    ///
    /// Raises ``InvalidKvEvent`` if it cannot be used, ``UnknownEndpoint`` if there is no such endpoint.
    ///
    /// ```python
    /// >>> from p3sched import Request, Scheduler
    /// >>> scheduler = Scheduler(kv_events={"model": "llama"})
    /// >>> scheduler.set_endpoints(["10.0.0.1:8000", "10.0.0.2:8000"])
    /// >>> tokens = list(range(64))
    /// >>> event = {"type": "stored", "block_hashes": [11, 12], "token_ids": tokens, "block_size": 32}
    /// >>> scheduler.apply_kv_event("10.0.0.2:8000", event)
    /// >>> decision = scheduler.pick(Request("llama", tokens=tokens))
    /// >>> decision.endpoint, decision.matched_tokens
    /// ('10.0.0.2:8000', 64)
    ///
    /// ```
    #[pyo3(signature = (endpoint, event, *, now=None))]
    fn apply_kv_event(
        &self,
        endpoint: &str,
        event: &Bound<'_, PyAny>,
        now: Option<&Bound<'_, PyAny>>,
    ) -> Result<(), Failure> {
        let event = json::from_python(event, Error::InvalidKvEvent)?;
        Ok(self.core.apply_kv_event(endpoint, &event, time(now)?)?)
    }

    /// Applies a batch of the numbered stream of an engine: a ``KvEventBatch``, or a dict of the same fields.
    ///
    /// The answer is a dict: its ``type`` is ``applied``, ``restarted``, ``repeated`` or ``gap``, the last with the
    /// sequence number that was ``expected``. After a gap, ask the engine to replay from there, or call
    /// ``resume_kv_events``.
    ///
    /// Raises what ``apply_kv_event`` raises; then nothing of the batch was applied.
    #[pyo3(signature = (endpoint, batch, *, now=None))]
    fn apply_kv_batch<'py>(
        &self,
        py: Python<'py>,
        endpoint: &str,
        batch: &Bound<'py, PyAny>,
        now: Option<&Bound<'_, PyAny>>,
    ) -> Result<Bound<'py, PyAny>, Failure> {
        let now = time(now)?;
        let outcome = with_batch(batch, |batch| Ok(self.core.apply_kv_batch(endpoint, batch, now)?))?;
        Ok(json::to_python(py, &outcome)?)
    }

    /// Goes on after missing batches that cannot be replayed: forgets what the rank holds and expects the batch ``next``.
    ///
    /// Raises ``UnknownEndpoint`` if there is no such endpoint.
    fn resume_kv_events(
        &self,
        endpoint: &str,
        rank: &Bound<'_, PyAny>,
        next: &Bound<'_, PyAny>,
    ) -> Result<(), Failure> {
        Ok(self.core.resume_kv_events(endpoint, whole("rank", rank)?, whole("next", next)?)?)
    }

    /// The prefix index and the learned rates as bytes, for ``restore`` after a restart.
    fn snapshot<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &py.detach(|| self.core.snapshot()))
    }

    /// Replaces the prefix index and the learned rates by those of a ``snapshot``.
    ///
    /// Raises ``InvalidSnapshot`` if the bytes cannot be used; then nothing has changed.
    fn restore(&self, py: Python<'_>, snapshot: Buffer) -> Result<(), Failure> {
        Ok(py.detach(|| self.core.restore(&snapshot))?)
    }

    /// A picture of the scheduler for metrics and dashboards, as a plain dict.
    #[pyo3(signature = (*, now=None))]
    fn stats<'py>(
        &self,
        py: Python<'py>,
        now: Option<&Bound<'_, PyAny>>,
    ) -> Result<Bound<'py, PyAny>, Failure> {
        Ok(json::to_python(py, &self.core.stats(time(now)?))?)
    }

    fn __repr__(&self) -> String {
        let stats = self.core.stats(clock::now());
        let (endpoints, requests) = (stats.endpoints.len(), stats.requests_in_flight);
        format!("<Scheduler endpoints={endpoints} requests_in_flight={requests}>")
    }
}

impl Scheduler {
    pub(crate) fn pick_body(
        &self,
        py: Python<'_>,
        path: &str,
        body: &[u8],
        explain: Option<bool>,
        now: u64,
    ) -> Result<p3sched::Decision, Failure> {
        let decision = lend(py, body.len(), || {
            let mut request = p3sched::Request::from_body(path, body)?;
            request.explain = explain.unwrap_or(request.explain);
            self.core.pick(&request, now)
        });
        Ok(decision?)
    }
}

fn endpoint_of(value: &Bound<'_, PyAny>) -> Result<Endpoint, Failure> {
    match value.cast::<PyString>() {
        Ok(name) => Ok(Endpoint::new(name.to_cow()?.as_ref())),
        Err(_) => json::from_python(value, Error::InvalidConfig),
    }
}
