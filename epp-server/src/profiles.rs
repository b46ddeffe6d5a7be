//! What picks: one scheduler, or one for decode and one for prefill.
//!
//! With prefill and decode on different replicas a request goes to a decode endpoint, and a header tells it which other
//! endpoint does the prefill. The decode endpoint is picked first; what it holds of the prompt tells a [`Decider`] whether
//! a prefill elsewhere is worth it. Where no prefill endpoint is left, the decode endpoint does all the work.
//!
//! Each profile has a scheduler of its own, and so an index, bookings and learned rates of its own, over the endpoints that
//! its labels select. With a prefill elsewhere the uncached tokens of the prompt wait there; the decode endpoint's booking
//! holds only what is in flight.

mod stats;

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use p3sched::gateway;
use p3sched::scheduler::SaturationLimits;
use p3sched::stats::Stats;
use p3sched::{
    Decision, Endpoint, Error, KvBatchOutcome, KvEventBatch, Outcome, Request, Scheduler, SchedulerConfig,
    ScrapeFailure,
};
use parking_lot::RwLock;

use crate::ext_proc::route::Route;
use crate::label_selector::LabelSelector;

/// What is configured of the profiles, beside the scheduler of the first one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProfileSettings {
    /// The endpoints that requests go to.
    pub endpoints: LabelSelector,
    /// The profile for prefill on other endpoints.
    pub prefill: Option<PrefillSettings>,
    /// Port that requests are sent to, where a sidecar there hands them to the endpoint that a header names.
    pub primary_port: Option<u16>,
}

/// A profile for prefill on other endpoints.
#[derive(Debug, Clone, PartialEq)]
pub struct PrefillSettings {
    /// Its name in the configuration.
    pub name: String,
    /// How its endpoints are picked.
    pub scheduler: SchedulerConfig,
    /// The endpoints that do prefill.
    pub endpoints: LabelSelector,
    /// Which requests it is for.
    pub decider: Decider,
}

/// Which requests have their prefill on another endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decider {
    /// All of them.
    Always,
    /// Those of which the decode endpoint lacks so many tokens or more.
    UncachedTokens(u32),
    /// Those whose prompt has so many tokens or more.
    PromptTokens(u32),
}

impl Decider {
    fn wants_prefill(self, decode: &Decision) -> bool {
        match self {
            Self::Always => true,
            Self::UncachedTokens(tokens) => {
                decode.prompt_tokens.saturating_sub(decode.matched_tokens) >= tokens
            }
            Self::PromptTokens(tokens) => decode.prompt_tokens >= tokens,
        }
    }
}

impl fmt::Display for Decider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Always => f.write_str("every request"),
            Self::UncachedTokens(tokens) => {
                write!(f, "requests of which the decode endpoint lacks {tokens} tokens or more")
            }
            Self::PromptTokens(tokens) => write!(f, "prompts of {tokens} tokens or more"),
        }
    }
}

/// The schedulers in force.
pub struct Profiles {
    first: Profile,
    prefill: Option<(Profile, Decider)>,
    primary_port: Option<u16>,
}

/// A scheduler over the endpoints that labels select.
struct Profile {
    scheduler: Arc<Scheduler>,
    endpoints: LabelSelector,
    members: RwLock<HashSet<Arc<str>>>,
}

/// The picks for one request.
#[derive(Debug, Clone, PartialEq)]
pub struct Picks {
    /// Where the request goes.
    pub decision: Decision,
    /// Where its prefill is done.
    pub prefill: Prefill,
}

/// Where the prefill of a request is done.
#[derive(Debug, Clone, PartialEq)]
pub enum Prefill {
    /// On the endpoint that the request goes to; no profile is configured for it.
    NotConfigured,
    /// On the endpoint that the request goes to: the decider wants it so.
    Local,
    /// On the endpoint that the request goes to: no endpoint for prefill was left.
    Unavailable,
    /// On another endpoint.
    Remote(Decision),
}

impl Prefill {
    /// The pick of another endpoint, if there is one.
    pub fn remote(&self) -> Option<&Decision> {
        match self {
            Self::Remote(decision) => Some(decision),
            Self::NotConfigured | Self::Local | Self::Unavailable => None,
        }
    }

    /// The pick of another endpoint, if there is one.
    pub fn into_remote(self) -> Option<Decision> {
        match self {
            Self::Remote(decision) => Some(decision),
            Self::NotConfigured | Self::Local | Self::Unavailable => None,
        }
    }

    /// Name of the decision in metrics and logs; `None` where there is nothing to decide.
    pub fn decision_type(&self) -> Option<&'static str> {
        match self {
            Self::NotConfigured => None,
            Self::Local | Self::Unavailable => Some("decode-only"),
            Self::Remote(_) => Some("prefill-decode"),
        }
    }
}

impl Profiles {
    /// One scheduler, which picks among all endpoints.
    pub fn single(scheduler: Arc<Scheduler>) -> Self {
        Self { first: Profile::new(scheduler, LabelSelector::default()), prefill: None, primary_port: None }
    }

    /// The profiles of a configuration; requests go to what `scheduler` picks.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] of the scheduler that cannot work.
    pub fn new(scheduler: SchedulerConfig, settings: ProfileSettings) -> Result<Self, Error> {
        let first = Profile::new(Arc::new(Scheduler::new(scheduler)?), settings.endpoints);
        let prefill = match settings.prefill {
            None => None,
            Some(prefill) => {
                let scheduler = Arc::new(Scheduler::new(prefill.scheduler)?);
                Some((Profile::new(scheduler, prefill.endpoints), prefill.decider))
            }
        };
        Ok(Self { first, prefill, primary_port: settings.primary_port })
    }

    /// The scheduler whose picks requests go to.
    pub fn scheduler(&self) -> &Arc<Scheduler> {
        &self.first.scheduler
    }

    /// The scheduler for prefill on other endpoints.
    pub fn prefill_scheduler(&self) -> Option<&Arc<Scheduler>> {
        self.prefill.as_ref().map(|(profile, _)| &profile.scheduler)
    }

    /// Where a request goes, the fallbacks after the chosen endpoint.
    pub fn route(&self, endpoint: &str, fallbacks: &[Arc<str>], prefill: &Prefill) -> Route {
        let mut destination = self.address(endpoint).into_owned();
        for fallback in fallbacks {
            destination.push(',');
            destination.push_str(&self.address(fallback));
        }
        let mut route = Route::to(destination);
        if let Some(prefiller) = prefill.remote() {
            let headers = [gateway::PREFILLER, gateway::OLD_PREFILLER];
            route.extras_mut().set_headers.extend(headers.map(|name| (name, prefiller.endpoint.to_string())));
        }
        if self.primary_port.is_some() {
            route.extras_mut().set_headers.push((gateway::DATA_PARALLEL, endpoint.to_owned()));
        }
        route
    }

    /// Where requests for an endpoint are sent.
    fn address<'e>(&self, endpoint: &'e str) -> Cow<'e, str> {
        match (self.primary_port, endpoint.rsplit_once(':')) {
            (Some(port), Some((host, _))) => Cow::Owned(format!("{host}:{port}")),
            _ => Cow::Borrowed(endpoint),
        }
    }

    /// Which requests have their prefill on another endpoint, if any do.
    pub fn decider(&self) -> Option<Decider> {
        self.prefill.as_ref().map(|(_, decider)| *decider)
    }

    /// The schedulers that know an endpoint.
    pub fn schedulers_of(&self, endpoint: &str) -> impl Iterator<Item = &Arc<Scheduler>> {
        self.all().filter(move |profile| profile.knows(endpoint)).map(|profile| &profile.scheduler)
    }

    /// Whether any profile picks among endpoints like this one.
    pub fn selects(&self, endpoint: &Endpoint) -> bool {
        self.all().any(|profile| profile.endpoints.selects(endpoint))
    }

    /// Whether requests go to endpoints like this one.
    pub fn serves(&self, endpoint: &Endpoint) -> bool {
        self.first.endpoints.selects(endpoint)
    }

    /// Makes these the only endpoints, each in the profiles that select it.
    ///
    /// # Errors
    ///
    /// What [`Scheduler::set_endpoints`] refuses.
    pub fn set_endpoints(&self, endpoints: &[Endpoint]) -> Result<(), Error> {
        self.all().try_for_each(|profile| profile.set_endpoints(endpoints))
    }

    /// Gives an endpoint that is there other labels, by which it stays in its profiles.
    ///
    /// # Errors
    ///
    /// What [`Scheduler::add_endpoint`] refuses.
    pub fn relabel(&self, endpoint: &Endpoint) -> Result<(), Error> {
        self.schedulers_of(&endpoint.name).try_for_each(|scheduler| scheduler.add_endpoint(endpoint.clone()))
    }

    /// Forgets everything that is known of an endpoint that is there.
    ///
    /// # Errors
    ///
    /// What [`Scheduler::add_endpoint`] refuses.
    pub fn forget(&self, endpoint: &Endpoint) -> Result<(), Error> {
        self.schedulers_of(&endpoint.name).try_for_each(|scheduler| {
            scheduler.remove_endpoint(&endpoint.name)?;
            scheduler.add_endpoint(endpoint.clone())
        })
    }

    /// Picks for a request: an endpoint that serves it, and another one for its prefill where the decider wants that.
    ///
    /// # Errors
    ///
    /// Those of [`Scheduler::pick`] for the endpoint that serves.
    pub fn pick(&self, request: &Request, now: u64) -> Result<Picks, Error> {
        let picks = self.run(|scheduler| scheduler.pick(request, now))?;
        if picks.prefill.remote().is_some() {
            // At the instant of the pick nothing is learned from it but that no prefill waits here.
            self.scheduler().first_token(picks.decision.id, now)?;
        }
        Ok(picks)
    }

    /// What [`pick`](Self::pick) would answer now, with explanations; records nothing.
    ///
    /// # Errors
    ///
    /// Those of [`pick`](Self::pick).
    pub fn explain(&self, request: &Request, now: u64) -> Result<Picks, Error> {
        self.run(|scheduler| scheduler.explain(request, now))
    }

    /// Takes note of the first token of a request, which ends its prefill.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownRequest`] if these profiles did not pick for it.
    pub fn first_token(&self, booking: &Booking, now: u64) -> Result<(), Error> {
        match (&self.prefill, booking.prefill) {
            (Some((profile, _)), Some(id)) => {
                profile.scheduler.first_token(id, now)?;
                profile.scheduler.complete(id, Outcome::success(), now)
            }
            _ => self.scheduler().first_token(booking.id, now),
        }
    }

    /// Takes note of the end of a request.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownRequest`] if these profiles did not pick for it.
    pub fn complete(&self, booking: &Booking, mut outcome: Outcome, now: u64) -> Result<(), Error> {
        if let (Some((profile, _)), Some(id)) = (&self.prefill, booking.prefill) {
            profile.scheduler.complete(
                id,
                Outcome { success: outcome.success, ..Outcome::default() },
                now,
            )?;
            // The engine counts what came from the prefill endpoint, which says nothing about its own cache.
            outcome.cached_tokens = None;
        }
        if self.primary_port.is_some() {
            // The sidecar's address, behind which any of its ranks may have served.
            outcome.served_by = None;
        }
        self.scheduler().complete(booking.id, outcome, now)
    }

    /// What all schedulers know, as one picture; an endpoint of several profiles is in it once.
    pub fn stats(&self, now: u64) -> Stats {
        let mut stats = self.scheduler().stats(now);
        if let Some(prefill) = self.prefill_scheduler() {
            stats::add(&mut stats, prefill.stats(now));
        }
        stats
    }

    /// Whether any endpoint that serves requests is in the subset.
    pub fn offers(&self, subset: Option<&[String]>) -> bool {
        self.first.offers(subset)
    }

    /// How close the endpoints are to having more to do than they should; the profile that is closest counts, where the
    /// subset leaves it any endpoint.
    pub fn saturation(&self, limits: &SaturationLimits, subset: Option<&[String]>, now: u64) -> f64 {
        let serving = self.scheduler().saturation(limits, subset, now);
        let prefill =
            self.prefill.iter().map(|(profile, _)| profile).filter(|profile| profile.offers(subset));
        let saturations = prefill.map(|profile| profile.scheduler.saturation(limits, subset, now));
        saturations.fold(serving, f64::max)
    }

    /// Reads an engine's metrics page for an endpoint.
    ///
    /// # Errors
    ///
    /// Those of [`Scheduler::ingest_metrics`].
    pub fn ingest_metrics(&self, endpoint: &str, page: &[u8], now: u64) -> Result<(), Error> {
        self.schedulers_of(endpoint).try_for_each(|scheduler| scheduler.ingest_metrics(endpoint, page, now))
    }

    /// Takes note that a scrape of an endpoint failed.
    ///
    /// # Errors
    ///
    /// Those of [`Scheduler::scrape_failed`].
    pub fn scrape_failed(&self, endpoint: &str, failure: ScrapeFailure, now: u64) -> Result<(), Error> {
        self.schedulers_of(endpoint).try_for_each(|scheduler| scheduler.scrape_failed(endpoint, failure, now))
    }

    /// Applies a batch of KV events of an endpoint.
    ///
    /// # Errors
    ///
    /// Those of [`Scheduler::apply_kv_batch`].
    pub fn apply_kv_batch(
        &self,
        endpoint: &str,
        batch: &KvEventBatch,
        now: u64,
    ) -> Result<KvBatchOutcome, Error> {
        let mut outcome = Err(Error::UnknownEndpoint(endpoint.to_owned()));
        for scheduler in self.schedulers_of(endpoint) {
            let applied = scheduler.apply_kv_batch(endpoint, batch, now);
            // What one of them misses has to be repeated; the others know it then.
            if !matches!(outcome, Ok(KvBatchOutcome::Gap { .. })) {
                outcome = applied;
            }
        }
        outcome
    }

    /// Goes on after missing batches of KV events that cannot be repeated.
    ///
    /// # Errors
    ///
    /// Those of [`Scheduler::resume_kv_events`].
    pub fn resume_kv_events(&self, endpoint: &str, rank: u32, next: u64) -> Result<(), Error> {
        self.schedulers_of(endpoint)
            .try_for_each(|scheduler| scheduler.resume_kv_events(endpoint, rank, next))
    }

    fn all(&self) -> impl Iterator<Item = &Profile> {
        std::iter::once(&self.first).chain(self.prefill.as_ref().map(|(profile, _)| profile))
    }

    fn run(&self, pick: impl Fn(&Scheduler) -> Result<Decision, Error>) -> Result<Picks, Error> {
        let decision = pick(&self.first.scheduler)?;
        let prefill = match &self.prefill {
            None => Prefill::NotConfigured,
            Some((_, decider)) if !decider.wants_prefill(&decision) => Prefill::Local,
            Some((profile, _)) => pick(&profile.scheduler).map_or(Prefill::Unavailable, Prefill::Remote),
        };
        Ok(Picks { decision, prefill })
    }
}

/// The bookings of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Booking {
    /// At the endpoint that serves it.
    pub id: u64,
    /// At the endpoint that does its prefill, if that is another one.
    pub prefill: Option<u64>,
}

impl Picks {
    /// The pick of the endpoint that does the prefill, which is where the cached part of the prompt counts.
    pub fn prefilled_by(&self) -> &Decision {
        self.prefill.remote().unwrap_or(&self.decision)
    }

    /// What was booked for the request.
    pub fn booking(&self) -> Booking {
        Booking { id: self.decision.id, prefill: self.prefill.remote().map(|decision| decision.id) }
    }
}

impl Profile {
    fn new(scheduler: Arc<Scheduler>, endpoints: LabelSelector) -> Self {
        Self { scheduler, endpoints, members: RwLock::default() }
    }

    fn knows(&self, endpoint: &str) -> bool {
        self.members.read().contains(endpoint)
    }

    fn offers(&self, subset: Option<&[String]>) -> bool {
        let is_offered = |member: &str| {
            subset.is_none_or(|subset| subset.iter().any(|entry| gateway::names_endpoint(entry, member)))
        };
        self.members.read().iter().any(|member| is_offered(member))
    }

    fn set_endpoints(&self, endpoints: &[Endpoint]) -> Result<(), Error> {
        let selected = endpoints.iter().filter(|endpoint| self.endpoints.selects(endpoint));
        let selected: Vec<Endpoint> = selected.cloned().collect();
        let names = selected.iter().map(|endpoint| Arc::clone(&endpoint.name)).collect();
        self.scheduler.set_endpoints(selected)?;
        *self.members.write() = names;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use p3sched::config::FilterConfig;
    use p3sched::filter::{reachable, subset};
    use p3sched::stats::EndpointStats;

    use super::*;
    use crate::label_selector::{Condition, Requirement};

    const SECOND: u64 = 1_000_000_000;

    fn role(values: &[&str]) -> LabelSelector {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        let mut selector = LabelSelector::default();
        selector.require(Requirement { label: "llm-d.ai/role".to_owned(), condition: Condition::In(values) });
        selector
    }

    fn profiles(decider: Decider, endpoints: &[(&str, &str)]) -> Profiles {
        let mut scheduler = SchedulerConfig::default();
        scheduler.filters = [subset::TYPE, reachable::TYPE].map(FilterConfig::new).to_vec();
        let prefill = PrefillSettings {
            name: "prefill".to_owned(),
            scheduler: scheduler.clone(),
            endpoints: role(&["prefill", "both"]),
            decider,
        };
        let settings = ProfileSettings {
            endpoints: role(&["decode", "both"]),
            prefill: Some(prefill),
            primary_port: None,
        };
        let profiles = Profiles::new(scheduler, settings).unwrap();
        let endpoint = |(name, role): &(&str, &str)| {
            let mut endpoint = Endpoint::new(*name);
            endpoint.labels.insert("llm-d.ai/role".to_owned(), (*role).to_owned());
            endpoint
        };
        profiles.set_endpoints(&endpoints.iter().map(endpoint).collect::<Vec<_>>()).unwrap();
        profiles
    }

    fn endpoint(profiles: &Profiles, name: &str, now: u64) -> EndpointStats {
        let stats = profiles.stats(now);
        stats.endpoints.into_iter().find(|stats| *stats.endpoint == *name).unwrap()
    }

    #[test]
    fn the_prefill_waits_where_it_is_done_and_its_rate_is_learned_there() {
        let profiles = profiles(
            Decider::UncachedTokens(100),
            &[("d:1", "decode"), ("p:1", "prefill"), ("p:2", "prefill")],
        );
        let request = Request::from_text("m", "x".repeat(4_096));
        let picks = profiles.pick(&request, 0).unwrap();
        let prefiller = picks.prefill.remote().unwrap().endpoint.clone();
        assert_eq!(&*picks.decision.endpoint, "d:1");
        assert!(prefiller.starts_with("p:"));
        assert_eq!(profiles.stats(0).requests_in_flight, 1);
        let waiting = |name: &str| {
            let stats = endpoint(&profiles, name, 0);
            (stats.queued_tokens, stats.requests_in_flight)
        };
        assert_eq!((waiting("d:1"), waiting(&prefiller)), ((0, 1), (1_024, 1)));

        profiles.first_token(&picks.booking(), SECOND).unwrap();
        assert_eq!((waiting("d:1"), waiting(&prefiller)), ((0, 1), (0, 0)));
        let learned = |name: &str| endpoint(&profiles, name, SECOND).prefill_tokens_per_second;
        assert_eq!((learned("d:1"), learned(&prefiller)), (None, Some(1_024.0)));

        let outcome = Outcome { cached_tokens: Some(1_024), ..Outcome::success() };
        profiles.complete(&picks.booking(), outcome, 2 * SECOND).unwrap();
        let decode = endpoint(&profiles, "d:1", SECOND);
        assert_eq!((decode.requests_in_flight, decode.actual_cached_tokens), (0, 0));

        let again = profiles.pick(&request, 3 * SECOND).unwrap();
        assert_eq!((again.prefill, again.decision.matched_tokens), (Prefill::Local, 1_024));
    }

    #[test]
    fn an_answer_whose_first_token_nobody_saw_ends_both_bookings() {
        let profiles = profiles(Decider::Always, &[("d:1", "decode"), ("p:1", "prefill")]);
        let picks = profiles.pick(&Request::from_text("m", "x"), 0).unwrap();
        profiles.complete(&picks.booking(), Outcome::success(), SECOND).unwrap();
        assert!(profiles.stats(SECOND).endpoints.iter().all(|endpoint| endpoint.requests_in_flight == 0));
    }

    #[test]
    fn without_an_endpoint_for_prefill_the_request_is_served_alone() {
        let profiles = profiles(Decider::Always, &[("d:1", "decode")]);
        let picks = profiles.pick(&Request::from_text("m", "x".repeat(4_000)), 0).unwrap();
        assert_eq!(
            (&picks.prefill, picks.prefill.decision_type()),
            (&Prefill::Unavailable, Some("decode-only"))
        );
        assert_eq!(endpoint(&profiles, "d:1", 0).queued_tokens, 1_000);
        assert_eq!(profiles.pick(&Request::default(), 0).unwrap().prefill, Prefill::Unavailable);
    }

    #[test]
    fn a_subset_without_an_endpoint_for_prefill_is_not_saturated() {
        let profiles = profiles(Decider::Always, &[("d:1", "decode"), ("p:1", "prefill")]);
        profiles.ingest_metrics("d:1", b"vllm:num_requests_waiting 0\n", 0).unwrap();
        profiles.ingest_metrics("p:1", b"vllm:num_requests_waiting 10\n", 0).unwrap();
        let limits = SaturationLimits::default();
        for (entry, offers, saturation) in [("d", true, 0.0), ("p:1", false, 2.0)] {
            let subset = [entry.to_owned()];
            assert_eq!(profiles.offers(Some(&subset)), offers, "{entry}");
            assert_eq!(profiles.saturation(&limits, Some(&subset), 0), saturation, "{entry}");
        }
        assert_eq!(profiles.saturation(&limits, None, 0), 2.0);
    }

    #[test]
    fn an_endpoint_of_both_profiles_is_one_endpoint() {
        let profiles = profiles(Decider::Always, &[("b:1", "both")]);
        profiles.ingest_metrics("b:1", b"vllm:num_requests_waiting 3\n", 0).unwrap();
        profiles.pick(&Request::from_text("m", "x".repeat(64)), 0).unwrap();
        let stats = profiles.stats(0);
        assert_eq!((stats.endpoints.len(), stats.requests_in_flight, stats.counters.picks), (1, 1, 1));
        let both = endpoint(&profiles, "b:1", 0);
        assert_eq!((both.waiting_requests, both.requests_in_flight, both.queued_tokens), (Some(3.0), 2, 16));
        assert_eq!(profiles.schedulers_of("b:1").count(), 2);
        assert_eq!(profiles.schedulers_of("x:1").count(), 0);
    }

    #[test]
    fn a_decider_compares_what_the_decode_endpoint_lacks() {
        for (decider, tokens, wants) in [
            (Decider::Always, 0, true),
            (Decider::UncachedTokens(17), 16, false),
            (Decider::UncachedTokens(16), 16, true),
            (Decider::PromptTokens(17), 16, false),
            (Decider::PromptTokens(16), 16, true),
        ] {
            let profiles = profiles(decider, &[("d:1", "decode"), ("p:1", "prefill")]);
            let request = Request::from_text("m", "x".repeat(4 * tokens));
            let picks = profiles.explain(&request, 0).unwrap();
            assert_eq!(picks.prefill.remote().is_some(), wants, "{decider:?}");
        }
    }
}
