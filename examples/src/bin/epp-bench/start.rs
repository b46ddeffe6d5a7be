//! From start to ready.

use crate::stack::NO_EVENTS;
use anyhow::{Result, ensure};
use p3sched_examples::benchmark::figure::Figure;
use p3sched_examples::benchmark::http::start_backends;
use p3sched_examples::picker::{Picker, PickerOptions};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::time::sleep;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// Starts are short, so that many of them can be measured.
const STARTS_PER_ROUND: usize = 4;
const REPLICAS: usize = 10;
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(1);

pub(crate) async fn measure(rounds: usize, folder: &Path) -> Result<Vec<Figure>> {
    let mut options = PickerOptions::new(start_backends(REPLICAS, NO_EVENTS)?);
    options.arguments.push("--drain-timeout=0".to_owned());
    let mut times = Vec::new();
    for _ in 0..rounds * STARTS_PER_ROUND {
        let begin = Instant::now();
        let mut picker = Picker::spawn(&options, folder)?;
        while !is_ready(&picker).await {
            ensure!(
                picker.process().is_running(),
                "the picker ended, see `{}`",
                picker.process().log().display()
            );
            ensure!(begin.elapsed() < PATIENCE, "the picker did not become ready");
            sleep(POLL).await;
        }
        times.push(begin.elapsed().as_secs_f64() * 1e3);
        picker.process().terminate(PATIENCE).await;
    }
    let detail = format!("{REPLICAS} endpoints, readiness by gRPC, {} starts", times.len());
    Ok(vec![Figure::new("epp-server/start-to-ready".to_owned(), &times, "ms", &detail).at_most(100.0)])
}

async fn is_ready(picker: &Picker) -> bool {
    let Ok(address) = Endpoint::from_shared(format!("http://{}", picker.health_addr())) else { return false };
    let Ok(channel) = address.connect().await else { return false };
    let request = HealthCheckRequest { service: "readiness".to_owned() };
    let answer = HealthClient::new(channel).check(request).await;
    answer.is_ok_and(|answer| answer.into_inner().status == ServingStatus::Serving as i32)
}
