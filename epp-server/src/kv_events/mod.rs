//! What engines say about their KV caches: their event sockets, read into the scheduler.
//!
//! Engines publish numbered batches over `ZeroMQ`, one stream per data-parallel rank: either to a port of this server, which
//! all of them connect to, or on a port of their own, which this server connects to. A stream with a gap is filled from the
//! engine's replay port, or what the rank holds is forgotten; nothing that an engine sends ends anything but its connection.

mod settings;
mod stream;
mod zmtp;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use p3sched::Endpoint;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

use crate::admin::metrics::Metrics;
use crate::discovery::Pool;

use self::stream::{EventStream, Message};
use self::zmtp::{Connection, Role, ZmtpError};

pub use self::settings::{BindAddress, KvEventSettings};

/// Engines that may be connected to the port of this server at the same time.
const MAX_CONNECTIONS: usize = 8_192;
/// Data-parallel ranks of an engine that connects: a peer only claims them, and each takes memory.
const MAX_RANKS: u32 = 1_024;
/// Pauses between two attempts to connect to an engine: from the first to the last, doubling.
const RECONNECT: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];

/// Reads the events of all endpoints of one or more pools.
pub struct KvEvents {
    settings: KvEventSettings,
    listener: Option<TcpListener>,
    reader: Reader,
}

impl KvEvents {
    /// A reader that has not started; `listener` is open where `settings` say so.
    pub fn new(
        settings: KvEventSettings,
        listener: Option<TcpListener>,
        pools: Vec<Arc<Pool>>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let reader = Reader {
            pools: pools.into(),
            metrics,
            topic: settings.topic.as_str().into(),
            replay_port: settings.replay_port,
        };
        Self { settings, listener, reader }
    }

    /// Reads until the task is dropped, and follows the changes of the pools.
    pub async fn run(self) {
        let Self { settings, listener, reader } = self;
        let accept = async {
            match listener {
                Some(listener) => accept(listener, reader.clone()).await,
                None => std::future::pending().await,
            }
        };
        let mut following = JoinSet::new();
        if let Some(port) = settings.port {
            for pool in &*reader.pools {
                following.spawn(follow_pool(Arc::clone(pool), settings.clone(), port, reader.clone()));
            }
        }
        accept.await;
    }
}

/// What every connection needs.
#[derive(Clone)]
struct Reader {
    pools: Arc<[Arc<Pool>]>,
    metrics: Arc<Metrics>,
    topic: Arc<str>,
    replay_port: Option<u16>,
}

impl Reader {
    fn stream(
        &self,
        pool: &Arc<Pool>,
        endpoint: &Arc<str>,
        rank: u32,
        replay: Option<SocketAddr>,
    ) -> EventStream {
        let (pool, metrics) = (Arc::clone(pool), Arc::clone(&self.metrics));
        EventStream::new(pool, metrics, Arc::clone(endpoint), rank, replay)
    }

    /// Reads from an engine that has connected; its topics and batches say which endpoint and rank it is.
    async fn read_accepted(&self, stream: TcpStream) -> Result<(), ZmtpError> {
        let mut connection = Connection::accept(stream, Role::Subscriber).await?;
        connection.subscribe(&self.topic).await?;
        // By number of the pool, endpoint and rank.
        let mut streams: HashMap<(usize, Arc<str>, u32), EventStream> = HashMap::new();
        loop {
            let frames = connection.receive().await?;
            let Some(message) = Message::read(&frames) else {
                self.metrics.kv_event_batch("malformed");
                continue;
            };
            let Ok(batch) = p3sched::KvEventBatch::decode(message.payload, message.sequence) else {
                self.metrics.kv_event_batch("malformed");
                continue;
            };
            if batch.rank >= MAX_RANKS {
                self.metrics.kv_event_batch("malformed");
                continue;
            }
            let Some(topic) = Topic::read(message.topic) else {
                self.metrics.kv_event_batch("unknown_topic");
                continue;
            };
            let mut is_known = false;
            for (number, pool) in self.pools.iter().enumerate() {
                let Some(endpoint) = topic.endpoint(&pool.endpoints(), batch.rank) else { continue };
                is_known = true;
                let key = (number, endpoint, batch.rank);
                let stream = streams.entry(key).or_insert_with_key(|(_, endpoint, rank)| {
                    self.stream(pool, endpoint, *rank, offset_address(endpoint, self.replay_port, *rank))
                });
                stream.learn_model(topic.model).await;
                stream.take(&batch).await;
            }
            if !is_known {
                self.metrics.kv_event_batch("unknown_endpoint");
            }
        }
    }

    /// Reads from an engine's own port, and connects again whenever the connection ends.
    async fn read_publisher(self, pool: Arc<Pool>, publisher: Publisher) {
        let Publisher { endpoint, rank, events, replay } = publisher;
        let mut stream = self.stream(&pool, &endpoint, rank, replay);
        let [first_pause, longest_pause] = RECONNECT;
        let mut pause = first_pause;
        let mut is_reported = false;
        loop {
            let error = match Connection::connect(events, Role::Subscriber).await {
                Ok(connection) => {
                    tracing::info!(%endpoint, address = %events, "KV events are read");
                    (pause, is_reported) = (first_pause, false);
                    self.read_connected(connection, &mut stream).await
                }
                Err(error) => error,
            };
            if !is_reported {
                tracing::warn!(%endpoint, address = %events, %error, "KV events cannot be read, trying again");
            }
            is_reported = true;
            sleep(pause).await;
            pause = (2 * pause).min(longest_pause);
        }
    }

    async fn read_connected(&self, mut connection: Connection, stream: &mut EventStream) -> ZmtpError {
        if let Err(error) = connection.subscribe(&self.topic).await {
            return error;
        }
        stream.catch_up().await;
        loop {
            let frames = match connection.receive().await {
                Ok(frames) => frames,
                Err(error) => return error,
            };
            let Some(message) = Message::read(&frames) else {
                self.metrics.kv_event_batch("malformed");
                continue;
            };
            if let Some(topic) = Topic::read(message.topic) {
                stream.learn_model(topic.model).await;
            }
            if let Some(batch) = stream.decode(&message) {
                stream.take(&batch).await;
            }
        }
    }
}

async fn accept(listener: TcpListener, reader: Reader) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) if connections.len() < MAX_CONNECTIONS => {
                    let reader = reader.clone();
                    connections.spawn(async move {
                        if let Err(error) = reader.read_accepted(stream).await {
                            tracing::debug!(%peer, %error, "connection for KV events ended");
                        }
                    });
                }
                Ok((_, peer)) => tracing::warn!(%peer, "too many connections for KV events"),
                // Out of file descriptors, most likely: others have to close first.
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection for KV events");
                    sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_ended) = connections.join_next() => {}
        }
    }
}

async fn follow_pool(pool: Arc<Pool>, settings: KvEventSettings, port: u16, reader: Reader) {
    let mut endpoints = pool.watch();
    endpoints.mark_changed();
    let mut tasks = JoinSet::new();
    let mut running: HashMap<Publisher, AbortHandle> = HashMap::new();
    while endpoints.changed().await.is_ok() {
        let current = publishers(&endpoints.borrow_and_update(), &settings, port);
        running.retain(|publisher, task| {
            let stays = current.contains(publisher);
            if !stays {
                task.abort();
            }
            stays
        });
        for publisher in current {
            running.entry(publisher).or_insert_with_key(|publisher| {
                tasks.spawn(reader.clone().read_publisher(Arc::clone(&pool), publisher.clone()))
            });
        }
        while tasks.try_join_next().is_some() {}
    }
}

/// A rank of an endpoint's engine and where it publishes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Publisher {
    endpoint: Arc<str>,
    rank: u32,
    events: SocketAddr,
    replay: Option<SocketAddr>,
}

/// Every rank of every endpoint; ports count up over the ranks of an address.
fn publishers(endpoints: &[Endpoint], settings: &KvEventSettings, port: u16) -> Vec<Publisher> {
    let mut places: HashMap<IpAddr, u32> = HashMap::new();
    let mut publishers = Vec::new();
    for (address, endpoint) in by_address(endpoints) {
        let place = places.entry(address.ip()).or_default();
        for rank in 0..u32::from(settings.ranks) {
            let at = |port: u16| {
                Some(SocketAddr::new(address.ip(), port.checked_add(u16::try_from(*place).ok()?)?))
            };
            if let Some(events) = at(port) {
                let replay = settings.replay_port.and_then(at);
                publishers.push(Publisher { endpoint: Arc::clone(endpoint), rank, events, replay });
            }
            *place += 1;
        }
    }
    publishers
}

/// The endpoints with their addresses, in the order of these.
fn by_address(endpoints: &[Endpoint]) -> Vec<(SocketAddr, &Arc<str>)> {
    let addresses =
        endpoints.iter().filter_map(|endpoint| Some((endpoint.name.parse().ok()?, &endpoint.name)));
    let mut addresses: Vec<(SocketAddr, _)> = addresses.collect();
    addresses.sort();
    addresses
}

/// The address of an endpoint with another port, counted up by the rank.
fn offset_address(endpoint: &str, port: Option<u16>, rank: u32) -> Option<SocketAddr> {
    let address: SocketAddr = endpoint.parse().ok()?;
    Some(SocketAddr::new(address.ip(), port?.checked_add(u16::try_from(rank).ok()?)?))
}

/// What an engine calls its stream: `kv@<endpoint>@<model>`, with the endpoint as `ip:port` or as `ip`.
#[derive(Debug, PartialEq, Eq)]
struct Topic<'a> {
    endpoint: &'a str,
    model: &'a str,
}

impl<'a> Topic<'a> {
    fn read(topic: &'a [u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(topic).ok()?.splitn(3, '@');
        let (_kind, endpoint, model) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self { endpoint, model })
    }

    /// The endpoint of this topic and rank: ranks of one engine share their topic, and may be endpoints of their own.
    fn endpoint(&self, endpoints: &[Endpoint], rank: u32) -> Option<Arc<str>> {
        let (ip, port) = match self.endpoint.parse::<SocketAddr>() {
            Ok(address) => (address.ip(), Some(address.port())),
            Err(_) => (self.endpoint.trim_matches(['[', ']']).parse::<IpAddr>().ok()?, None),
        };
        let mut ranks = by_address(endpoints);
        ranks.retain(|(address, _)| address.ip() == ip);
        let first = ranks.first()?.0.port();
        let named = ranks.iter().find(|(address, _)| port.is_none_or(|port| port == address.port()))?;
        let by_rank = ranks.get(rank as usize).filter(|_| port.is_none_or(|port| port == first));
        Some(Arc::clone(by_rank.unwrap_or(named).1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(names: &[&str]) -> Vec<Endpoint> {
        names.iter().map(|name| Endpoint::new(*name)).collect()
    }

    #[test]
    fn topics_name_endpoints_with_or_without_port() {
        let pool = endpoints(&["10.0.0.1:8000", "10.0.0.2:8001", "10.0.0.2:8000", "[fd00::1]:8000"]);
        for (topic, rank, endpoint) in [
            ("kv@10.0.0.1:8000@llama", 0, Some("10.0.0.1:8000")),
            ("kv@10.0.0.1@llama", 0, Some("10.0.0.1:8000")),
            ("kv@10.0.0.1@llama", 3, Some("10.0.0.1:8000")),
            ("kv@10.0.0.2@llama", 1, Some("10.0.0.2:8001")),
            ("kv@10.0.0.2:8000@llama", 1, Some("10.0.0.2:8001")),
            ("kv@10.0.0.2:8001@llama", 1, Some("10.0.0.2:8001")),
            ("kv@10.0.0.2:8001@llama", 0, Some("10.0.0.2:8001")),
            ("kv@[FD00:0::1]:8000@llama", 0, Some("[fd00::1]:8000")),
            ("kv@fd00::1@llama", 0, Some("[fd00::1]:8000")),
            ("kv@10.0.0.1:8001@llama", 0, None),
            ("kv@10.0.0.3@llama", 0, None),
            ("kv@pod-0@llama", 0, None),
        ] {
            let topic = Topic::read(topic.as_bytes()).unwrap();
            assert_eq!(topic.endpoint(&pool, rank).as_deref(), endpoint, "{topic:?} {rank}");
            assert_eq!(topic.model, "llama");
        }
        assert_eq!(Topic::read(b"kv@a@meta/llama@3").unwrap().model, "meta/llama@3");
        assert_eq!(Topic::read(b"kv-events"), None);
        assert_eq!(Topic::read(b"\xff@a@b"), None);
    }

    #[test]
    fn ranks_of_an_address_publish_on_ports_that_count_up() {
        let pool = endpoints(&["10.0.0.1:8001", "10.0.0.1:8000", "10.0.0.2:8000"]);
        let shown = |ranks| -> Vec<String> {
            let settings = KvEventSettings { ranks, replay_port: Some(65_534), ..KvEventSettings::default() };
            let publishers = publishers(&pool, &settings, 5557);
            let shown = |p: &Publisher| {
                format!("{} {} {} {:?}", p.endpoint, p.rank, p.events.port(), p.replay.map(|a| a.port()))
            };
            publishers.iter().map(shown).collect()
        };
        assert_eq!(
            shown(1),
            [
                "10.0.0.1:8000 0 5557 Some(65534)",
                "10.0.0.1:8001 0 5558 Some(65535)",
                "10.0.0.2:8000 0 5557 Some(65534)"
            ]
        );
        let two = shown(2);
        assert_eq!(two.len(), 6);
        assert_eq!(&two[1..3], ["10.0.0.1:8000 1 5558 Some(65535)", "10.0.0.1:8001 0 5559 None"]);
    }
}
