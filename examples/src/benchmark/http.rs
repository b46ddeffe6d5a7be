//! HTTP/1.1 with as little work as possible, so that what is measured is the proxy: backends and a closed-loop client.

use anyhow::{Context, Result, bail, ensure};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::time::sleep;

/// A page as a busy engine writes it.
const METRICS: &[u8] = include_bytes!("../../../core/testdata/metrics/vllm-0.32-under-load.txt");

/// An answer that is short, since engines write their own slowly.
const ANSWER: &[u8] = br#"{"id":"chatcmpl-1","object":"chat.completion","model":"tiny","choices":[{"index":0,"message":{"role":"assistant","content":"Yes."},"finish_reason":"stop"}],"usage":{"prompt_tokens":1024,"completion_tokens":2,"total_tokens":1026}}"#;

/// Ends a body that was sent in chunks.
const END_OF_CHUNKS: &str = "0\r\n\r\n";

/// Start of a page's line whose value is a single digit.
const CHANGING: &[u8] = b"\nvllm:num_requests_running{engine=\"0\",model_name=\"tiny\"} ";

/// What a request asks for its answer as events with.
const STREAM: &[u8] = b"\"stream\":true";

/// How a backend answers requests for a stream.
#[derive(Debug, Clone, Copy)]
pub struct Events {
    /// Events in an answer.
    pub count: u32,
    /// Time between two of them.
    pub period: Duration,
}

/// Serves on free ports until the program ends, all on one thread; the addresses.
///
/// Metrics pages are those of a busy engine and change from one to the next; answers are short, and `events` long where
/// the request asks for a stream.
///
/// # Errors
///
/// If no port is free.
pub fn start_backends(count: usize, events: Events) -> Result<Vec<SocketAddr>> {
    let listeners: Vec<_> =
        (0..count).map(|_| std::net::TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    let addresses = listeners.iter().map(std::net::TcpListener::local_addr).collect::<Result<_, _>>()?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("backends".to_owned()).spawn(move || {
        runtime.block_on(async move {
            let serving = listeners.into_iter().map(|listener| async move {
                listener.set_nonblocking(true)?;
                let listener = TcpListener::from_std(listener)?;
                loop {
                    let (stream, _) = listener.accept().await?;
                    tokio::spawn(serve(stream, events));
                }
            });
            let ended: Vec<std::io::Result<()>> = futures_util::future::join_all(serving).await;
            drop(ended);
        });
    })?;
    Ok(addresses)
}

async fn serve(mut stream: TcpStream, events: Events) -> Result<()> {
    stream.set_nodelay(true)?;
    let answer = message("HTTP/1.1 200 OK\r\ncontent-type: application/json", ANSWER);
    let mut metrics = message("HTTP/1.1 200 OK\r\ncontent-type: text/plain", METRICS);
    let line = metrics.windows(CHANGING.len()).position(|bytes| bytes == CHANGING);
    let digit = line.context("the metrics page does not have the line that changes")? + CHANGING.len();
    let mut buffer = Vec::with_capacity(16 * 1024);
    while read_message(&mut stream, &mut buffer).await? {
        if buffer.starts_with(b"GET ") {
            if let Some(digit) = metrics.get_mut(digit) {
                *digit = if *digit == b'9' { b'0' } else { *digit + 1 };
            }
            stream.write_all(&metrics).await?;
        } else if buffer.ends_with(b"}") && buffer.rchunks(64).next().is_some_and(asks_for_stream) {
            write_events(&mut stream, events).await?;
        } else {
            stream.write_all(&answer).await?;
        }
    }
    Ok(())
}

fn asks_for_stream(end: &[u8]) -> bool {
    end.windows(STREAM.len()).any(|bytes| bytes == STREAM)
}

async fn write_events(stream: &mut TcpStream, events: Events) -> Result<()> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    let chunk = |event: &str| format!("{:x}\r\n{event}\r\n", event.len());
    let event = chunk(concat!(
        r#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","model":"tiny","#,
        r#""choices":[{"index":0,"delta":{"content":" token"},"finish_reason":null}]}"#,
        "\n\n"
    ));
    for _ in 0..events.count {
        stream.write_all(event.as_bytes()).await?;
        sleep(events.period).await;
    }
    stream.write_all((chunk("data: [DONE]\n\n") + END_OF_CHUNKS).as_bytes()).await?;
    Ok(())
}

/// Requests that were answered, and the time that they took together.
#[derive(Debug, Clone, Copy)]
pub struct Served {
    /// How many.
    pub requests: u64,
    /// The time in which they were.
    pub lasted: Duration,
}

/// Connections that send their next request when the last one is answered.
#[derive(Debug)]
pub struct Load {
    served: Arc<AtomicU64>,
    stopped: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
    counted: (u64, Instant),
}

impl Load {
    /// Starts all connections, on one thread.
    ///
    /// # Errors
    ///
    /// If the thread cannot be started.
    pub fn start(address: SocketAddr, connections: usize, requests: &Arc<Vec<Vec<u8>>>) -> Result<Self> {
        let (served, stopped) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let thread = {
            let (served, stopped, requests) = (served.clone(), stopped.clone(), requests.clone());
            let client = move |number| {
                send_until_stopped(address, requests.clone(), number, served.clone(), stopped.clone())
            };
            std::thread::Builder::new().name("load".to_owned()).spawn(move || {
                let clients = futures_util::future::try_join_all((0..connections).map(client));
                runtime.block_on(clients).map(drop)
            })?
        };
        Ok(Self { served, stopped, thread, counted: (0, Instant::now()) })
    }

    /// Counts from now on.
    pub fn restart_count(&mut self) {
        self.counted = (self.served.load(Ordering::Relaxed), Instant::now());
    }

    /// What was served since the count was started.
    #[must_use]
    pub fn served(&self) -> Served {
        let (before, started) = self.counted;
        Served { requests: self.served.load(Ordering::Relaxed) - before, lasted: started.elapsed() }
    }

    /// Ends all connections.
    ///
    /// # Errors
    ///
    /// If a request was not served with status 200.
    pub fn stop(self) -> Result<()> {
        self.stopped.store(true, Ordering::Relaxed);
        self.thread.join().ok().context("the client panicked")?
    }
}

/// A POST of a chat body.
#[must_use]
pub fn chat_request(body: &str) -> Vec<u8> {
    message(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json",
        body.as_bytes(),
    )
}

async fn send_until_stopped(
    address: SocketAddr,
    requests: Arc<Vec<Vec<u8>>>,
    first: usize,
    served: Arc<AtomicU64>,
    stopped: Arc<AtomicBool>,
) -> Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(16 * 1024);
    for request in requests.iter().cycle().skip(first) {
        if stopped.load(Ordering::Relaxed) {
            break;
        }
        stream.write_all(request).await?;
        ensure!(read_message(&mut stream, &mut buffer).await?, "the proxy closed a connection");
        ensure!(
            buffer.starts_with(b"HTTP/1.1 200"),
            "a request was not served: `{}`",
            String::from_utf8_lossy(&buffer)
        );
        served.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

fn message(head: &str, body: &[u8]) -> Vec<u8> {
    let mut message = format!("{head}\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes();
    message.extend_from_slice(body);
    message
}

/// Reads one message with a length into the buffer; false if the connection is closed instead.
///
/// # Errors
///
/// If the connection is closed within a message.
pub async fn read_message(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<bool> {
    buffer.clear();
    let mut length = None;
    loop {
        if length.is_some_and(|length| buffer.len() >= length) {
            return Ok(true);
        }
        if stream.read_buf(buffer).await? == 0 {
            ensure!(buffer.is_empty(), "a connection was closed within a message");
            return Ok(false);
        }
        if length.is_none() {
            length = message_length(buffer)?;
        }
    }
}

/// Bytes of head and body, once the head is complete.
fn message_length(message: &[u8]) -> Result<Option<usize>> {
    let Some(end) = message.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { return Ok(None) };
    let head = String::from_utf8_lossy(message.get(..end).unwrap_or_default());
    for line in head.lines() {
        let Some((name, value)) = line.split_once(": ") else { continue };
        if name.eq_ignore_ascii_case("content-length") {
            return Ok(Some(end + 4 + value.parse::<usize>()?));
        }
        if name.eq_ignore_ascii_case("transfer-encoding") {
            bail!("a body without a length is not expected here: `{line}`");
        }
    }
    Ok(Some(end + 4))
}
