//! One numbered stream of event batches, from an engine into the scheduler.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use p3sched::{Error, KvBatchOutcome, KvEventBatch};
use tokio::time::Instant;

use super::Topic;
use super::zmtp::{Connection, Role, ZmtpError};
use crate::admin::metrics::Metrics;
use crate::clock;
use crate::discovery::Pool;

/// The number that ends a replay.
const END_OF_REPLAY: u64 = u64::MAX;
/// How long an engine that did not replay is not asked again.
const REPLAY_PAUSE: Duration = Duration::from_secs(10);

/// A message of an engine.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message<'a> {
    pub(super) topic: &'a [u8],
    pub(super) sequence: u64,
    pub(super) payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// Reads frames as engines send them, live (`topic`, number, payload) or replayed (with an empty frame before, and in
    /// old versions without the topic).
    pub(super) fn read(frames: &'a [Vec<u8>]) -> Option<Self> {
        let (payload, rest) = frames.split_last()?;
        let (sequence, rest) = rest.split_last()?;
        let sequence = u64::from_be_bytes(sequence.as_slice().try_into().ok()?);
        let topic = rest.last().map_or(&[][..], Vec::as_slice);
        Some(Self { topic, sequence, payload })
    }
}

/// What one data-parallel rank of an endpoint's engine publishes.
pub(super) struct EventStream {
    pool: Arc<Pool>,
    metrics: Arc<Metrics>,
    endpoint: Arc<str>,
    rank: u32,
    /// Where missing batches are repeated.
    replay: Option<SocketAddr>,
    /// Number after that of the last applied batch.
    next: u64,
    no_replay_before: Instant,
    /// Whether batches were replayed before anything said which model they belong to.
    model_was_unknown: bool,
    has_complained: bool,
}

impl EventStream {
    pub(super) fn new(
        pool: Arc<Pool>,
        metrics: Arc<Metrics>,
        endpoint: Arc<str>,
        rank: u32,
        replay: Option<SocketAddr>,
    ) -> Self {
        Self {
            pool,
            metrics,
            endpoint,
            rank,
            replay,
            next: 0,
            no_replay_before: Instant::now(),
            model_was_unknown: false,
            has_complained: false,
        }
    }

    /// Takes note of the model that a topic names. What was replayed before it was known is read once more.
    pub(super) async fn learn_model(&mut self, model: &str) {
        self.pool.learn_model(&self.endpoint, model);
        if std::mem::take(&mut self.model_was_unknown) {
            self.resume(0);
            self.replay_from(0).await;
        }
    }

    /// Reads the payload of a message; what cannot be read is counted.
    pub(super) fn decode(&mut self, message: &Message<'_>) -> Option<KvEventBatch> {
        match KvEventBatch::decode(message.payload, message.sequence) {
            Ok(batch) => Some(KvEventBatch { rank: self.rank, ..batch }),
            Err(error) => {
                self.metrics.kv_event_batch("malformed");
                self.complain(&error);
                None
            }
        }
    }

    /// Applies a batch, after those that are missing before it. If nobody repeats them, what the rank holds is forgotten.
    pub(super) async fn take(&mut self, batch: &KvEventBatch) {
        let Some(expected) = self.apply(batch) else { return };
        self.replay_from(expected).await;
        let mut result = "replayed";
        if self.apply(batch).is_some() {
            result = "lost";
            self.resume(batch.sequence);
            self.apply(batch);
        }
        self.metrics.kv_event_gap(result);
        tracing::info!(
            endpoint = %self.endpoint, rank = self.rank, expected, came = batch.sequence, result, "KV events were missing"
        );
    }

    /// Applies what was published since the last batch, or before this server was there.
    pub(super) async fn catch_up(&mut self) {
        self.replay_from(self.next).await;
    }

    async fn replay_from(&mut self, first: u64) {
        let Some(address) = self.replay.filter(|_| Instant::now() >= self.no_replay_before) else { return };
        if let Err(error) = self.try_replay(address, first).await {
            self.no_replay_before = Instant::now() + REPLAY_PAUSE;
            tracing::warn!(endpoint = %self.endpoint, %address, %error, "KV events cannot be replayed");
        }
    }

    async fn try_replay(&mut self, address: SocketAddr, first: u64) -> Result<(), ZmtpError> {
        let mut connection = Connection::connect(address, Role::Dealer).await?;
        connection.send(&[b"", &first.to_be_bytes()]).await?;
        loop {
            let frames = connection.answer().await?;
            let Some(message) = Message::read(&frames) else {
                self.metrics.kv_event_batch("malformed");
                continue;
            };
            if message.sequence == END_OF_REPLAY {
                return Ok(());
            }
            match Topic::read(message.topic) {
                Some(topic) => self.pool.learn_model(&self.endpoint, topic.model),
                None => self.model_was_unknown |= !self.pool.knows_model(&self.endpoint),
            }
            let Some(batch) = self.decode(&message) else { continue };
            // Engines repeat the last batches only; older ones are lost.
            if self.apply(&batch).is_some() {
                self.resume(batch.sequence);
                self.apply(&batch);
            }
        }
    }

    /// The number that was expected, if batches are missing before this one.
    fn apply(&mut self, batch: &KvEventBatch) -> Option<u64> {
        let result = match self.pool.profiles().apply_kv_batch(&self.endpoint, batch, clock::now()) {
            Ok(KvBatchOutcome::Gap { expected }) => return Some(expected),
            Ok(KvBatchOutcome::Repeated) => "repeated",
            Ok(_applied) => {
                self.next = batch.sequence.saturating_add(1);
                "applied"
            }
            Err(Error::UnknownEndpoint(_)) => "unknown_endpoint",
            Err(error) => {
                self.complain(&error);
                self.resume(batch.sequence.saturating_add(1));
                "refused"
            }
        };
        self.metrics.kv_event_batch(result);
        None
    }

    fn resume(&mut self, next: u64) {
        self.next = next;
        if let Err(gone) = self.pool.profiles().resume_kv_events(&self.endpoint, self.rank, next) {
            tracing::debug!(%gone, "endpoint left while its events were read");
        }
    }

    /// Engines repeat their mistakes with every batch.
    fn complain(&mut self, error: &Error) {
        if !self.has_complained {
            self.has_complained = true;
            tracing::warn!(endpoint = %self.endpoint, rank = self.rank, %error, "KV events are left out");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_all_releases_are_read() {
        let number = 7u64.to_be_bytes().to_vec();
        let message = |topic| Some(Message { topic, sequence: 7, payload: b"x" });
        let frames = |before: &[&[u8]]| -> Vec<Vec<u8>> {
            let before = before.iter().map(|frame| frame.to_vec());
            before.chain([number.clone(), b"x".to_vec()]).collect()
        };
        assert_eq!(Message::read(&frames(&[b"kv@a@b"])), message(&b"kv@a@b"[..]));
        assert_eq!(Message::read(&frames(&[b"", b"kv@a@b"])), message(b"kv@a@b"));
        assert_eq!(Message::read(&frames(&[b""])), message(b""));
        assert_eq!(Message::read(&frames(&[])), message(b""));
        assert_eq!(Message::read(&[b"x".to_vec()]), None);
        assert_eq!(Message::read(&[b"1234567".to_vec(), b"x".to_vec()]), None);
    }
}
