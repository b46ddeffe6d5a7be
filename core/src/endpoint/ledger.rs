//! The ledger of work in flight: what own picks put on each endpoint and the engine has not finished.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use ahash::AHashMap;

/// One request between its pick and its completion.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Booking {
    /// Slot of the endpoint that was picked.
    pub(crate) endpoint: u32,
    /// Which occupant of the slot that was; slots are reused.
    pub(crate) endpoint_generation: u32,
    /// Prompt tokens.
    pub(crate) prompt_tokens: u32,
    /// Prompt tokens that the endpoint was expected to find in its cache.
    pub(crate) matched_tokens: u32,
    /// Uncached tokens booked on the endpoint right after this pick, this request's own included.
    pub(crate) queued_tokens: u64,
    /// Hash of the session's key; `None` if the request has no session.
    pub(crate) session: Option<u64>,
    /// When it was picked, in nanoseconds.
    pub(crate) picked_at: u64,
    /// Whether its prefill is still counted as waiting.
    pub(crate) awaits_first_token: bool,
}

impl Booking {
    /// Prompt tokens that have to be computed.
    pub(crate) fn uncached_tokens(&self) -> u64 {
        u64::from(self.prompt_tokens.saturating_sub(self.matched_tokens))
    }
}

/// A booking that nobody ended in time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Expired {
    /// No first token was reported in time; the prefill is taken as done.
    FirstToken(Booking),
    /// No completion was reported in time; the booking is gone.
    Request(Booking),
}

/// A booking, with the block hashes of its prompt where these are kept.
#[derive(Debug)]
struct Entry {
    booking: Booking,
    hashes: Vec<u64>,
}

/// All bookings by id, and when each expires.
#[derive(Debug)]
pub(crate) struct Ledger {
    next_id: u64,
    bookings: AHashMap<u64, Entry>,
    /// Ended bookings leave their entry behind until its time comes.
    expiries: BinaryHeap<Reverse<(u64, u64)>>,
}

impl Ledger {
    pub(crate) fn new() -> Self {
        // Ids start at 1 and stay below 2^53, so that JavaScript holds them as plain numbers.
        Self { next_id: 1, bookings: AHashMap::new(), expiries: BinaryHeap::new() }
    }

    /// How many requests are in flight.
    pub(crate) fn len(&self) -> usize {
        self.bookings.len()
    }

    /// Whether this id was ever handed out.
    pub(crate) fn was_issued(&self, id: u64) -> bool {
        (1..self.next_id).contains(&id)
    }

    /// Books a request and returns its id; its first token is expected before `first_token_deadline` (nanoseconds).
    /// `hashes` are kept until it ends; they may be empty.
    pub(crate) fn book(&mut self, booking: Booking, first_token_deadline: u64, hashes: Vec<u64>) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.bookings.insert(id, Entry { booking, hashes });
        self.expiries.push(Reverse((first_token_deadline, id)));
        id
    }

    /// Marks the first token of a request; `None` if it was marked before or is no longer in flight.
    pub(crate) fn first_token(&mut self, id: u64) -> Option<Booking> {
        let booking = &mut self.bookings.get_mut(&id)?.booking;
        if !booking.awaits_first_token {
            return None;
        }
        booking.awaits_first_token = false;
        Some(*booking)
    }

    /// Ends a request and returns the hashes kept with it; `None` if it is no longer in flight.
    pub(crate) fn complete(&mut self, id: u64) -> Option<(Booking, Vec<u64>)> {
        let entry = self.bookings.remove(&id);
        if self.bookings.is_empty() {
            self.expiries.clear();
        }
        entry.map(|entry| (entry.booking, entry.hashes))
    }

    /// Takes the next booking whose time has come; `request_timeout` is in nanoseconds after the pick.
    pub(crate) fn expire_next(&mut self, now: u64, request_timeout: u64) -> Option<Expired> {
        while let Some(&Reverse((deadline, id))) = self.expiries.peek() {
            if deadline > now {
                return None;
            }
            self.expiries.pop();
            let Some(Entry { booking, .. }) = self.bookings.get_mut(&id) else { continue };
            let end = booking.picked_at.saturating_add(request_timeout);
            if now >= end {
                return self.bookings.remove(&id).map(|entry| Expired::Request(entry.booking));
            }
            self.expiries.push(Reverse((end, id)));
            if std::mem::take(&mut booking.awaits_first_token) {
                return Some(Expired::FirstToken(*booking));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: u64 = 1_000;

    fn booking(picked_at: u64) -> Booking {
        Booking {
            endpoint: 0,
            endpoint_generation: 0,
            prompt_tokens: 100,
            matched_tokens: 40,
            queued_tokens: 60,
            session: None,
            picked_at,
            awaits_first_token: true,
        }
    }

    #[test]
    fn first_token_and_complete_count_once() {
        let mut ledger = Ledger::new();
        let id = ledger.book(booking(0), 10, Vec::new());
        assert_eq!(ledger.first_token(id).map(|b| b.uncached_tokens()), Some(60));
        assert_eq!(ledger.first_token(id), None);
        assert!(ledger.complete(id).is_some());
        assert_eq!(ledger.complete(id), None);
        assert!(ledger.was_issued(id) && !ledger.was_issued(id + 1) && !ledger.was_issued(0));
        assert_eq!(ledger.len(), 0);
    }

    #[test]
    fn an_unreported_request_expires_in_two_steps() {
        let mut ledger = Ledger::new();
        ledger.book(booking(0), 10, Vec::new());
        assert_eq!(ledger.expire_next(9, TIMEOUT), None);
        assert!(matches!(ledger.expire_next(10, TIMEOUT), Some(Expired::FirstToken(_))));
        assert_eq!(ledger.expire_next(10, TIMEOUT), None);
        assert_eq!(ledger.len(), 1);
        assert!(matches!(ledger.expire_next(TIMEOUT, TIMEOUT), Some(Expired::Request(_))));
        assert_eq!(ledger.len(), 0);
    }

    #[test]
    fn a_reported_first_token_does_not_expire_again() {
        let mut ledger = Ledger::new();
        let id = ledger.book(booking(0), 10, Vec::new());
        ledger.first_token(id);
        assert_eq!(ledger.expire_next(500, TIMEOUT), None);
        assert!(matches!(ledger.expire_next(5_000, TIMEOUT), Some(Expired::Request(_))));
    }
}
