//! HTTP/1.1 with as little work as possible, so that what is measured is the proxy: a backend and a closed-loop client.

use anyhow::{Context, Result, bail, ensure};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;

/// A page as a busy engine writes it.
const METRICS: &[u8] = include_bytes!("../../../../core/testdata/metrics/vllm-0.32-under-load.txt");

/// An answer that is short, since engines write their own slowly.
const ANSWER: &[u8] = br#"{"id":"chatcmpl-1","object":"chat.completion","model":"tiny","choices":[{"index":0,"message":{"role":"assistant","content":"Yes."},"finish_reason":"stop"}],"usage":{"prompt_tokens":1024,"completion_tokens":2,"total_tokens":1026}}"#;

/// Serves on free ports until the program ends, all on one thread; the addresses.
pub(crate) fn start_backends(count: usize) -> Result<Vec<SocketAddr>> {
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
                    tokio::spawn(serve(stream));
                }
            });
            let ended: Vec<std::io::Result<()>> = futures_util::future::join_all(serving).await;
            drop(ended);
        });
    })?;
    Ok(addresses)
}

async fn serve(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let answer = message("HTTP/1.1 200 OK\r\ncontent-type: application/json", ANSWER);
    let metrics = message("HTTP/1.1 200 OK\r\ncontent-type: text/plain", METRICS);
    let mut buffer = Vec::with_capacity(16 * 1024);
    while read_message(&mut stream, &mut buffer).await? {
        let is_scrape = buffer.starts_with(b"GET ");
        stream.write_all(if is_scrape { &metrics } else { &answer }).await?;
    }
    Ok(())
}

/// Requests that were answered, and the time that they took together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Served {
    pub(crate) requests: u64,
    pub(crate) lasted: Duration,
}

/// Connections that send their next request when the last one is answered.
pub(crate) struct Load {
    served: Arc<AtomicU64>,
    stopped: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
    counted: (u64, Instant),
}

impl Load {
    /// Starts all connections, on one thread.
    pub(crate) fn start(
        address: SocketAddr,
        connections: usize,
        requests: &Arc<Vec<Vec<u8>>>,
    ) -> Result<Self> {
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
    pub(crate) fn restart_count(&mut self) {
        self.counted = (self.served.load(Ordering::Relaxed), Instant::now());
    }

    /// What was served since the count was started.
    pub(crate) fn served(&self) -> Served {
        let (before, started) = self.counted;
        Served { requests: self.served.load(Ordering::Relaxed) - before, lasted: started.elapsed() }
    }

    /// Ends all connections.
    pub(crate) fn stop(self) -> Result<()> {
        self.stopped.store(true, Ordering::Relaxed);
        self.thread.join().ok().context("the client panicked")?
    }
}

/// A POST of a chat body.
pub(crate) fn chat_request(body: &str) -> Vec<u8> {
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

/// Reads one message into the buffer; false if the connection is closed instead.
async fn read_message(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<bool> {
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
