//! Names of metrics as the flags and the configuration of the reference picker write them.

use p3sched::config::MetricNames;

/// Names that the reader of pages knows by itself, so that nothing has to be renamed.
const OWN_NAMES: [&str; 9] = [
    "vllm:num_requests_waiting",
    "vllm:num_requests_running",
    "vllm:kv_cache_usage_perc",
    "vllm:gpu_cache_usage_perc",
    "vllm:lora_requests_info",
    "vllm:cache_config_info",
    "sglang:num_queue_reqs",
    "sglang:num_running_reqs",
    "sglang:token_usage",
];

/// Names of the five metrics, as they were written; `None` for those that were not.
#[derive(Debug, Clone, Default)]
pub(crate) struct WrittenNames<'a> {
    pub(crate) waiting: Option<&'a str>,
    pub(crate) running: Option<&'a str>,
    pub(crate) utilization: Option<&'a str>,
    pub(crate) adapters: Option<&'a str>,
    pub(crate) cache: Option<&'a str>,
}

impl WrittenNames<'_> {
    /// Puts these over the names in force.
    ///
    /// The name that an engine uses itself takes away what was there: pages of that engine are read as they are, and those
    /// of other engines by the names of their own.
    pub(crate) fn apply(&self, names: &mut MetricNames) {
        for (place, written) in [
            (&mut names.waiting_requests, self.waiting),
            (&mut names.running_requests, self.running),
            (&mut names.kv_cache_utilization, self.utilization),
            (&mut names.adapters, self.adapters),
            (&mut names.cache_config, self.cache),
        ] {
            if let Some(written) = written {
                *place = (!OWN_NAMES.contains(&written)).then(|| quoted(written));
            }
        }
    }
}

/// Label values with quotes, as pages have them: `requests{state=waiting}` is `requests{state="waiting"}`.
fn quoted(written: &str) -> String {
    let Some((name, labels)) = written.strip_suffix('}').and_then(|text| text.split_once('{')) else {
        return written.to_owned();
    };
    let labels: Vec<String> = labels
        .split(',')
        .map(|label| match label.split_once('=') {
            Some((key, value)) => format!("{}=\"{}\"", key.trim(), value.trim().trim_matches('"')),
            None => label.to_owned(),
        })
        .collect();
    format!("{}{{{}}}", name.trim(), labels.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_renamed_only_where_they_differ() {
        let mut names = MetricNames::default();
        names.kv_cache_utilization = Some("gateway_kv".to_owned());
        let written = WrittenNames {
            waiting: Some("requests{state=waiting, pool=\"a\"}"),
            running: Some("busy"),
            utilization: Some("vllm:kv_cache_usage_perc"),
            ..WrittenNames::default()
        };
        written.apply(&mut names);
        assert_eq!(names.waiting_requests.as_deref(), Some("requests{state=\"waiting\",pool=\"a\"}"));
        assert_eq!(names.running_requests.as_deref(), Some("busy"));
        assert_eq!(names.kv_cache_utilization, None);
        assert_eq!(names.adapters, None);
    }
}
