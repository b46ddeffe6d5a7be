//! The end of the server, as the open streams see it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

/// Tells the open streams that the server ends, and counts what becomes of them.
#[derive(Default)]
pub struct Closing {
    begun: AtomicBool,
    streams: Arc<Notify>,
    refused: AtomicUsize,
    left: AtomicUsize,
}

impl Closing {
    /// Wakes every open stream to its end.
    pub fn begin(&self) {
        self.begun.store(true, Ordering::Release);
        self.streams.notify_waiters();
    }

    /// Whether the server ends.
    pub fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }

    /// Done when the server ends.
    pub fn notified(&self) -> OwnedNotified {
        Arc::clone(&self.streams).notified_owned()
    }

    /// Counts a request that could not be picked for any more.
    pub fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a picked request whose response the gateway passes on by itself.
    pub fn left(&self) {
        self.left.fetch_add(1, Ordering::Relaxed);
    }

    /// How many requests were refused and how many left to the gateway.
    pub fn counts(&self) -> (usize, usize) {
        (self.refused.load(Ordering::Relaxed), self.left.load(Ordering::Relaxed))
    }
}
