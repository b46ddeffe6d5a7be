//! Requests at a constant rate.

use crate::open_loop;
use crate::stack::{NO_EVENTS, Stack, picker_metric, request};
use anyhow::{Context, Result, ensure};
use p3sched_examples::benchmark::figure::{Figure, quantile};
use p3sched_examples::benchmark::http::start_backends;
use p3sched_examples::benchmark::usage::peak_memory;
use p3sched_examples::picker::Picker;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// Bytes of a token.
const TOKEN: usize = 4;

/// Envoy writes its log out more often than that.
const LOG_DELAY: Duration = Duration::from_millis(500);

/// What is sent, and what it may cost.
pub(crate) struct Load {
    name: &'static str,
    replicas: usize,
    rate: f64,
    tokens: usize,
    /// Requests of a round.
    count: usize,
    max_cores: f64,
    max_mebibytes: Option<f64>,
    /// Milliseconds in the picker.
    max_median: f64,
    max_p95: f64,
}

pub(crate) const SHORT: Load = Load {
    name: "500-requests-of-200-tokens",
    replicas: 10,
    rate: 500.0,
    tokens: 200,
    count: 1_500,
    max_cores: 0.15,
    max_mebibytes: None,
    max_median: 0.3,
    max_p95: 1.0,
};

pub(crate) const LONG: Load = Load {
    name: "10-requests-of-100k-tokens",
    replicas: 10,
    rate: 10.0,
    tokens: 100_000,
    count: 40,
    max_cores: 0.1,
    max_mebibytes: Some(150.0),
    max_median: 1.0,
    max_p95: 3.0,
};

pub(crate) async fn measure(load: &Load, rounds: usize, folder: &Path) -> Result<Vec<Figure>> {
    let mut stack = Stack::start(start_backends(load.replicas, NO_EVENTS)?, true, folder).await?;
    let requests: Vec<_> =
        (0..load.count).map(|number| request(number, load.tokens * TOKEN, false)).collect();
    let requests = Arc::new(requests);
    let address = stack.envoy.addr();
    open_loop::run(address, Arc::clone(&requests), load.rate, load.count / 4).await?;
    let mut measured = Rounds::default();
    for _ in 0..rounds {
        sleep(LOG_DELAY).await;
        let (logged, picked) = (stack.logged()?.len(), pick_time(&stack.picker).await?);
        let before = stack.used()?;
        let latencies = open_loop::run(address, Arc::clone(&requests), load.rate, load.count).await?;
        let (picker, envoy) = stack.used()?.cores_since(before);
        measured.pick.push((pick_time(&stack.picker).await? - picked) / load.count as f64);
        sleep(LOG_DELAY).await;
        let log = stack.logged()?;
        let times = log.get(logged..).unwrap_or_default().lines().map(time_in_picker);
        let times = times.collect::<Result<Vec<_>>>()?;
        ensure!(times.len() == load.count, "Envoy logged {} of {} requests", times.len(), load.count);
        measured.cores.push(picker);
        measured.envoy.push(envoy);
        measured.median.push(quantile(&times, 0.5) / 1e3);
        measured.p95.push(quantile(&times, 0.95) / 1e3);
        measured.latency.push(quantile(&latencies, 0.95) / 1e3);
    }
    measured.memory = peak_memory(stack.picker.process())?;
    Ok(measured.figures(load))
}

#[derive(Default)]
struct Rounds {
    cores: Vec<f64>,
    envoy: Vec<f64>,
    median: Vec<f64>,
    p95: Vec<f64>,
    latency: Vec<f64>,
    pick: Vec<f64>,
    memory: f64,
}

impl Rounds {
    fn figures(&self, load: &Load) -> Vec<Figure> {
        let detail = format!(
            "Envoy 1.40.0, full duplex both ways, {} endpoints, open loop, {} rounds of {} requests; Envoy {:.2} cores; \
             client p95 {:.1} ms; times are Envoy's, the body's way to the picker included, the pick alone takes {:.3} ms",
            load.replicas,
            self.cores.len(),
            load.count,
            quantile(&self.envoy, 0.5),
            quantile(&self.latency, 0.5),
            quantile(&self.pick, 0.5),
        );
        let name = |what: &str| format!("epp-server/{}-{what}", load.name);
        let memory = Figure::new(name("memory"), &[self.memory], "MiB", &detail);
        vec![
            Figure::new(name("cpu"), &self.cores, "cores", &detail).at_most(load.max_cores),
            match load.max_mebibytes {
                Some(bound) => memory.at_most(bound),
                None => memory,
            },
            Figure::new(name("time-p50"), &self.median, "ms", &detail).at_most(load.max_median),
            Figure::new(name("time-p95"), &self.p95, "ms", &detail).at_most(load.max_p95),
        ]
    }
}

/// Milliseconds that all picks so far took, by the picker's own histogram.
async fn pick_time(picker: &Picker) -> Result<f64> {
    Ok(picker_metric(picker, "llm_d_epp_scheduler_e2e_duration_seconds_sum").await? * 1e3)
}

/// Microseconds from the request's headers to the pick, as Envoy saw it: `rh:152:0,rb:1:187:0,…`, with the gRPC status.
fn time_in_picker(line: &str) -> Result<f64> {
    let phase = line.split(',').find_map(|phase| phase.strip_prefix("rh:")?.strip_suffix(":0"));
    let time = phase.with_context(|| format!("no answer of the picker: `{line}`"))?;
    Ok(time.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_pick_stands_in_envoys_log() {
        assert_eq!(time_in_picker("rh:152:0,rb:1:187:0,sh:66:0,sb:1:76:0,bs:2170").unwrap(), 152.0);
        assert!(time_in_picker("rh:152:13,bs:2170").is_err());
        assert!(time_in_picker("-").is_err());
    }
}
