//! Many answers as events at the same time.

use crate::stack::{Stack, picker_metric, request};
use anyhow::{Result, ensure};
use p3sched_examples::benchmark::figure::Figure;
use p3sched_examples::benchmark::http::{Events, start_backends};
use p3sched_examples::benchmark::usage::peak_memory;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// More say nothing new: what counts is the peak of memory and that nothing fails.
pub(crate) const MAX_ROUNDS: usize = 3;

const REPLICAS: usize = 10;
const STREAMS: usize = 3_000;
/// Streams that are opened together, then a millisecond passes.
const BURST: usize = 2;
const BYTES: usize = 2_000;
const EVENTS: Events = Events { count: 6, period: Duration::from_secs(1) };

pub(crate) async fn measure(rounds: usize, folder: &Path) -> Result<Vec<Figure>> {
    let mut stack = Stack::start(start_backends(REPLICAS, EVENTS)?, false, folder).await?;
    let requests = Arc::new((0..STREAMS).map(|number| request(number, BYTES, true)).collect::<Vec<_>>());
    let (mut cores, mut failures, mut most) = (Vec::new(), Vec::new(), 0.0_f64);
    for _ in 0..rounds {
        let before = stack.used()?;
        let (address, requests) = (stack.envoy.addr(), Arc::clone(&requests));
        let clients = tokio::task::spawn_blocking(move || read_all(address, &requests));
        while !clients.is_finished() {
            most = most.max(picker_metric(&stack.picker, "llm_d_epp_extproc_streams_inflight").await?);
            sleep(EVENTS.period / 4).await;
        }
        failures.push(clients.await?? as f64);
        cores.push(stack.used()?.cores_since(before).0);
    }
    ensure!(most >= STREAMS as f64, "the streams were never open together: {most} of {STREAMS}");
    let detail = format!(
        "Envoy 1.40.0, full duplex both ways, {REPLICAS} endpoints, {} events a stream, one per {:?}, {rounds} rounds",
        EVENTS.count, EVENTS.period
    );
    let name = |what: &str| format!("epp-server/{STREAMS}-streams-{what}");
    Ok(vec![
        Figure::new(name("failures"), &failures, "requests", &detail).at_most(0.0),
        Figure::new(name("memory"), &[peak_memory(stack.picker.process())?], "MiB", &detail).at_most(100.0),
        Figure::new(name("cpu"), &cores, "cores", &detail),
    ])
}

/// Opens a stream per request and reads them all to their ends; how many failed.
fn read_all(address: SocketAddr, requests: &Arc<Vec<Vec<u8>>>) -> Result<usize> {
    Builder::new_current_thread().enable_all().build()?.block_on(async {
        let mut running = JoinSet::new();
        for number in 0..requests.len() {
            running.spawn(read_events(address, Arc::clone(requests), number));
            if number % BURST == 0 {
                sleep(Duration::from_millis(1)).await;
            }
        }
        let ended = running.join_all().await;
        let failed: Vec<_> = ended.into_iter().filter_map(Result::err).collect();
        if let Some(error) = failed.first() {
            eprintln!("{} streams failed: {error:#}", failed.len());
        }
        Ok(failed.len())
    })
}

async fn read_events(address: SocketAddr, requests: Arc<Vec<Vec<u8>>>, number: usize) -> Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(requests.get(number).map_or(&[], Vec::as_slice)).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n0\r\n\r\n") {
        ensure!(stream.read_buf(&mut answer).await? > 0, "a stream ended early");
    }
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "a stream was refused");
    Ok(())
}
