//! From what was seen of a request to a decision or a refusal: the one scheduler of a filter configuration.

use std::sync::Arc;

use p3sched::gateway::{Refusal, RequestHead};
use p3sched::{Decision, Error, Outcome, Request, Scheduler};

use crate::settings::{FailureMode, Settings};

/// What happens to a request.
#[derive(Debug)]
pub enum Verdict {
    /// It goes to the endpoint of the decision.
    Picked(Decision),
    /// Envoy's own load balancer chooses: the scheduler has no answer, and a request is not refused for that.
    FailedOpen,
    /// The client is told why it is not served.
    Refused(Refusal),
}

/// A picked request until its response has ended.
#[derive(Debug)]
pub struct Pick {
    id: u64,
    /// Where it was sent.
    pub endpoint: Arc<str>,
}

impl Pick {
    /// What has to be kept of a decision.
    pub fn new(decision: &Decision) -> Self {
        Self { id: decision.id, endpoint: Arc::clone(&decision.endpoint) }
    }
}

/// The scheduler and how its answers are used; shared by all workers.
#[derive(Debug)]
pub struct Router {
    scheduler: Scheduler,
    settings: Settings,
    clock: fn() -> u64,
}

impl Router {
    /// A router over the endpoints that the settings list.
    ///
    /// # Errors
    ///
    /// The scheduler's configuration cannot work; the message says why.
    pub fn new(settings: Settings, clock: fn() -> u64) -> Result<Self, Error> {
        let scheduler = Scheduler::new(settings.scheduler.clone())?;
        scheduler.set_endpoints(settings.endpoints())?;
        Ok(Self { scheduler, settings, clock })
    }

    /// What the filter was told.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The scheduler.
    pub fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }

    /// The time in nanoseconds.
    pub fn now(&self) -> u64 {
        (self.clock)()
    }

    /// Picks an endpoint; without a readable body only load decides.
    ///
    /// A subset hint is always obeyed: such a request is never left to Envoy's load balancer.
    pub fn pick(&self, head: &RequestHead, body: Option<&[u8]>, subset: Option<Vec<String>>) -> Verdict {
        let mut request = match body {
            Some(body) if !head.opaque_body => match Request::from_body(&head.path, body) {
                Ok(request) => request,
                Err(error) => return Verdict::Refused(Refusal::from_error(&error)),
            },
            _ => Request::default(),
        };
        if let Some(session) = &head.session {
            request.session = Some(session.clone());
        }
        request.subset = subset;
        request.explain = self.settings.explanation;
        match self.scheduler.pick(&request, self.now()) {
            Ok(decision) => Verdict::Picked(decision),
            Err(_) if self.fails_open() && request.subset.is_none() => Verdict::FailedOpen,
            Err(error) => Verdict::Refused(Refusal::from_error(&error)),
        }
    }

    /// Whether requests pass when this module cannot say where to.
    pub fn fails_open(&self) -> bool {
        self.settings.failure_mode == FailureMode::FailOpen
    }

    /// Notes the first token of an answer.
    pub fn first_token(&self, pick: &Pick) {
        // The booking may have expired, which is how it should be when an answer took that long.
        let _ = self.scheduler.first_token(pick.id, self.now());
    }

    /// Notes the end of an answer.
    pub fn complete(&self, pick: &Pick, outcome: Outcome) {
        // As above.
        let _ = self.scheduler.complete(pick.id, outcome, self.now());
    }
}
