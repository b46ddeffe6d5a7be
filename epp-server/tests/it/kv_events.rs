//! Engines' event sockets, with what real engines sent and another implementation of `ZeroMQ` on their side.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use epp_server::admin::metrics::Metrics;
use epp_server::clock;
use epp_server::discovery::Pool;
use epp_server::kv_events::{KvEventSettings, KvEvents};
use p3sched::{KvBatchOutcome, KvEventBatch, Request, Scheduler};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;
use zeromq::{PubSocket, RouterSocket, Socket, SocketRecv, SocketSend, ZmqMessage};

use crate::support;

const ENDPOINT: &str = "127.0.0.1:8100";

/// A message as an engine sent it.
#[derive(Clone)]
struct Captured {
    topic: Vec<u8>,
    sequence: u64,
    payload: Vec<u8>,
}

impl Captured {
    fn frames(&self) -> Vec<Vec<u8>> {
        vec![self.topic.clone(), self.sequence.to_be_bytes().to_vec(), self.payload.clone()]
    }
}

fn captured(name: &str) -> Vec<Captured> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../core/testdata/kv-events");
    let text = std::fs::read_to_string(folder.join(name)).unwrap();
    let messages = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let [topic, sequence, payload] = line.split(' ').collect::<Vec<_>>().try_into().ok()?;
        let bytes = |hex: &str| -> Vec<u8> {
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
        };
        let sequence = u64::from_str_radix(sequence, 16).ok()?;
        Some(Captured { topic: bytes(topic), sequence, payload: bytes(payload) })
    });
    messages.collect()
}

/// A message that clears the cache, of any time.
fn cleared(sequence: u64, seconds: f64) -> Captured {
    let mut payload = vec![0x92, 0xcb];
    payload.extend(seconds.to_be_bytes());
    payload.extend(b"\x91\x91\xb0AllBlocksCleared");
    Captured { topic: b"kv@127.0.0.1:8100@tiny".to_vec(), sequence, payload }
}

fn message(frames: Vec<Vec<u8>>) -> ZmqMessage {
    let frames: Vec<Bytes> = frames.into_iter().map(Bytes::from).collect();
    ZmqMessage::try_from(frames).unwrap()
}

/// A scheduler that was told the same without a socket.
fn told(messages: &[Captured]) -> Arc<Scheduler> {
    let pool = support::pool(&[ENDPOINT]);
    for message in messages {
        let batch = KvEventBatch::decode(&message.payload, message.sequence).unwrap();
        // A capture may begin in the middle of a stream.
        while let KvBatchOutcome::Gap { .. } = pool.scheduler().apply_kv_batch(ENDPOINT, &batch, 0).unwrap() {
            pool.scheduler().resume_kv_events(ENDPOINT, batch.rank, batch.sequence).unwrap();
        }
    }
    Arc::clone(pool.scheduler())
}

fn counts(scheduler: &Scheduler) -> (usize, u64, u64) {
    let stats = scheduler.stats(clock::now());
    (stats.endpoints[0].index_blocks, stats.counters.kv_events, stats.counters.kv_event_restarts)
}

/// A pool whose engines' events are read.
struct Picker {
    pool: Arc<Pool>,
    metrics: Arc<Metrics>,
}

impl Picker {
    /// Reads from the engine's own port, or listens.
    async fn start(settings: KvEventSettings) -> (Self, u16) {
        let picker = Self { pool: support::pool(&[ENDPOINT]), metrics: Arc::new(Metrics::new()) };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let listener = settings.port.is_none().then_some(listener);
        let events =
            KvEvents::new(settings, listener, vec![Arc::clone(&picker.pool)], Arc::clone(&picker.metrics));
        tokio::spawn(events.run());
        (picker, port)
    }

    fn counts(&self) -> (usize, u64, u64) {
        counts(self.pool.scheduler())
    }

    fn counted(&self, line: &str) -> bool {
        self.metrics.page().unwrap().contains(line)
    }

    /// Sends a message until it has arrived: publishers drop what nobody has subscribed to yet.
    async fn first(&self, engine: &mut PubSocket, first: &Captured) {
        let before = self.counts().1;
        while self.counts().1 == before {
            engine.send(message(first.frames())).await.unwrap();
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Whether a prompt of the model `tiny` finds what these messages stored.
    fn matches_a_prompt_of(&self, messages: &[Captured]) -> bool {
        let batches = messages.iter().map(|m| KvEventBatch::decode(&m.payload, m.sequence).unwrap());
        let mut stored = batches.flat_map(|batch| batch.events).filter_map(|event| match event {
            p3sched::KvEvent::Stored(event) if event.parent.is_none() && event.adapter.is_none() => {
                Some(event)
            }
            _ => None,
        });
        stored.any(|event| {
            let request = Request::from_tokens("tiny", event.token_ids);
            self.pool.scheduler().explain(&request, clock::now()).unwrap().matched_tokens >= event.block_size
        })
    }

    /// Waits until the index is that of a scheduler which was told these messages.
    async fn holds_what(&self, messages: &[Captured]) {
        let expected = counts(&told(messages));
        support::eventually("the index of the events", || self.counts() == expected).await;
    }
}

async fn publisher(port: u16) -> (PubSocket, u16) {
    let mut engine = PubSocket::new();
    let zeromq::Endpoint::Tcp(_, port) = engine.bind(&format!("tcp://127.0.0.1:{port}")).await.unwrap()
    else {
        panic!("a port");
    };
    (engine, port)
}

fn reading(port: u16, replay_port: Option<u16>) -> KvEventSettings {
    KvEventSettings { port: Some(port), replay_port, ..KvEventSettings::default() }
}

/// Answers every request with what comes from there on, as engines do.
async fn replaying(messages: Vec<Captured>) -> u16 {
    let mut socket = RouterSocket::new();
    let zeromq::Endpoint::Tcp(_, port) = socket.bind("tcp://127.0.0.1:0").await.unwrap() else {
        panic!("a port");
    };
    tokio::spawn(async move {
        loop {
            let request = socket.recv().await.unwrap().into_vec();
            let [peer, empty, from] = request.as_slice() else { panic!("three frames: {request:?}") };
            let from = u64::from_be_bytes(from[..].try_into().unwrap());
            let mut send = async |frames: Vec<Vec<u8>>| {
                let head = vec![peer.to_vec(), empty.to_vec()];
                socket.send(message([head, frames].concat())).await.unwrap();
            };
            for captured in messages.iter().filter(|captured| captured.sequence >= from) {
                send(captured.frames()).await;
            }
            send(vec![Vec::new(), u64::MAX.to_be_bytes().to_vec(), Vec::new()]).await;
        }
    });
    port
}

#[tokio::test]
async fn engines_are_read_on_their_own_port() {
    for name in ["vllm-0.32.txt", "vllm-0.13.txt", "sglang-0.5.23.txt"] {
        let messages = captured(name);
        let (mut engine, port) = publisher(0).await;
        let (picker, _) = Picker::start(reading(port, None)).await;
        picker.first(&mut engine, &messages[0]).await;
        for captured in &messages[1..] {
            engine.send(message(captured.frames())).await.unwrap();
        }
        picker.holds_what(&messages).await;
        assert!(picker.counts().0 > 0, "{name}");
    }
}

#[tokio::test]
async fn engines_connect_and_say_who_they_are() {
    let messages = captured("vllm-0.32.txt");
    let (picker, port) = Picker::start(KvEventSettings::default()).await;

    // Neither another protocol, nor a frame of 2^60 bytes, nor a peer that says nothing ends the service.
    let mut noise = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    noise.write_all(&[b'x'; 64]).await.unwrap();
    let _silent = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let mut giant = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let mut greeting = [0; 64];
    giant.read_exact(&mut greeting).await.unwrap();
    giant.write_all(&greeting).await.unwrap();
    giant.write_all(b"\x04\x19\x05READY\x0bSocket-Type\0\0\0\x03PUB\x02").await.unwrap();
    giant.write_all(&(1u64 << 60).to_be_bytes()).await.unwrap();

    let mut engine = PubSocket::new();
    engine.connect(&format!("tcp://127.0.0.1:{port}")).await.unwrap();
    picker.first(&mut engine, &messages[0]).await;
    let topic = b"kv@127.0.0.1:8100@tiny".to_vec();
    let number = 1u64.to_be_bytes().to_vec();
    for frames in [
        vec![topic.clone()],
        vec![topic.clone(), b"1".to_vec(), Vec::new()],
        vec![topic.clone(), number.clone(), b"no MessagePack".to_vec()],
        vec![b"kv@10.9.9.9:1@tiny".to_vec(), number.clone(), messages[1].payload.clone()],
        vec![b"events".to_vec(), number, messages[1].payload.clone()],
    ] {
        engine.send(message(frames)).await.unwrap();
    }
    for captured in &messages[1..] {
        engine.send(message(captured.frames())).await.unwrap();
    }
    picker.holds_what(&messages).await;
    for line in [
        r#"kv_event_batches_total{result="malformed"} 3"#,
        r#"kv_event_batches_total{result="unknown_endpoint"} 1"#,
        r#"kv_event_batches_total{result="unknown_topic"} 1"#,
    ] {
        assert!(picker.counted(line), "{line}");
    }

    // The model is the topic's, and stays so when discovery names the endpoints anew.
    picker.pool.set(picker.pool.endpoints().to_vec()).unwrap();
    assert!(picker.matches_a_prompt_of(&messages));
}

#[tokio::test]
async fn a_picker_that_comes_late_catches_up() {
    let messages = captured("vllm-0.32.txt");
    let (_engine, port) = publisher(0).await;
    let (picker, _) = Picker::start(reading(port, Some(replaying(messages.clone()).await))).await;
    picker.holds_what(&messages).await;
    assert!(picker.matches_a_prompt_of(&messages));
}

#[tokio::test]
async fn what_is_replayed_without_a_topic_is_read_again_when_one_comes() {
    let messages = captured("vllm-0.32.txt");
    let (last, before) = messages.split_last().unwrap();
    let unnamed = before.iter().map(|captured| Captured { topic: Vec::new(), ..captured.clone() });
    let (mut engine, port) = publisher(0).await;
    let (picker, _) = Picker::start(reading(port, Some(replaying(unnamed.collect()).await))).await;
    picker.holds_what(before).await;
    assert!(!picker.matches_a_prompt_of(before));
    picker.first(&mut engine, last).await;
    support::eventually("prompts of the model", || picker.matches_a_prompt_of(before)).await;
}

#[tokio::test]
async fn what_is_missing_is_replayed() {
    let messages = captured("vllm-0.32.txt");
    let replay_port = Some(replaying(messages.clone()).await);
    let (picker, port) = Picker::start(KvEventSettings { replay_port, ..KvEventSettings::default() }).await;
    let mut engine = PubSocket::new();
    engine.connect(&format!("tcp://127.0.0.1:{port}")).await.unwrap();
    picker.first(&mut engine, &messages[0]).await;
    engine.send(message(messages[messages.len() / 2].frames())).await.unwrap();
    support::eventually("the gap", || picker.counted(r#"kv_event_gaps_total{result="replayed"} 1"#)).await;
    picker.holds_what(&messages).await;
}

#[tokio::test]
async fn what_nobody_replays_is_forgotten() {
    let messages = captured("vllm-0.32.txt");
    let (mut engine, port) = publisher(0).await;
    let (picker, _) = Picker::start(reading(port, None)).await;
    picker.first(&mut engine, &messages[0]).await;
    assert!(picker.counts().0 > 0);
    engine.send(message(cleared(40, 0.0).frames())).await.unwrap();
    support::eventually("the gap", || picker.counted(r#"kv_event_gaps_total{result="lost"} 1"#)).await;
    assert_eq!(picker.counts().0, 0);
    engine.send(message(cleared(41, 0.0).frames())).await.unwrap();
    support::eventually("the next batch", || picker.counted(r#"batches_total{result="applied"} 3"#)).await;
}

#[tokio::test]
async fn an_engine_that_restarts_is_found_again() {
    let messages = captured("vllm-0.32.txt");
    let (mut engine, port) = publisher(0).await;
    let (picker, _) = Picker::start(reading(port, None)).await;
    picker.first(&mut engine, &messages[0]).await;
    engine.send(message(messages[1].frames())).await.unwrap();
    picker.holds_what(&messages[..2]).await;
    assert!(engine.close().await.is_empty());
    let (mut engine, _) = publisher(port).await;
    picker.first(&mut engine, &cleared(0, 4e9)).await;
    assert_eq!((picker.counts().0, picker.counts().2), (0, 1));
}
