//! As many requests as go through.

use crate::stack::{NO_EVENTS, Stack, request};
use anyhow::{Result, ensure};
use p3sched_examples::benchmark::figure::Figure;
use p3sched_examples::benchmark::http;
use p3sched_examples::benchmark::usage::peak_memory;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

const REPLICAS: usize = 3;
const CONNECTIONS: usize = 16;
const REQUESTS: usize = 128;
const WARM_UP: Duration = Duration::from_millis(500);
const ROUND: Duration = Duration::from_secs(2);

/// What is sent, and what has to come of it.
pub(crate) struct Load {
    name: &'static str,
    bytes: usize,
    min_rate: Option<f64>,
    /// Microseconds of the picker per request.
    max_cpu: Option<f64>,
}

pub(crate) const LARGE: Load =
    Load { name: "220-kb-prompts", bytes: 220_000, min_rate: Some(800.0), max_cpu: None };

pub(crate) const SMALL: Load =
    Load { name: "4-kb-requests", bytes: 4_096, min_rate: None, max_cpu: Some(50.0) };

pub(crate) async fn measure(load: &Load, rounds: usize, folder: &Path) -> Result<Vec<Figure>> {
    let mut stack = Stack::start(http::start_backends(REPLICAS, NO_EVENTS)?, false, folder).await?;
    let requests: Vec<_> = (0..REQUESTS).map(|number| request(number, load.bytes, false)).collect();
    let requests = Arc::new(requests);
    let (mut rates, mut picker, mut envoy) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let mut clients = http::Load::start(stack.envoy.addr(), CONNECTIONS, &requests)?;
        sleep(WARM_UP).await;
        let before = stack.used()?;
        clients.restart_count();
        sleep(ROUND).await;
        let (served, after) = (clients.served(), stack.used()?);
        clients.stop()?;
        ensure!(served.requests > 0, "no request was served");
        let count = served.requests as f64;
        rates.push(count / served.lasted.as_secs_f64());
        picker.push((after.picker - before.picker) / count);
        envoy.push((after.envoy - before.envoy) / count);
    }
    let detail = format!(
        "Envoy 1.40.0, full duplex both ways, {CONNECTIONS} connections, {REPLICAS} endpoints, client and backends on the \
         same {} cores, {rounds} rounds of {} s",
        std::thread::available_parallelism()?,
        ROUND.as_secs(),
    );
    let name = |what: &str| format!("epp-server/{}-{what}", load.name);
    let rate = Figure::new(name("rate"), &rates, "requests/s", &detail);
    let cpu = Figure::new(name("cpu"), &picker, "µs/request", &detail);
    Ok(vec![
        match load.min_rate {
            Some(bound) => rate.at_least(bound),
            None => rate,
        },
        match load.max_cpu {
            Some(bound) => cpu.at_most(bound),
            None => cpu,
        },
        Figure::new(name("envoy-cpu"), &envoy, "µs/request", &detail),
        Figure::new(name("memory"), &[peak_memory(stack.picker.process())?], "MiB", &detail),
    ])
}
