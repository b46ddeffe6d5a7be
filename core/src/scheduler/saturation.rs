//! How near the endpoints are to having more work than they should.

use super::Scheduler;
use crate::endpoint::state::{EndpointState, nanoseconds};
use crate::gateway::names_endpoint;

/// When an endpoint counts as saturated.
///
/// Source: the `utilization-detector` of the llm-d router, whose defaults these are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SaturationLimits {
    /// Waiting requests that make an endpoint saturated.
    pub waiting_requests: f64,
    /// Share of the KV cache in use that makes it saturated.
    pub kv_cache_utilization: f64,
    /// Age in seconds from which a scrape counts for nothing.
    pub stale_seconds: f64,
    /// Whether an endpoint without a scrape that counts is left out; else it counts as saturated.
    pub ignores_stale: bool,
}

impl Default for SaturationLimits {
    fn default() -> Self {
        Self { waiting_requests: 5.0, kv_cache_utilization: 0.8, stale_seconds: 0.2, ignores_stale: false }
    }
}

impl Scheduler {
    /// How saturated the endpoints are on average: below 1 there is room, above it is missing.
    ///
    /// Use this to refuse requests that may wait. An endpoint is as saturated as what it has least of:
    /// max(waiting / limit, KV use / limit), where requests that were sent to it and that its last scrape does not show
    /// count as waiting. Without an endpoint it is 1, or 0 where those that are stale are left out.
    ///
    /// # Complexity
    ///
    /// Linear in the endpoints, under the lock that picks take.
    ///
    /// # Example
    ///
    /// ```
    /// use p3sched::scheduler::SaturationLimits;
    /// use p3sched::{Endpoint, EndpointMetrics, Scheduler, SchedulerConfig};
    ///
    /// let scheduler = Scheduler::new(SchedulerConfig::default())?;
    /// scheduler.add_endpoint(Endpoint::new("10.0.0.1:8000"))?;
    /// scheduler.observe("10.0.0.1:8000", EndpointMetrics::from_page("vllm:num_requests_waiting 10\n")?, 0)?;
    /// assert_eq!(scheduler.saturation(&SaturationLimits::default(), None, 0), 2.0);
    /// # Ok::<(), p3sched::Error>(())
    /// ```
    pub fn saturation(&self, limits: &SaturationLimits, subset: Option<&[String]>, now: u64) -> f64 {
        let state = self.state.lock();
        let is_allowed = |known: &EndpointState| {
            subset.is_none_or(|subset| subset.iter().any(|name| names_endpoint(name, &known.endpoint.name)))
        };
        let (mut sum, mut count, mut left_out) = (0.0, 0_u32, false);
        for (_, known) in state.pool.iter().filter(|(_, known)| is_allowed(known)) {
            match limits.saturation_of(known, now) {
                None if limits.ignores_stale => left_out = true,
                saturation => {
                    sum += saturation.unwrap_or(1.0);
                    count += 1;
                }
            }
        }
        match (count, left_out) {
            (0, true) => 0.0,
            (0, false) => 1.0,
            _ => sum / f64::from(count),
        }
    }
}

impl SaturationLimits {
    /// Saturation of one endpoint; `None` without a scrape that counts.
    fn saturation_of(&self, endpoint: &EndpointState, now: u64) -> Option<f64> {
        let age = now.saturating_sub(endpoint.scraped_at?);
        if age > nanoseconds(self.stale_seconds) {
            return None;
        }
        let waiting = endpoint.metrics.waiting_requests.unwrap_or(0.0);
        let running = endpoint.metrics.running_requests.unwrap_or(0.0);
        let not_yet_scraped = (f64::from(endpoint.requests_in_flight) - waiting - running).max(0.0);
        let utilization = endpoint.metrics.kv_cache_utilization.unwrap_or(0.0);
        Some(f64::max(
            (waiting + not_yet_scraped) / self.waiting_requests,
            utilization / self.kv_cache_utilization,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Endpoint, EndpointMetrics, Request, SchedulerConfig};

    const SECOND: u64 = 1_000_000_000;

    fn scheduler(loads: &[(f64, f64, f64)]) -> Scheduler {
        let scheduler = Scheduler::new(SchedulerConfig::default()).unwrap();
        for (number, (waiting, running, utilization)) in loads.iter().enumerate() {
            let name = format!("10.0.0.{number}:8000");
            scheduler.add_endpoint(Endpoint::new(&*name)).unwrap();
            let metrics = EndpointMetrics {
                waiting_requests: Some(*waiting),
                running_requests: Some(*running),
                kv_cache_utilization: Some(*utilization),
                ..EndpointMetrics::default()
            };
            scheduler.observe(&name, metrics, 0).unwrap();
        }
        scheduler
    }

    #[test]
    fn the_scarcest_resource_of_each_endpoint_counts_and_the_mean_of_all() {
        let limits = SaturationLimits::default();
        for (loads, expected) in [
            (&[][..], 1.0),
            (&[(0.0, 4.0, 0.0)], 0.0),
            (&[(5.0, 4.0, 0.1)], 1.0),
            (&[(1.0, 4.0, 0.8)], 1.0),
            (&[(10.0, 4.0, 0.8), (0.0, 1.0, 0.0)], 1.0),
        ] {
            assert_eq!(scheduler(loads).saturation(&limits, None, 0), expected, "{loads:?}");
        }
        let subset = ["10.0.0.1".to_owned()];
        let two = scheduler(&[(10.0, 0.0, 0.0), (1.0, 0.0, 0.0)]);
        assert_eq!(two.saturation(&limits, Some(&subset), 0), 0.2);
    }

    #[test]
    fn an_old_scrape_counts_as_saturated_unless_it_is_ignored() {
        let limits = SaturationLimits::default();
        let scheduler = scheduler(&[(0.0, 0.0, 0.0)]);
        assert_eq!(scheduler.saturation(&limits, None, SECOND / 5), 0.0);
        assert_eq!(scheduler.saturation(&limits, None, SECOND), 1.0);
        let limits = SaturationLimits { ignores_stale: true, ..limits };
        assert_eq!(scheduler.saturation(&limits, None, SECOND), 0.0);
    }

    #[test]
    fn requests_that_no_scrape_shows_yet_count_as_waiting() {
        let scheduler = scheduler(&[(1.0, 1.0, 0.0)]);
        for _ in 0..7 {
            scheduler.pick(&Request::from_text("llama", "Why?"), 0).unwrap();
        }
        assert_eq!(scheduler.saturation(&SaturationLimits::default(), None, 0), 6.0 / 5.0);
    }
}
