//! From what was seen of a request to a pick or a refusal.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use p3sched::gateway::{DEFAULT_FAIRNESS_ID, Refusal, RequestHead, names_endpoint, subset_entries};
use p3sched::openai::{self, Body};
use p3sched::scheduler::SaturationLimits;
use p3sched::{Outcome, Request};

use super::admission::Admission;
use super::closing::Closing;
use super::model_name::ModelNames;
use super::route::Route;
use crate::admin::metrics::{Metrics, RequestLabels, RequestMetrics, Served};
use crate::admin::recorder::{PickContext, RecordedPick, Recorder};
use crate::clock;
use crate::discovery::Pool;
use crate::policies::PolicyTables;
use crate::profiles::{Booking, Picks, Prefill};
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

/// How requests are routed, beside what the scheduler and the policies say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RoutingSettings {
    /// Whether a request for which the scheduler has no answer goes to the endpoints in turn; else it is refused with
    /// 503. A subset hint is always obeyed.
    pub fail_open: bool,
    /// When requests of negative priority are refused.
    pub saturation: SaturationLimits,
    /// Whether the gateway's subset hint counts.
    pub obeys_subset: bool,
    /// Whether the gateway is told the score of every endpoint.
    pub emits_scores: bool,
    /// Whether responses are followed to their end; else the stream is closed with the pick, and what is in flight ends
    /// by time.
    pub watches_responses: bool,
    /// Whether a header names the endpoints to route to, and another one says who served: for conformance tests alone,
    /// since any client may send it.
    pub serves_tests: bool,
}

impl Default for RoutingSettings {
    fn default() -> Self {
        Self {
            fail_open: true,
            saturation: SaturationLimits::default(),
            obeys_subset: true,
            emits_scores: false,
            watches_responses: true,
            serves_tests: false,
        }
    }
}

/// A picked request until its response has ended.
pub struct Pick {
    /// What the schedulers booked; `None` when the pick was made without them.
    booking: Option<Booking>,
    endpoint: Arc<str>,
    received: u64,
    first_token: Option<u64>,
    last_piece: u64,
    recorded: RecordedPick,
    metrics: Arc<RequestMetrics>,
    /// The model that serves and the one that the client named, where they differ.
    models: Option<Box<(String, String)>>,
}

impl Pick {
    /// Whether another model serves than the client named.
    pub(super) fn is_renamed(&self) -> bool {
        self.models.is_some()
    }

    /// What makes the answer name the model that the client named, where another one serves.
    pub(super) fn model_names(&self) -> Option<ModelNames> {
        let (served, asked) = self.models.as_deref()?;
        Some(ModelNames::new(served, asked))
    }
}

/// What the scheduler answered.
struct Asked {
    picks: Result<Picks, Refusal>,
    /// Whether the decision log keeps the decision.
    is_kept: bool,
    /// How long it took.
    nanoseconds: u64,
    /// Headers that make spans of the engine children of the pick's.
    trace_headers: Vec<(&'static str, String)>,
}

/// Puts requests to the scheduler and keeps its books.
pub struct Router {
    pool: Arc<Pool>,
    metrics: Arc<Metrics>,
    recorder: Arc<Recorder>,
    traces: Option<Arc<Traces>>,
    closing: Arc<Closing>,
    settings: RoutingSettings,
    next_without_scheduler: AtomicUsize,
    draws: AtomicU64,
    /// Bytes of the bodies that are gathered, of all requests together.
    gathered: Arc<AtomicUsize>,
}

impl Router {
    /// A router over the endpoints of a pool.
    pub fn new(
        pool: Arc<Pool>,
        metrics: Arc<Metrics>,
        recorder: Arc<Recorder>,
        settings: RoutingSettings,
    ) -> Self {
        Self {
            pool,
            metrics,
            recorder,
            traces: None,
            closing: Arc::default(),
            settings,
            next_without_scheduler: AtomicUsize::new(0),
            draws: AtomicU64::new(0),
            gathered: Arc::default(),
        }
    }

    /// A router over another pool of the same server: what bounds and counts requests is common to both.
    #[must_use]
    pub fn beside(&self, pool: Arc<Pool>, recorder: Arc<Recorder>) -> Self {
        let traces = self.traces.clone();
        let (closing, gathered) = (Arc::clone(&self.closing), Arc::clone(&self.gathered));
        Self {
            closing,
            gathered,
            ..Self::new(pool, Arc::clone(&self.metrics), recorder, self.settings).with_traces(traces)
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

    /// How requests are routed.
    pub fn settings(&self) -> &RoutingSettings {
        &self.settings
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

    /// Picks an endpoint; the second value is what the gateway is told. A refusal is counted.
    ///
    /// # Errors
    ///
    /// A [`Refusal`] is what the client has to be told.
    pub fn pick(&self, query: Query<'_>, now: u64) -> Result<(Pick, Route), Refusal> {
        let tables = self.pool.policies().tables();
        let started = clock::now();
        let mut body = read_body(&query).inspect_err(|refusal| self.refused(refusal))?;
        self.metrics.parsed(clock::now().saturating_sub(started));
        if let Some(session) = &query.head.session {
            body.request.session = Some(session.clone());
        }
        let draw = self.draw(body.request.session.as_deref());
        let admission = Admission::new(&tables, query.head, body, draw);
        let metrics = self.request_metrics(&tables, query.head, &admission);
        let picked = admission
            .check_model(&tables)
            .and_then(|()| self.pick_admitted(admission, query, Arc::clone(&metrics), now));
        picked.inspect_err(|refusal| {
            metrics.failed(refusal.code);
            self.note_refusal(refusal);
        })
    }

    /// Notes a piece of an answer that comes token by token; the first one is the first token.
    pub fn token(&self, pick: &mut Pick, now: u64) {
        let last_piece = std::mem::replace(&mut pick.last_piece, now);
        if pick.first_token.is_some() {
            pick.metrics.token_gap(now.saturating_sub(last_piece));
            return;
        }
        pick.first_token = Some(now.saturating_sub(pick.received));
        if let Some(booking) = &pick.booking
            && let Err(error) = self.pool.profiles().first_token(booking, now)
        {
            tracing::debug!(%error, "first token not booked");
        }
    }

    /// Notes the end of an answer, of which so many bytes were seen; `error_code` is for what the endpoint could not do.
    pub fn complete(
        &self,
        pick: &Pick,
        mut outcome: Outcome,
        response_bytes: u64,
        error_code: Option<&'static str>,
        now: u64,
    ) {
        outcome.served_by = outcome.served_by.filter(|served_by| **served_by != *pick.endpoint);
        let duration = now.saturating_sub(pick.received);
        let served = Served { duration, first_token: pick.first_token, response_bytes };
        pick.metrics.completed(served, &outcome);
        if self.traces.is_some() {
            traces::completed(&outcome, error_code);
        }
        if let Some(error_code) = error_code {
            pick.metrics.failed(error_code);
        }
        self.recorder.completed(pick.recorded, served, &outcome, now);
        if let Some(booking) = &pick.booking
            && let Err(error) = self.pool.profiles().complete(booking, outcome, now)
        {
            tracing::debug!(%error, "completion not booked");
        }
    }

    /// Gives up a request whose end will not be seen: its booking stays until it expires.
    pub fn lost(&self, pick: &Pick) {
        pick.metrics.lost();
    }

    /// Counts a request that was refused before it was read.
    pub fn refused(&self, refusal: &Refusal) {
        self.metrics.refused_unread(refusal.code);
        self.note_refusal(refusal);
    }

    fn note_refusal(&self, refusal: &Refusal) {
        self.recorder.refused(clock::now());
        if self.traces.is_some() {
            traces::refused(refusal);
        }
        // Without the message, which may quote the request.
        tracing::debug!(status = refusal.status, code = refusal.code, "refused");
    }

    fn pick_admitted(
        &self,
        admission: Admission,
        query: Query<'_>,
        metrics: Arc<RequestMetrics>,
        now: u64,
    ) -> Result<(Pick, Route), Refusal> {
        let Admission { mut request, asked_model, splice, rewrite } = admission;
        let selection = self.test_selection(query.head);
        request.subset = match selection.as_deref() {
            Some(selected) => Some(selected.iter().take(1).map(ToString::to_string).collect()),
            None => query.subset.filter(|_| self.settings.obeys_subset),
        };
        self.shed(&request, now)?;
        let Asked { picks, is_kept, nanoseconds, mut trace_headers } =
            self.ask_scheduler(&mut request, &metrics, now);
        let announced = query.head.content_length.map_or(0, |length| length as usize);
        let body_length = query.body.map_or(announced, <[u8]>::len);
        let request_id = query.head.request_id.as_deref();
        let context = PickContext {
            model: &request.model,
            request_id,
            request_bytes: body_length,
            nanoseconds,
            is_kept,
        };
        let mut recorded = RecordedPick::default();
        let (booking, endpoint, mut route) = match picks {
            Ok(picks) => {
                self.count(&picks, &metrics);
                let route = self.route(&picks, selection.as_deref());
                let (booking, endpoint) = (picks.booking(), Arc::clone(&picks.decision.endpoint));
                recorded = self.recorder.picked(picks, context, now);
                (Some(booking), endpoint, route)
            }
            Err(refusal) => self.pick_without_scheduler(&request, refusal)?,
        };
        if booking.is_none() {
            self.recorder.picked_without_scheduler(&endpoint, context, now);
        }
        if let Some(rule) = rewrite {
            metrics.rewritten(&rule);
        }
        if splice.is_some() {
            route.extras_mut().splice = splice;
        }
        if !trace_headers.is_empty() {
            route.extras_mut().set_headers.append(&mut trace_headers);
        }
        tracing::debug!(destination = %route.destination, model = request.model, bytes = body_length, request_id, "picked");
        metrics.picked(body_length);
        self.metrics.request_processed(clock::now().saturating_sub(query.received));
        let pick = Pick {
            booking,
            endpoint,
            received: query.received,
            first_token: None,
            last_piece: 0,
            recorded,
            metrics,
            models: asked_model.map(|asked| Box::new((request.model, asked))),
        };
        Ok((pick, route))
    }

    fn ask_scheduler(&self, request: &mut Request, metrics: &RequestMetrics, now: u64) -> Asked {
        let trace = self.traces().and_then(Traces::begin_pick);
        let is_kept = self.recorder.wants_explanation(now);
        request.explain = is_kept || self.settings.emits_scores || trace.is_some();
        let started = clock::now();
        let picks = catch_unwind(AssertUnwindSafe(|| self.pool.profiles().pick(request, now)));
        let nanoseconds = clock::now().saturating_sub(started);
        let picks = match picks {
            Ok(picks) => picks.map_err(|error| Refusal::from_error(&error)),
            Err(_panic) => Err(Refusal::internal(503)),
        };
        let picked = picks.as_ref().ok().map(|picks| &picks.decision);
        self.metrics.scheduled(nanoseconds, metrics, picked.map(|decision| &*decision.endpoint));
        let mut trace_headers = Vec::new();
        if let Some((traces, trace)) = self.traces().zip(trace.as_ref()) {
            traces.picked(trace, &request.model, request.priority, picked);
            trace_headers = traces.headers(trace);
        }
        Asked { picks, is_kept, nanoseconds, trace_headers }
    }

    fn count(&self, picks: &Picks, metrics: &RequestMetrics) {
        let prefill = picks.prefilled_by();
        self.metrics.matched(prefill.matched_tokens, prefill.prompt_tokens);
        if let Some(decision_type) = picks.prefill.decision_type() {
            self.metrics.disaggregation_decided(metrics, decision_type);
        }
        if picks.prefill == Prefill::Unavailable {
            self.metrics.prefill_unavailable();
        }
    }

    fn request_metrics(
        &self,
        tables: &PolicyTables,
        head: &RequestHead,
        admission: &Admission,
    ) -> Arc<RequestMetrics> {
        let labels = RequestLabels {
            model: admission.asked_model(),
            target_model: &admission.request.model,
            fairness_id: head.fairness_id.as_deref().unwrap_or(DEFAULT_FAIRNESS_ID),
            priority: admission.request.priority,
        };
        self.metrics.request(labels, || tables.names(labels.model) && tables.names(labels.target_model))
    }

    /// Refuses a request of negative priority while the endpoints have more to do than they should.
    fn shed(&self, request: &Request, now: u64) -> Result<(), Refusal> {
        let (profiles, subset) = (self.pool.profiles(), request.subset.as_deref());
        // Where no endpoint may serve it, that is what the client has to be told.
        if request.priority >= 0 || !profiles.offers(subset) {
            return Ok(());
        }
        let saturation = profiles.saturation(&self.settings.saturation, subset, now);
        if saturation < 1.0 { Ok(()) } else { Err(Refusal::shed(request.priority)) }
    }

    /// A number that is spread evenly over all of `u64`; the requests of a session share one.
    fn draw(&self, session: Option<&str>) -> u64 {
        /// 2⁶⁴ divided by the golden ratio: its multiples fill the range more evenly than chance does.
        const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
        let Some(session) = session else {
            return self.draws.fetch_add(1, Ordering::Relaxed).wrapping_mul(STEP);
        };
        let mut hasher = DefaultHasher::new();
        session.hash(&mut hasher);
        hasher.finish()
    }

    /// The endpoints that a conformance test asks for, in its order.
    fn test_selection(&self, head: &RequestHead) -> Option<Vec<Arc<str>>> {
        let written = head.test_selection.as_deref().filter(|_| self.settings.serves_tests)?;
        let endpoints = self.pool.endpoints();
        let mut selected: Vec<Arc<str>> = Vec::new();
        for entry in subset_entries(written.as_bytes()) {
            let known = endpoints.iter().map(|endpoint| &endpoint.name);
            let fits = |name: &&Arc<str>| names_endpoint(&entry, name) && !selected.contains(name);
            if let Some(name) = known.into_iter().find(fits) {
                selected.push(Arc::clone(name));
            }
        }
        Some(selected)
    }

    /// What the gateway is told of a decision.
    fn route<'a>(&self, picks: &'a Picks, selection: Option<&'a [Arc<str>]>) -> Route {
        let Picks { decision, prefill } = picks;
        let fallbacks = selection
            .as_ref()
            .map_or(decision.fallbacks.as_slice(), |selected| selected.get(1..).unwrap_or_default());
        let mut route = self.pool.profiles().route(&decision.endpoint, fallbacks, prefill);
        if let Some(explanation) = decision.explanation().filter(|_| self.settings.emits_scores) {
            let rated = explanation.endpoints.iter();
            route.extras_mut().scores =
                rated.filter_map(|rated| Some((Arc::clone(&rated.endpoint), rated.total?))).collect();
        }
        route
    }

    /// Fails open: some endpoint is better than none when the scheduler has no answer but a refusal.
    fn pick_without_scheduler(
        &self,
        request: &Request,
        refusal: Refusal,
    ) -> Result<(Option<Booking>, Arc<str>, Route), Refusal> {
        let (endpoints, profiles) = (self.pool.endpoints(), self.pool.profiles());
        let serving = || endpoints.iter().filter(|endpoint| profiles.serves(endpoint));
        let count = serving().count();
        if !self.settings.fail_open || request.subset.is_some() || count == 0 {
            return Err(refusal);
        }
        let turn = self.next_without_scheduler.fetch_add(1, Ordering::Relaxed) % count;
        let Some(endpoint) = serving().nth(turn) else { return Err(refusal) };
        self.metrics.failed_open();
        tracing::warn!(reason = refusal.message, endpoint = %endpoint.name, "picked without the scheduler");
        let route = profiles.route(&endpoint.name, &[], &Prefill::NotConfigured);
        Ok((None, Arc::clone(&endpoint.name), route))
    }
}

/// What the body says; without a readable one only load decides.
fn read_body(query: &Query<'_>) -> Result<Body, Refusal> {
    let path = &query.head.path;
    match query.body {
        Some(body) if query.truncated && !query.head.opaque_body => {
            Ok(openai::scan_beginning(path, body).unwrap_or_default())
        }
        Some(body) if !query.head.opaque_body => {
            openai::scan(path, body).map_err(|error| Refusal::from_error(&error))
        }
        _ => Ok(Body::default()),
    }
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
        let settings = RoutingSettings { fail_open, ..RoutingSettings::default() };
        Router::new(Arc::new(pool), Arc::new(Metrics::new()), Arc::new(recorder), settings)
    }

    #[test]
    fn without_an_answer_of_the_scheduler_the_endpoints_take_turns() {
        let refusal = Refusal::from_error(&p3sched::Error::NoEligibleEndpoint {
            filter: "reachable-filter",
            considered: 2,
        });
        let router = router(true);
        let pick = |request: &Request| router.pick_without_scheduler(request, refusal.clone());
        let turns: Vec<String> = (0..3).map(|_| pick(&Request::default()).unwrap().2.destination).collect();
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
