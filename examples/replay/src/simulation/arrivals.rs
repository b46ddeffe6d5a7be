//! Which request comes when.

use std::collections::VecDeque;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Arrivals, Options};
use crate::trace::{SECOND, Trace};

/// A request of the trace in one of its repetitions; numbers count on from repetition to repetition.
pub(super) type Number = u64;

/// The requests that are still to come.
#[derive(Debug)]
pub(super) struct Source<'a> {
    trace: &'a Trace,
    arrivals: Arrivals,
    seed: u64,
    repeat: u64,
    /// The repetition that is under way, in the order of its arrivals: nanoseconds since its start, and the request.
    order: Vec<(u64, u32)>,
    next: usize,
    repetition: u64,
    /// Requests that follow each request, in a closed loop.
    followers: Vec<Vec<u32>>,
    /// What clients take from, in a closed loop.
    ready: VecDeque<Number>,
}

impl<'a> Source<'a> {
    pub(super) fn new(trace: &'a Trace, options: &Options) -> Self {
        let mut source = Self {
            trace,
            arrivals: options.arrivals,
            seed: options.seed,
            repeat: u64::from(options.repeat),
            order: Vec::new(),
            next: 0,
            repetition: 0,
            followers: Vec::new(),
            ready: VecDeque::new(),
        };
        if !matches!(options.arrivals, Arrivals::Open { .. }) {
            source.note_followers();
        }
        source.begin_repetition();
        source
    }

    /// The next request that comes by itself, and when.
    pub(super) fn next_by_time(&mut self) -> Option<(u64, Number)> {
        if matches!(self.arrivals, Arrivals::Clients { .. }) {
            return None;
        }
        if self.next == self.order.len() {
            self.repetition += 1;
            if self.repetition >= self.repeat {
                return None;
            }
            self.begin_repetition();
        }
        let &(at, request) = self.order.get(self.next)?;
        self.next += 1;
        let start = self.scaled(self.trace.duration()) * self.repetition;
        Some((start + at, self.number(request)))
    }

    /// The next request for a client that has nothing to do.
    pub(super) fn next_for_client(&mut self) -> Option<Number> {
        if !matches!(self.arrivals, Arrivals::Clients { .. }) {
            return None;
        }
        if self.next == self.order.len() && self.ready.is_empty() && self.repetition + 1 < self.repeat {
            self.repetition += 1;
            self.begin_repetition();
        }
        let Some(&(_, request)) = self.order.get(self.next) else { return self.ready.pop_front() };
        self.next += 1;
        Some(self.number(request))
    }

    /// The requests that an answer makes possible, each with its think time; for clients they are ready at once.
    pub(super) fn answered(&mut self, number: Number) -> Vec<(u64, Number)> {
        let length = self.trace.requests.len() as u64;
        let Some(followers) = self.followers.get((number % length) as usize) else { return Vec::new() };
        let first = number - number % length;
        let of = |&at: &u32| {
            let think_time = self.trace.requests.get(at as usize).map_or(0, |request| request.think_time);
            (think_time, first + u64::from(at))
        };
        let followers: Vec<_> = followers.iter().map(of).collect();
        if matches!(self.arrivals, Arrivals::Clients { .. }) {
            self.ready.extend(followers.into_iter().map(|(_, number)| number));
            return Vec::new();
        }
        followers
    }

    fn number(&self, request: u32) -> Number {
        self.repetition * self.trace.requests.len() as u64 + u64::from(request)
    }

    fn scaled(&self, time: u64) -> u64 {
        match self.arrivals {
            Arrivals::Open { speed, .. } | Arrivals::Sessions { speed } => (time as f64 / speed) as u64,
            Arrivals::Clients { .. } => time,
        }
    }

    /// Puts the requests of a repetition in order.
    fn begin_repetition(&mut self) {
        let open = match self.arrivals {
            Arrivals::Open { jitter, .. } => Some(jitter),
            _ => None,
        };
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        random.set_stream(self.repetition);
        let spread = if open == Some(true) { self.trace.resolution } else { 1 };
        let comes_by_itself =
            |request: &crate::trace::TraceRequest| open.is_some() || request.previous.is_none();
        let requests = (0..).zip(&self.trace.requests);
        self.order = requests
            .filter(|(_, request)| comes_by_itself(request))
            .map(|(at, request)| (self.scaled(request.arrival + random.random_range(0..spread)), at))
            .collect();
        self.order.sort_unstable();
        self.next = 0;
    }

    fn note_followers(&mut self) {
        self.followers = vec![Vec::new(); self.trace.requests.len()];
        for (at, request) in (0..).zip(&self.trace.requests) {
            let previous = request.previous.and_then(|before| self.followers.get_mut(before as usize));
            if let Some(followers) = previous {
                followers.push(at);
            }
        }
    }
}

/// Seconds as nanoseconds.
pub(super) fn nanoseconds(seconds: f64) -> u64 {
    (seconds * SECOND).max(0.0) as u64
}
