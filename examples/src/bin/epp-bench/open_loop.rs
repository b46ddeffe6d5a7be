//! Requests at a constant rate, whatever has become of those before.
//!
//! Latencies count from when a request should have started: a system that stalls is charged for every request that it
//! kept from starting.

use anyhow::{Context, Result, ensure};
use p3sched_examples::benchmark::http::read_message;
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Connections that wait for their next request, each with its buffer.
type Idle = Arc<Mutex<Vec<(TcpStream, Vec<u8>)>>>;

/// Sends `count` requests, `rate` a second; the latency of each in microseconds.
///
/// # Errors
///
/// If a request was not answered with status 200.
pub(crate) async fn run(
    address: SocketAddr,
    requests: Arc<Vec<Vec<u8>>>,
    rate: f64,
    count: usize,
) -> Result<Vec<f64>> {
    tokio::task::spawn_blocking(move || send_all(address, &requests, rate, count)).await?
}

fn send_all(address: SocketAddr, requests: &Arc<Vec<Vec<u8>>>, rate: f64, count: usize) -> Result<Vec<f64>> {
    let (due, mut starts) = mpsc::unbounded_channel();
    // The runtime's own timer knows milliseconds only.
    let pacer = thread::Builder::new().name("pacer".to_owned()).spawn(move || {
        let begin = Instant::now();
        for number in 0..count {
            let start = begin + Duration::from_secs_f64(number as f64 / rate);
            thread::sleep(start.saturating_duration_since(Instant::now()));
            if due.send((number, start)).is_err() {
                break;
            }
        }
    })?;
    let latencies = Builder::new_current_thread().enable_all().build()?.block_on(async {
        let idle = Idle::default();
        let mut running = JoinSet::new();
        while let Some((number, start)) = starts.recv().await {
            running.spawn(send(address, Arc::clone(requests), number, start, Arc::clone(&idle)));
        }
        running.join_all().await.into_iter().collect()
    });
    pacer.join().ok().context("the pacer panicked")?;
    latencies
}

async fn send(
    address: SocketAddr,
    requests: Arc<Vec<Vec<u8>>>,
    number: usize,
    start: Instant,
    idle: Idle,
) -> Result<f64> {
    let waiting = idle.lock().pop();
    let (mut stream, mut buffer) = match waiting {
        Some(connection) => connection,
        None => {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            (stream, Vec::new())
        }
    };
    let request = requests.get(number % requests.len()).context("there are no requests")?;
    stream.write_all(request).await?;
    ensure!(read_message(&mut stream, &mut buffer).await?, "the proxy closed a connection");
    let latency = start.elapsed().as_secs_f64() * 1e6;
    ensure!(
        buffer.starts_with(b"HTTP/1.1 200"),
        "a request was not served: `{}`",
        String::from_utf8_lossy(&buffer)
    );
    idle.lock().push((stream, buffer));
    Ok(latency)
}
