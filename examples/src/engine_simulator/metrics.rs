//! The metrics page, with vLLM's names, labels and types.

use super::EngineSimulatorOptions;
use super::engine::{Counters, Engine};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// Writes the page for the engine's present state.
pub(crate) fn page(options: &EngineSimulatorOptions, engine: &Engine) -> String {
    let (usage, counters) = engine.observe();
    let labels = format!("engine=\"0\",model_name=\"{}\"", options.model);
    let mut page = Page { text: String::new(), labels };
    page.gauge(
        "num_requests_running",
        "Number of requests in model execution batches.",
        counters.running as f64,
    );
    page.gauge(
        "num_requests_waiting",
        "Number of requests waiting to be processed.",
        counters.waiting as f64,
    );
    page.waiting_by_reason(counters.waiting);
    page.gauge("kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", usage);
    page.counter(
        "prefix_cache_queries_total",
        "Prefix cache queries, in terms of number of queried tokens.",
        counters.queried_tokens,
    );
    page.counter(
        "prefix_cache_hits_total",
        "Prefix cache hits, in terms of number of cached tokens.",
        counters.hit_tokens,
    );
    page.counter("prompt_tokens_total", "Number of prefill tokens processed.", counters.queried_tokens);
    page.counter(
        "generation_tokens_total",
        "Number of generation tokens processed.",
        counters.generated_tokens,
    );
    page.successes(&counters);
    page.cache_config(options);
    if !options.adapters.is_empty() {
        page.adapters(options.max_adapters, &counters);
    }
    page.text
}

struct Page {
    text: String,
    labels: String,
}

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP vllm:{name} {help}"));
        self.line(format_args!("# TYPE vllm:{name} {kind}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{line}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.family(name, "gauge", help);
        let labels = self.labels.clone();
        self.line(format_args!("vllm:{name}{{{labels}}} {value:?}"));
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "counter", help);
        let labels = self.labels.clone();
        self.line(format_args!("vllm:{name}{{{labels}}} {:?}", value as f64));
    }

    fn waiting_by_reason(&mut self, waiting: usize) {
        self.family("num_requests_waiting_by_reason", "gauge", "Number of waiting requests by reason.");
        let labels = self.labels.clone();
        for (reason, value) in [("capacity", waiting as f64), ("deferred", 0.0)] {
            self.line(format_args!(
                "vllm:num_requests_waiting_by_reason{{{labels},reason=\"{reason}\"}} {value:?}"
            ));
        }
    }

    fn successes(&mut self, counters: &Counters) {
        self.family("request_success_total", "counter", "Count of successfully processed requests.");
        let labels = self.labels.clone();
        for (reason, value) in [("stop", 0), ("length", counters.finished), ("abort", counters.aborted)] {
            let value = value as f64;
            self.line(format_args!(
                "vllm:request_success_total{{finished_reason=\"{reason}\",{labels}}} {value:?}"
            ));
        }
    }

    fn cache_config(&mut self, options: &EngineSimulatorOptions) {
        self.family("cache_config_info", "gauge", "Information of the LLMEngine CacheConfig");
        let (size, blocks) = (options.block_size, options.num_gpu_blocks);
        self.line(format_args!(
            "vllm:cache_config_info{{block_size=\"{size}\",cache_dtype=\"auto\",enable_prefix_caching=\"True\",\
             engine=\"0\",gpu_memory_utilization=\"0.92\",num_cpu_blocks=\"None\",num_gpu_blocks=\"{blocks}\",\
             num_gpu_blocks_override=\"{blocks}\",prefix_caching_hash_algo=\"sha256\"}} 1.0"
        ));
    }

    fn adapters(&mut self, max_adapters: usize, counters: &Counters) {
        self.family("lora_requests_info", "gauge", "Running stats on lora requests.");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |elapsed| elapsed.as_secs_f64());
        let names =
            |adapters: &BTreeMap<String, usize>| adapters.keys().cloned().collect::<Vec<_>>().join(",");
        let (running, waiting) = (names(&counters.running_adapters), names(&counters.waiting_adapters));
        self.line(format_args!(
            "vllm:lora_requests_info{{max_lora=\"{max_adapters}\",running_lora_adapters=\"{running}\",\
             waiting_lora_adapters=\"{waiting}\"}} {now:?}"
        ));
    }
}
