//! From what was seen of a request to a pick or a refusal.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use p3sched::gateway::{Refusal, RequestHead};
use p3sched::{Decision, Outcome, Request};

use super::closing::Closing;
use super::route::Route;
use crate::admin::metrics::{Metrics, ModelMetrics, Served};
use crate::admin::recorder::{PickContext, RecordedPick, Recorder};
use crate::clock;
use crate::discovery::Pool;
use crate::traces::{self, Traces};

/// What was seen of a request when the pick is due.
#[derive(Debug)]
pub struct Query<'a> {
    /// Its headers.
    pub head: &'a RequestHead,
    /// Its body; `None` when it has none or the gateway does not send it.
    pub body: Option<&'a [u8]>,
    /// Whether the body is only the beginning of what the client sent.
    pub truncated: bool,
    /// The endpoints to choose from, by name or by address without port; present but empty means none.
    pub subset: Option<Vec<String>>,
    /// When the headers came, in nanoseconds.
    pub received: u64,
}

/// A picked request until its response has ended.
pub struct Pick {
    /// The scheduler's booking; `None` when the pick was made without the scheduler.
    booking: Option<u64>,
    endpoint: Arc<str>,
    received: u64,
    first_token: Option<u64>,
    recorded: RecordedPick,
    model: Arc<ModelMetrics>,
}

/// Puts requests to the scheduler and keeps its books.
pub struct Router {
    pool: Arc<Pool>,
    metrics: Arc<Metrics>,
    recorder: Arc<Recorder>,
    traces: Option<Arc<Traces>>,
    closing: Closing,
    fail_open: bool,
    next_without_scheduler: AtomicUsize,
    /// Bytes of the bodies that are gathered, of all requests together.
    gathered: AtomicUsize,
}

impl Router {
    /// A router over the endpoints of a pool.
    ///
    /// With `fail_open` a request for which the scheduler has no answer goes to the endpoints in turn, else it is
    /// refused with 503. A subset hint is always obeyed.
    pub fn new(pool: Arc<Pool>, metrics: Arc<Metrics>, recorder: Arc<Recorder>, fail_open: bool) -> Self {
        Self {
            pool,
            metrics,
            recorder,
            traces: None,
            closing: Closing::default(),
            fail_open,
            next_without_scheduler: AtomicUsize::new(0),
            gathered: AtomicUsize::new(0),
        }
    }

    /// The same router, which writes down what it does with sampled requests.
    pub fn with_traces(self, traces: Option<Arc<Traces>>) -> Self {
        Self { traces, ..self }
    }

    /// Where spans are made, if any are.
    pub fn traces(&self) -> Option<&Traces> {
        self.traces.as_deref()
    }

    /// The end of the server, as the open streams see it.
    pub fn closing(&self) -> &Closing {
        &self.closing
    }

    /// The counters that this router fills.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Counts bytes that are about to be gathered; false, and nothing counted, if all would exceed `limit`.
    pub fn gather(&self, bytes: usize, limit: usize) -> bool {
        let fits = |gathered: usize| gathered.checked_add(bytes).filter(|sum| *sum <= limit);
        self.gathered.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }

    /// Counts bytes that are no longer gathered.
    pub fn release(&self, bytes: usize) {
        self.gathered.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Picks an endpoint; the second value is what the gateway is told.
    ///
    /// # Errors
    ///
    /// A [`Refusal`] is what the client has to be told.
    pub fn pick(&self, query: Query<'_>, now: u64) -> Result<(Pick, Route), Refusal> {
        let body_length = query.body.map_or(0, <[u8]>::len);
        let mut request = self.request(&query)?;
        request.subset = query.subset;
        let trace = self.traces().and_then(Traces::begin_pick);
        request.explain = self.recorder.wants_explanation(now) || trace.is_some();
        let started = clock::now();
        let decision = catch_unwind(AssertUnwindSafe(|| self.pool.scheduler().pick(&request, now)));
        let succeeded = matches!(decision, Ok(Ok(_)));
        let nanoseconds = clock::now().saturating_sub(started);
        self.metrics.picked(nanoseconds, succeeded);
        let mut route_headers = Vec::new();
        if let Some((traces, trace)) = self.traces().zip(trace.as_ref()) {
            let decision = decision.as_ref().ok().and_then(|decision| decision.as_ref().ok());
            traces.picked(trace, &request.model, request.priority, decision);
            route_headers = traces.headers(trace);
        }
        let context = PickContext { model: &request.model, request_bytes: body_length, nanoseconds };
        let mut recorded = RecordedPick::default();
        let (booking, endpoint, destination) = match decision {
            Ok(Ok(decision)) => {
                let destination = destination(&decision);
                let (id, endpoint) = (decision.id, Arc::clone(&decision.endpoint));
                recorded = self.recorder.picked(decision, context, now);
                (Some(id), endpoint, destination)
            }
            Ok(Err(error)) => self.pick_without_scheduler(&request, Refusal::from_error(&error))?,
            Err(_panic) => self.pick_without_scheduler(&request, Refusal::internal(503))?,
        };
        if booking.is_none() {
            self.recorder.picked_without_scheduler(&endpoint, context, now);
        }
        tracing::debug!(%destination, model = request.model, bytes = body_length, "picked");
        let model = self.metrics.model(&request.model);
        model.picked(body_length);
        let pick = Pick { booking, endpoint, received: query.received, first_token: None, recorded, model };
        let mut route = Route::to(destination);
        if !route_headers.is_empty() {
            route.extras_mut().set_headers.append(&mut route_headers);
        }
        Ok((pick, route))
    }

    /// Notes the first token of an answer.
    pub fn first_token(&self, pick: &mut Pick, now: u64) {
        pick.first_token = Some(now.saturating_sub(pick.received));
        if let Some(id) = pick.booking
            && let Err(error) = self.pool.scheduler().first_token(id, now)
        {
            tracing::debug!(%error, "first token not booked");
        }
    }

    /// Notes the end of an answer, of which so many bytes were seen.
    pub fn complete(&self, pick: &Pick, mut outcome: Outcome, response_bytes: u64, now: u64) {
        outcome.served_by = outcome.served_by.filter(|served_by| **served_by != *pick.endpoint);
        let duration = now.saturating_sub(pick.received);
        let served = Served { duration, first_token: pick.first_token, response_bytes };
        pick.model.completed(served, &outcome);
        if self.traces.is_some() {
            traces::completed(&outcome);
        }
        self.recorder.completed(pick.recorded, served, &outcome, now);
        if let Some(id) = pick.booking
            && let Err(error) = self.pool.scheduler().complete(id, outcome, now)
        {
            tracing::debug!(%error, "completion not booked");
        }
    }

    /// Gives up a request whose end will not be seen: its booking stays until it expires.
    pub fn lost(&self, pick: &Pick) {
        pick.model.lost();
    }

    /// Counts a request that was refused.
    pub fn refused(&self, refusal: &Refusal) {
        self.metrics.refused(refusal.code);
        self.recorder.refused(clock::now());
        if self.traces.is_some() {
            traces::refused(refusal);
        }
        tracing::debug!(status = refusal.status, code = refusal.code, message = refusal.message, "refused");
    }

    /// What the scheduler is asked; without a readable body only load decides.
    fn request(&self, query: &Query<'_>) -> Result<Request, Refusal> {
        let path = query.head.path.split('?').next().unwrap_or_default();
        let mut request = match query.body {
            Some(body) if !query.head.opaque_body => match Request::from_body(path, body) {
                Ok(request) => request,
                Err(_) if query.truncated => Request::default(),
                Err(error) => return Err(Refusal::from_error(&error)),
            },
            _ => Request::default(),
        };
        if let Some(session) = &query.head.session {
            request.session = Some(session.clone());
        }
        Ok(request)
    }

    /// Fails open: some endpoint is better than none when the scheduler has no answer but a refusal.
    fn pick_without_scheduler(
        &self,
        request: &Request,
        refusal: Refusal,
    ) -> Result<(Option<u64>, Arc<str>, String), Refusal> {
        let endpoints = self.pool.endpoints();
        if !self.fail_open || request.subset.is_some() || endpoints.is_empty() {
            return Err(refusal);
        }
        let turn = self.next_without_scheduler.fetch_add(1, Ordering::Relaxed) % endpoints.len();
        let Some(endpoint) = endpoints.get(turn) else { return Err(refusal) };
        self.metrics.failed_open();
        tracing::warn!(reason = refusal.message, endpoint = %endpoint.name, "picked without the scheduler");
        Ok((None, Arc::clone(&endpoint.name), endpoint.name.to_string()))
    }
}

/// The chosen endpoint, then the fallbacks that the configuration asks for.
fn destination(decision: &Decision) -> String {
    let mut destination = decision.endpoint.to_string();
    for fallback in &decision.fallbacks {
        destination.push(',');
        destination.push_str(fallback);
    }
    destination
}

#[cfg(test)]
mod tests {
    use p3sched::endpoint::Candidate;
    use p3sched::profile::RequestView;
    use p3sched::scorer::Scorer;
    use p3sched::{Endpoint, Scheduler, SchedulerConfig};

    use super::*;

    /// A plugin with a mistake.
    #[derive(Debug)]
    struct BrokenScorer;

    impl Scorer for BrokenScorer {
        fn name(&self) -> &'static str {
            "broken-scorer"
        }

        fn score(&self, _request: &RequestView, _candidates: &[Candidate], _out: &mut [f32]) {
            panic!("a mistake");
        }

        fn raw(&self, _request: &RequestView, _candidate: &Candidate) -> f32 {
            0.0
        }
    }

    fn router(fail_open: bool) -> Router {
        router_over(Scheduler::new(SchedulerConfig::default()).unwrap(), fail_open)
    }

    fn router_over(scheduler: Scheduler, fail_open: bool) -> Router {
        let pool = Pool::new(Arc::new(scheduler));
        pool.set(["10.0.0.1:1", "10.0.0.2:1"].map(Endpoint::new).to_vec()).unwrap();
        let recorder = Recorder::new(false).unwrap();
        Router::new(Arc::new(pool), Arc::new(Metrics::new()), Arc::new(recorder), fail_open)
    }

    #[test]
    fn without_an_answer_of_the_scheduler_the_endpoints_take_turns() {
        let refusal = Refusal::from_error(&p3sched::Error::NoEligibleEndpoint {
            filter: "reachable-filter",
            considered: 2,
        });
        let router = router(true);
        let pick = |request: &Request| router.pick_without_scheduler(request, refusal.clone());
        let turns: Vec<String> = (0..3).map(|_| pick(&Request::default()).unwrap().2).collect();
        assert_eq!(turns, ["10.0.0.1:1", "10.0.0.2:1", "10.0.0.1:1"]);
        assert!(router.metrics().page().unwrap().contains("p3sched_fail_open_total 3"));

        let mut limited = Request::default();
        limited.subset = Some(vec!["10.9.9.9:1".to_owned()]);
        assert_eq!(pick(&limited).unwrap_err(), refusal);
    }

    #[test]
    fn failing_open_can_be_switched_off() {
        let refusal = Refusal::from_error(&p3sched::Error::NoEndpoints);
        let pick = router(false).pick_without_scheduler(&Request::default(), refusal.clone());
        assert_eq!(pick.unwrap_err(), refusal);
    }

    #[test]
    fn a_scheduler_that_breaks_is_no_empty_pool() {
        for fail_open in [true, false] {
            let scheduler =
                Scheduler::builder(SchedulerConfig::default()).scorer(Box::new(BrokenScorer), 1.0).build();
            let router = router_over(scheduler.unwrap(), fail_open);
            let head = RequestHead::default();
            let query = Query { head: &head, body: None, truncated: false, subset: None, received: 0 };
            match router.pick(query, 0) {
                Ok((_, route)) => assert!(fail_open && route.destination == "10.0.0.1:1"),
                Err(refusal) => assert!(!fail_open && refusal.reason.is_none(), "{refusal:?}"),
            }
        }
    }
}
