//! What an engine reports about itself.

use serde::{Deserialize, Serialize};

use super::exposition::PageReader;
use super::load_header;
use crate::Error;

/// The load of one endpoint as its engine reports it; absent values are `None`, never 0.
///
/// With data parallelism one page holds several engines: counts are sums over them, utilisations are means.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "names and values of metrics")]
#[non_exhaustive]
pub struct EndpointMetrics {
    /// Requests that wait for their prefill to start.
    pub waiting_requests: Option<f64>,
    /// Requests in the running batch.
    pub running_requests: Option<f64>,
    /// Share of the KV cache held by running requests, in [0, 1]; 0 when idle even if the prefix cache is full.
    pub kv_cache_utilization: Option<f64>,
    /// Tokens per KV block.
    pub block_size_tokens: Option<u32>,
    /// KV blocks of the endpoint, all its data-parallel engines together.
    pub block_count: Option<u64>,
    /// How many adapters (LoRA) can be loaded at once.
    pub max_adapters: Option<u32>,
    /// Adapters that serve requests now.
    pub running_adapters: Vec<String>,
    /// Adapters that requests wait for.
    pub waiting_adapters: Vec<String>,
    /// Prompt tokens looked up in the prefix cache since the engine started.
    pub prefix_cache_queries_total: Option<f64>,
    /// Prompt tokens found in the prefix cache since the engine started.
    pub prefix_cache_hits_total: Option<f64>,
    /// Requests finished since the engine started; goes back when the engine restarts.
    pub request_success_total: Option<f64>,
}

impl EndpointMetrics {
    /// The load that an engine's metrics page reports, in Prometheus text exposition 0.0.4 or `OpenMetrics` 1.0.
    ///
    /// Use this on the body of `GET /metrics`. Which engine wrote the page shows in its names: vLLM (old names too), SGLang,
    /// TensorRT-LLM, Triton with TensorRT-LLM, llama.cpp. [`Scheduler::ingest_metrics`](crate::Scheduler::ingest_metrics) goes by
    /// the configuration, too ([`MetricsConfig`](crate::config::MetricsConfig)). What a page does not hold, or holds as NaN or infinity, is `None`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidMetrics`] when no line belongs to a known engine (an error page, say), or when a line that matters is
    /// malformed; the message names the line.
    ///
    /// # Complexity
    ///
    /// One pass over the page that reads only the lines that matter.
    ///
    /// # Example
    ///
    /// ```
    /// use p3sched::EndpointMetrics;
    ///
    /// let metrics = EndpointMetrics::from_page(
    ///     "vllm:num_requests_waiting{engine=\"0\",model_name=\"llama\"} 3.0\n\
    ///      vllm:kv_cache_usage_perc{engine=\"0\",model_name=\"llama\"} 0.25\n",
    /// )?;
    /// assert_eq!(metrics.waiting_requests, Some(3.0));
    /// assert_eq!(metrics.kv_cache_utilization, Some(0.25));
    /// assert_eq!(metrics.running_requests, None);
    /// # Ok::<(), p3sched::Error>(())
    /// ```
    pub fn from_page(page: impl AsRef<[u8]>) -> Result<Self, Error> {
        PageReader::default().read(page.as_ref())
    }

    /// The load that an engine reports with a response, from the value of its header `endpoint-load-metrics`.
    ///
    /// Use [`Scheduler::ingest_load_header`](crate::Scheduler::ingest_load_header) to feed a scheduler with it.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidMetrics`] when the value does not begin with `JSON` or is no JSON object; the message names the place.
    ///
    /// # Example
    ///
    /// ```
    /// use p3sched::EndpointMetrics;
    ///
    /// let header = r#"JSON {"named_metrics":{"num_requests_waiting":3.0,"kv_cache_usage_perc":0.25}}"#;
    /// assert_eq!(EndpointMetrics::from_load_header(header)?.waiting_requests, Some(3.0));
    /// # Ok::<(), p3sched::Error>(())
    /// ```
    pub fn from_load_header(value: &str) -> Result<Self, Error> {
        load_header::parse(value)
    }

    /// These metrics, with the load replaced by what `reported` knows of it.
    pub(crate) fn with_load_of(&self, reported: &Self) -> Self {
        Self {
            waiting_requests: reported.waiting_requests.or(self.waiting_requests),
            running_requests: reported.running_requests.or(self.running_requests),
            kv_cache_utilization: reported.kv_cache_utilization.or(self.kv_cache_utilization),
            ..self.clone()
        }
    }
}
