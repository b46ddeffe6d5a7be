//! What the loads run against, and what it used.

use anyhow::{Context, Result};
use p3sched_examples::benchmark::http::{Events, chat_request};
use p3sched_examples::benchmark::usage::processor_time;
use p3sched_examples::envoy::{Envoy, EnvoyConfig, EnvoyOptions};
use p3sched_examples::picker::{Picker, PickerOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Worker threads of Envoy: one per core of the smallest machine that this is meant for.
const ENVOY_WORKERS: u32 = 2;

/// Where no request asks for a stream.
pub(crate) const NO_EVENTS: Events = Events { count: 0, period: std::time::Duration::ZERO };

/// A picker and an Envoy that asks it, in full duplex both ways.
pub(crate) struct Stack {
    pub(crate) picker: Picker,
    pub(crate) envoy: Envoy,
    access_log: PathBuf,
}

/// Processor time of both in microseconds, and when it was read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Used {
    pub(crate) picker: f64,
    pub(crate) envoy: f64,
    at: Instant,
}

impl Stack {
    /// Starts both over the backends.
    pub(crate) async fn start(backends: Vec<SocketAddr>, log_times: bool, folder: &Path) -> Result<Self> {
        let picker = Picker::start(&PickerOptions::new(backends.clone()), folder).await?;
        let access_log = folder.join("access.log");
        let mut options =
            EnvoyOptions::new(EnvoyConfig::FullDuplexOverrideHost, backends, picker.grpc_addr());
        (options.concurrency, options.retries) = (ENVOY_WORKERS, 0);
        options.access_log = log_times.then(|| access_log.clone());
        let envoy = Envoy::start(&options, folder).await?;
        Ok(Self { picker, envoy, access_log })
    }

    /// What both have used so far.
    pub(crate) fn used(&mut self) -> Result<Used> {
        Ok(Used {
            picker: processor_time(self.picker.process())?,
            envoy: processor_time(self.envoy.process())?,
            at: Instant::now(),
        })
    }

    /// The lines of Envoy's log so far; Envoy writes them out once in a while.
    pub(crate) fn logged(&self) -> Result<String> {
        std::fs::read_to_string(&self.access_log)
            .with_context(|| format!("cannot read `{}`", self.access_log.display()))
    }
}

impl Used {
    /// Cores that the picker and Envoy used from then to now.
    pub(crate) fn cores_since(self, then: Self) -> (f64, f64) {
        let passed = self.at.duration_since(then.at).as_secs_f64() * 1e6;
        ((self.picker - then.picker) / passed, (self.envoy - then.envoy) / passed)
    }
}

/// A chat request of about so many bytes: the first half is what a tenant's requests share, the rest its own.
pub(crate) fn request(number: usize, bytes: usize, stream: bool) -> Vec<u8> {
    let text = |key: String| key.chars().cycle().take(bytes / 2).collect::<String>();
    let (shared, own) =
        (text(format!("Rules of tenant {}. ", number % 8)), text(format!("Matter {number}. ")));
    chat_request(&format!(
        r#"{{"model":"tiny","messages":[{{"role":"system","content":"{shared}"}},{{"role":"user","content":"{own}"}}],"stream":{stream}}}"#
    ))
}

/// The sum over all series of one of the picker's metrics.
pub(crate) async fn picker_metric(picker: &Picker, name: &str) -> Result<f64> {
    let page = reqwest::get(format!("{}/metrics", picker.metrics_url())).await?.text().await?;
    let values = page.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        (series.split('{').next() == Some(name)).then(|| value.parse::<f64>())
    });
    Ok(values.sum::<Result<_, _>>()?)
}
