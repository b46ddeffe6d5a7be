//! What engines report reaches the scheduler.

use super::Scheduler;
use crate::Error;
use crate::endpoint::{EndpointMetrics, ScrapeFailure};

impl Scheduler {
    /// Reads an engine's metrics page (Prometheus text) for an endpoint.
    ///
    /// Which engine wrote it shows in its names; [`MetricsConfig`](crate::config::MetricsConfig) can say it, and other names.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidMetrics`] if the page cannot be read, [`Error::UnknownEndpoint`] if there is no such endpoint.
    pub fn ingest_metrics(&self, endpoint: &str, page: &[u8], now: u64) -> Result<(), Error> {
        self.observe(endpoint, self.page_reader.read(page)?, now)
    }

    /// Takes metrics that were read in some other way.
    ///
    /// Counters that went back show that the engine restarted; its entries in the prefix index are then forgotten.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownEndpoint`] if there is no such endpoint.
    pub fn observe(&self, endpoint: &str, metrics: EndpointMetrics, now: u64) -> Result<(), Error> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let reports_adapters = !(metrics.running_adapters.is_empty() && metrics.waiting_adapters.is_empty());
        let (slot, known) = state.endpoint(endpoint)?;
        let capacity_before = known.capacity_tokens();
        let restarted = known.observe(metrics, now);
        let capacity = known.capacity_tokens();
        state.adapters_reported |= reports_adapters;
        if restarted {
            state.index.clear(slot);
            state.counters.engine_restarts += 1;
        }
        if capacity != capacity_before {
            state.index.set_capacity(slot, self.capacity_blocks(capacity));
        }
        Ok(())
    }

    /// Reads the load that an engine reported with a response (header `endpoint-load-metrics`) for an endpoint.
    ///
    /// Use it between scrapes or in place of them; what the header does not hold stays as it was.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidMetrics`] if the header cannot be read, [`Error::UnknownEndpoint`] if there is no such endpoint.
    pub fn ingest_load_header(&self, endpoint: &str, value: &str, now: u64) -> Result<(), Error> {
        let reported = EndpointMetrics::from_load_header(value)?;
        let mut state = self.state.lock();
        let known = state.endpoint(endpoint)?.1;
        let metrics = known.metrics.with_load_of(&reported);
        known.observe(metrics, now);
        Ok(())
    }

    /// Takes note that a scrape of an endpoint failed.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownEndpoint`] if there is no such endpoint.
    pub fn scrape_failed(&self, endpoint: &str, failure: ScrapeFailure, now: u64) -> Result<(), Error> {
        let mut state = self.state.lock();
        let (slot, known) = state.endpoint(endpoint)?;
        known.scrape_failed(failure, now);
        if failure == ScrapeFailure::Unreachable {
            // The process is gone, and its cache with it.
            state.index.clear(slot);
            state.precise.clear(slot);
        }
        Ok(())
    }
}
