//! Which endpoint served a session last.

use std::collections::VecDeque;

use ahash::AHashMap;

use super::state::nanoseconds;
use crate::scorer::session_affinity::{self, SessionAffinityScorer};
use crate::{Error, SchedulerConfig};

/// How many sessions that were used again may be passed over before one is forgotten for want of room.
const SECOND_CHANCES: usize = 8;

/// Sessions by the hash of their key; bounded, and forgotten some time after their last request.
#[derive(Debug)]
pub(crate) struct Sessions {
    ttl: u64,
    max_sessions: usize,
    by_key: AHashMap<u64, Session>,
    /// Every session once, with the time when it was put there: about in the order in which they expire.
    queue: VecDeque<(u64, u64)>,
}

#[derive(Debug, Clone, Copy)]
struct Session {
    endpoint: u32,
    endpoint_generation: u32,
    used_at: u64,
}

impl Sessions {
    /// What the configuration's session scorer asks for; `None` without one.
    pub(crate) fn from_config(config: &SchedulerConfig) -> Result<Option<Self>, Error> {
        let mut scorers = config.scorers.iter();
        let Some(scorer) = scorers.find(|scorer| scorer.scorer_type == session_affinity::TYPE) else {
            return Ok(None);
        };
        let scorer = SessionAffinityScorer::from_config(scorer)?;
        Ok(Some(Self::new(nanoseconds(scorer.ttl_seconds), scorer.max_sessions)))
    }

    /// Remembers at most `max_sessions`, each for `ttl` nanoseconds after its last request.
    pub(crate) fn new(ttl: u64, max_sessions: usize) -> Self {
        Self { ttl, max_sessions, by_key: AHashMap::new(), queue: VecDeque::new() }
    }

    /// Slot and generation of the endpoint that served this session last.
    pub(crate) fn endpoint(&self, key: u64, now: u64) -> Option<(u32, u32)> {
        let session = self.by_key.get(&key).filter(|session| !self.is_expired(session.used_at, now))?;
        Some((session.endpoint, session.endpoint_generation))
    }

    /// Takes note that an endpoint serves a session.
    pub(crate) fn record(&mut self, key: u64, endpoint: u32, endpoint_generation: u32, now: u64) {
        let session = Session { endpoint, endpoint_generation, used_at: now };
        if self.by_key.insert(key, session).is_none() {
            self.queue.push_back((key, now));
        }
        self.expire(now);
    }

    /// Drops what has expired, and the least recent sessions beyond the bound.
    fn expire(&mut self, now: u64) {
        let mut chances = SECOND_CHANCES;
        while let Some(&(key, queued_at)) = self.queue.front() {
            let is_full = self.by_key.len() > self.max_sessions;
            if !is_full && (chances == 0 || !self.is_expired(queued_at, now)) {
                return;
            }
            self.queue.pop_front();
            let used_at = self.by_key.get(&key).map_or(0, |session| session.used_at);
            let was_used_again = used_at > queued_at && !self.is_expired(used_at, now);
            if was_used_again && chances > 0 {
                chances -= 1;
                self.queue.push_back((key, used_at));
            } else {
                self.by_key.remove(&key);
            }
        }
    }

    fn is_expired(&self, used_at: u64, now: u64) -> bool {
        now.saturating_sub(used_at) > self.ttl
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_forgotten_after_its_last_request() {
        let mut sessions = Sessions::new(100, 10);
        sessions.record(1, 5, 2, 0);
        sessions.record(1, 6, 2, 80);
        assert_eq!(sessions.endpoint(1, 180), Some((6, 2)));
        assert_eq!(sessions.endpoint(1, 181), None);
        assert_eq!(sessions.endpoint(2, 0), None);
        sessions.record(2, 5, 2, 300);
        assert_eq!((sessions.by_key.len(), sessions.queue.len()), (1, 1));
    }

    #[test]
    fn the_bound_holds_and_recent_sessions_stay() {
        let mut sessions = Sessions::new(1_000_000, 100);
        for now in 0..10_000 {
            sessions.record(now % 5_000 + 1_000, 0, 0, now);
            sessions.record(7, 1, 0, now);
        }
        assert_eq!(sessions.endpoint(7, 10_000), Some((1, 0)));
        assert_eq!((sessions.by_key.len(), sessions.queue.len()), (100, 100));
    }
}
