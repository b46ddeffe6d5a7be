//! A picker without requests that reads the metrics of many engines.

use crate::stack::{NO_EVENTS, picker_metric};
use anyhow::{Result, ensure};
use p3sched_examples::benchmark::figure::Figure;
use p3sched_examples::benchmark::http::start_backends;
use p3sched_examples::benchmark::usage::{peak_memory, processor_time};
use p3sched_examples::picker::{Picker, PickerOptions};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::time::sleep;

const ENDPOINTS: usize = 100;
const WARM_UP: Duration = Duration::from_secs(1);
const ROUND: Duration = Duration::from_secs(2);

pub(crate) async fn measure(rounds: usize, folder: &Path) -> Result<Vec<Figure>> {
    let options = PickerOptions::new(start_backends(ENDPOINTS, NO_EVENTS)?);
    let due = ENDPOINTS as f64 / options.refresh_metrics_interval.as_secs_f64();
    let mut picker = Picker::start(&options, folder).await?;
    sleep(WARM_UP).await;
    let (mut cores, mut rates) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let scrapes = picker_metric(&picker, "p3sched_scrapes_total").await?;
        let (used, begin) = (processor_time(picker.process())?, Instant::now());
        sleep(ROUND).await;
        let passed = begin.elapsed().as_secs_f64();
        cores.push((processor_time(picker.process())? - used) / 1e6 / passed);
        rates.push((picker_metric(&picker, "p3sched_scrapes_total").await? - scrapes) / passed);
    }
    let rate = rates.iter().sum::<f64>() / rates.len() as f64;
    ensure!(
        rate > 0.9 * due,
        "the pages were not read as often as they should: {rate:.0} of {due:.0} a second"
    );
    let detail = format!(
        "{ENDPOINTS} endpoints, {rate:.0} pages of 53 KB a second, {rounds} rounds of {} s",
        ROUND.as_secs()
    );
    let name = |what: &str| format!("epp-server/idle-{ENDPOINTS}-endpoints-{what}");
    Ok(vec![
        Figure::new(name("cpu"), &cores, "cores", &detail).at_most(0.3),
        Figure::new(name("memory"), &[peak_memory(picker.process())?], "MiB", &detail).at_most(60.0),
    ])
}
