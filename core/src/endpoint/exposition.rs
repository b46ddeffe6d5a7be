//! Scan of a metrics page in Prometheus text exposition 0.0.4 or `OpenMetrics` 1.0.
//!
//! A page of an engine has some 600 lines, of which a dozen matter. So this jumps from line to line and reads only those that
//! start with the name of a wanted family; the rest is neither read nor checked. Which engine wrote the page shows in the names,
//! unless the configuration says it.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

use crate::config::{Engine, MetricsConfig};
use crate::{EndpointMetrics, Error};

/// What a family contributes to [`EndpointMetrics`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Waiting,
    Running,
    Utilization,
    /// The name before vLLM 0.10; some versions write both.
    UtilizationOldName,
    PrefixQueries,
    PrefixHits,
    /// The names before vLLM 0.10; some versions write both.
    PrefixQueriesOldName,
    PrefixHitsOldName,
    /// Hits where queries count only the misses.
    PrefixHitsBesideMisses,
    Finished,
    BlockSize,
    BlockCount,
    /// Block size and count stand in the labels.
    CacheConfig,
    /// Adapters stand in the labels, the value is the time of the report.
    Adapters,
    /// Waiting or running requests, told apart by a label.
    RequestsByType,
    /// Utilisation, block size or count, told apart by a label.
    BlocksByType,
}

/// An engine, the prefix of its families and the rest of the names that matter.
type EngineFamilies = (Engine, &'static [u8], &'static [(&'static [u8], Family)]);

const ENGINES: [EngineFamilies; 5] = [
    (
        Engine::Vllm,
        b"vllm:",
        &[
            (b"num_requests_waiting", Family::Waiting),
            (b"num_requests_running", Family::Running),
            (b"kv_cache_usage_perc", Family::Utilization),
            (b"gpu_cache_usage_perc", Family::UtilizationOldName),
            (b"cache_config_info", Family::CacheConfig),
            (b"lora_requests_info", Family::Adapters),
            (b"prefix_cache_queries_total", Family::PrefixQueries),
            (b"prefix_cache_hits_total", Family::PrefixHits),
            (b"gpu_prefix_cache_queries_total", Family::PrefixQueriesOldName),
            (b"gpu_prefix_cache_hits_total", Family::PrefixHitsOldName),
            (b"request_success_total", Family::Finished),
        ],
    ),
    (
        Engine::Sglang,
        b"sglang:",
        &[
            (b"num_queue_reqs", Family::Waiting),
            (b"num_running_reqs", Family::Running),
            (b"token_usage", Family::Utilization),
            (b"cache_config_info", Family::CacheConfig),
            (b"prompt_tokens_total", Family::PrefixQueries),
            (b"cached_tokens_total", Family::PrefixHits),
            (b"num_requests_total", Family::Finished),
        ],
    ),
    (
        Engine::TensorrtLlm,
        b"trtllm_",
        &[
            (b"num_requests_waiting", Family::Waiting),
            (b"num_requests_running", Family::Running),
            (b"kv_cache_utilization", Family::Utilization),
            (b"kv_cache_tokens_per_block", Family::BlockSize),
            (b"kv_cache_max_blocks", Family::BlockCount),
            (b"request_success_total", Family::Finished),
        ],
    ),
    (
        Engine::Triton,
        b"nv_trt_llm_",
        &[(b"request_metrics", Family::RequestsByType), (b"kv_cache_block_metrics", Family::BlocksByType)],
    ),
    (
        Engine::LlamaCpp,
        b"llamacpp:",
        &[
            (b"requests_deferred", Family::Waiting),
            (b"requests_processing", Family::Running),
            (b"prompt_tokens_total", Family::PrefixQueries),
            (b"prompt_tokens_cached_total", Family::PrefixHitsBesideMisses),
        ],
    ),
];

/// Longest piece of a page that an error repeats, in bytes.
const EXCERPT_BYTES: usize = 120;

/// What is read from a page.
#[derive(Debug, Default)]
pub(crate) struct PageReader {
    /// The only engine whose names count; `None` for whichever wrote the page.
    engine: Option<Engine>,
    /// Families that are called otherwise than the engines call them.
    renamed: Vec<RenamedFamily>,
}

#[derive(Debug)]
struct RenamedFamily {
    name: Vec<u8>,
    /// What the labels of a sample must hold for it to count.
    labels: Vec<(String, String)>,
    family: Family,
}

impl PageReader {
    /// A reader that goes by the configuration.
    pub(crate) fn new(config: &MetricsConfig) -> Result<Self, Error> {
        let names = &config.names;
        let renamed = [
            ("waiting_requests", &names.waiting_requests, Family::Waiting),
            ("running_requests", &names.running_requests, Family::Running),
            ("kv_cache_utilization", &names.kv_cache_utilization, Family::Utilization),
            ("cache_config", &names.cache_config, Family::CacheConfig),
            ("adapters", &names.adapters, Family::Adapters),
        ];
        let renamed = renamed.into_iter().filter_map(|(field, name, family)| {
            let name = name.as_deref()?;
            Some(RenamedFamily::new(name, family).ok_or_else(|| {
                Error::InvalidConfig(format!(
                    "metrics.names.{field} must be a metric's name, with labels or without \
                     (`engine:waiting{{kind=\"prefill\"}}`): `{name}`"
                ))
            }))
        });
        Ok(Self { engine: config.engine, renamed: renamed.collect::<Result<_, _>>()? })
    }

    /// Reads the load of an engine from its metrics page.
    pub(crate) fn read(&self, page: &[u8]) -> Result<EndpointMetrics, Error> {
        let mut totals = Totals::default();
        let mut samples = 0_usize;
        let mut start = 0;
        while start < page.len() {
            let rest = page.get(start..).unwrap_or_default();
            let line = rest.get(..memchr(b'\n', rest).unwrap_or(rest.len())).unwrap_or(rest);
            if let Some((family, sample)) = self.wanted(line.trim_ascii()) {
                if totals.add(family, sample).is_none() {
                    return Err(malformed(page, start, line));
                }
                samples += 1;
            }
            start += line.len() + 1;
        }
        if samples == 0 { Err(self.unknown_page(page)) } else { Ok(totals.finish()) }
    }

    /// The family of a line that matters, with what follows its name.
    fn wanted<'a>(&self, line: &'a [u8]) -> Option<(Family, &'a [u8])> {
        if !self.renamed.is_empty() {
            let renamed =
                self.renamed.iter().find_map(|renamed| Some((renamed.family, renamed.sample(line)?)));
            if renamed.is_some() {
                return renamed;
            }
        }
        let (rest, families) = ENGINES
            .iter()
            .filter(|(engine, prefix, _)| {
                prefix.first() == line.first() && self.engine.is_none_or(|only| only == *engine)
            })
            .find_map(|(_, prefix, families)| Some((line.strip_prefix(*prefix)?, families)))?;
        families
            .iter()
            .filter(|(name, _)| name.first() == rest.first())
            .find_map(|(name, family)| Some((*family, rest.strip_prefix(*name)?)))
            // A longer name that only starts alike (`num_requests_waiting_by_reason`) does not count.
            .filter(|(_, sample)| is_end_of_name(sample))
            .filter(|(family, _)| self.renamed.iter().all(|renamed| renamed.family != *family))
    }

    fn unknown_page(&self, page: &[u8]) -> Error {
        let own = self.renamed.iter().map(|renamed| format!("`{}`", String::from_utf8_lossy(&renamed.name)));
        let engines = ENGINES.iter().filter(|(engine, ..)| self.engine.is_none_or(|only| only == *engine));
        let theirs = engines.filter_map(|(_, prefix, families)| {
            let (name, _) = families.first()?;
            Some(format!("`{}{}`", String::from_utf8_lossy(prefix), String::from_utf8_lossy(name)))
        });
        let expected: Vec<String> = own.chain(theirs).collect();
        let first_line = page.split(|byte| *byte == b'\n').next().unwrap_or_default();
        Error::InvalidMetrics(format!(
            "no line is of a known engine, expected one of {}: `{}`",
            expected.join(", "),
            excerpt(first_line)
        ))
    }
}

impl RenamedFamily {
    /// Reads `name` or `name{label="value"}`; the quotes may be left out, as the reference endpoint picker has it.
    fn new(text: &str, family: Family) -> Option<Self> {
        let (name, labels) = match text.split_once('{') {
            Some((name, rest)) => (name, rest.strip_suffix('}')?),
            None => (text, ""),
        };
        let is_name = |text: &str| {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':';
            !text.is_empty() && text.bytes().all(allowed)
        };
        let labels = labels.split(',').filter(|label| !label.trim().is_empty()).map(|label| {
            let (name, value) = label.split_once('=')?;
            let name = name.trim();
            is_name(name).then(|| (name.to_owned(), value.trim().trim_matches('"').to_owned()))
        });
        let labels = labels.collect::<Option<_>>()?;
        is_name(name).then(|| Self { name: name.as_bytes().to_vec(), labels, family })
    }

    /// What follows the name on a line of this family.
    fn sample<'a>(&self, line: &'a [u8]) -> Option<&'a [u8]> {
        let sample = line.strip_prefix(self.name.as_slice()).filter(|sample| is_end_of_name(sample))?;
        if self.labels.is_empty() {
            return Some(sample);
        }
        let mut found = 0;
        read_sample(sample, |name, value| {
            found += usize::from(self.labels.iter().any(|(label, wanted)| label == name && *wanted == value));
        })?;
        (found == self.labels.len()).then_some(sample)
    }
}

fn is_end_of_name(sample: &[u8]) -> bool {
    matches!(sample.first(), Some(b'{' | b' ' | b'\t'))
}

/// A number that comes once per data-parallel engine.
#[derive(Debug, Default)]
struct Series {
    sum: f64,
    count: u32,
}

impl Series {
    fn add(&mut self, value: f64) {
        self.sum += value;
        self.count += 1;
    }

    /// Absent, too, when any engine reported what is not a number: half a sum would look like half the load.
    fn sum(&self) -> Option<f64> {
        (self.count > 0 && self.sum.is_finite()).then_some(self.sum)
    }

    fn mean(&self) -> Option<f64> {
        Some(self.sum()? / f64::from(self.count))
    }
}

/// The newest series of adapters; an engine keeps one series per combination it ever had.
#[derive(Debug)]
struct Adapters {
    reported: f64,
    max: Option<u32>,
    running: Vec<String>,
    waiting: Vec<String>,
}

#[derive(Debug, Default)]
struct Totals {
    waiting: Series,
    running: Series,
    utilization: Series,
    utilization_old_name: Series,
    prefix_queries: Series,
    prefix_hits: Series,
    prefix_queries_old_name: Series,
    prefix_hits_old_name: Series,
    finished: Series,
    block_size: Option<u32>,
    block_count: Option<u64>,
    adapters: Option<Adapters>,
}

impl Totals {
    /// Adds one sample: labels, if any, and value. Nothing when it is malformed.
    fn add(&mut self, family: Family, sample: &[u8]) -> Option<()> {
        match family {
            Family::CacheConfig => return self.add_cache_config(sample),
            Family::Adapters => return self.add_adapters(sample),
            Family::RequestsByType | Family::BlocksByType => return self.add_by_type(family, sample),
            _ => {}
        }
        let mut later_pipeline_stage = false;
        let value = read_sample(sample, |name, value| {
            // Every stage of a pipeline reports the same requests.
            later_pipeline_stage |= name == "pp_rank" && value != "0";
        })?;
        if later_pipeline_stage {
            return Some(());
        }
        match family {
            Family::Waiting => self.waiting.add(value),
            Family::Running => self.running.add(value),
            Family::Utilization => self.utilization.add(value),
            Family::UtilizationOldName => self.utilization_old_name.add(value),
            Family::PrefixQueries => self.prefix_queries.add(value),
            Family::PrefixHits => self.prefix_hits.add(value),
            Family::PrefixQueriesOldName => self.prefix_queries_old_name.add(value),
            Family::PrefixHitsOldName => self.prefix_hits_old_name.add(value),
            Family::PrefixHitsBesideMisses => {
                self.prefix_hits.add(value);
                self.prefix_queries.add(value);
            }
            Family::Finished => self.finished.add(value),
            Family::BlockSize => self.block_size = self.block_size.or(whole(value)),
            Family::BlockCount => self.add_blocks(whole(value)),
            Family::CacheConfig | Family::Adapters | Family::RequestsByType | Family::BlocksByType => {}
        }
        Some(())
    }

    fn add_blocks(&mut self, blocks: Option<u32>) {
        if let Some(blocks) = blocks {
            self.block_count = Some(self.block_count.unwrap_or(0) + u64::from(blocks));
        }
    }

    fn add_cache_config(&mut self, sample: &[u8]) -> Option<()> {
        let (mut size, mut count) = (None, None);
        read_sample(sample, |name, value| match name {
            // An engine that has not profiled its memory yet writes `None`, which is no number.
            "block_size" | "page_size" => size = value.parse().ok(),
            "num_gpu_blocks" | "num_pages" => count = value.parse().ok(),
            _ => {}
        })?;
        self.block_size = self.block_size.or(size);
        self.add_blocks(count);
        Some(())
    }

    fn add_adapters(&mut self, sample: &[u8]) -> Option<()> {
        let (mut max, mut running, mut waiting) = (None, Vec::new(), Vec::new());
        let reported = read_sample(sample, |name, value| match name {
            "max_lora" => max = value.parse().ok(),
            "running_lora_adapters" => running = names(&value),
            "waiting_lora_adapters" => waiting = names(&value),
            _ => {}
        })?;
        if self.adapters.as_ref().is_none_or(|newest| reported > newest.reported) {
            self.adapters = Some(Adapters { reported, max, running, waiting });
        }
        Some(())
    }

    fn add_by_type(&mut self, family: Family, sample: &[u8]) -> Option<()> {
        let mut kind = String::new();
        let value = read_sample(sample, |name, value| {
            if name == "request_type" || name == "kv_cache_block_type" {
                kind = value.into_owned();
            }
        })?;
        match (family, kind.as_str()) {
            (Family::RequestsByType, "waiting") => self.waiting.add(value),
            (Family::RequestsByType, "scheduled") => self.running.add(value),
            (Family::BlocksByType, "fraction") => self.utilization.add(value),
            (Family::BlocksByType, "tokens_per") => self.block_size = self.block_size.or(whole(value)),
            (Family::BlocksByType, "max") => self.add_blocks(whole(value)),
            _ => {}
        }
        Some(())
    }

    fn finish(self) -> EndpointMetrics {
        let (max_adapters, running_adapters, waiting_adapters) = match self.adapters {
            Some(newest) => (newest.max, newest.running, newest.waiting),
            None => (None, Vec::new(), Vec::new()),
        };
        EndpointMetrics {
            waiting_requests: self.waiting.sum(),
            running_requests: self.running.sum(),
            kv_cache_utilization: self.utilization.mean().or_else(|| self.utilization_old_name.mean()),
            block_size_tokens: self.block_size,
            block_count: self.block_count,
            max_adapters,
            running_adapters,
            waiting_adapters,
            prefix_cache_queries_total: self
                .prefix_queries
                .sum()
                .or_else(|| self.prefix_queries_old_name.sum()),
            prefix_cache_hits_total: self.prefix_hits.sum().or_else(|| self.prefix_hits_old_name.sum()),
            request_success_total: self.finished.sum(),
        }
    }
}

/// Hands every label to `visit` and gives the value; a timestamp or exemplar behind it is left alone.
fn read_sample<'a>(sample: &'a [u8], visit: impl FnMut(&'a str, Cow<'a, str>)) -> Option<f64> {
    let sample = sample.trim_ascii_start();
    let rest = match sample.strip_prefix(b"{") {
        Some(labels) => read_labels(labels, visit)?,
        None => sample,
    };
    let rest = rest.trim_ascii_start();
    let value = rest.get(..memchr2(b' ', b'\t', rest).unwrap_or(rest.len()))?;
    str::from_utf8(value).ok()?.parse().ok()
}

/// Reads labels behind the opening brace and gives what follows the closing one.
fn read_labels<'a>(labels: &'a [u8], mut visit: impl FnMut(&'a str, Cow<'a, str>)) -> Option<&'a [u8]> {
    let mut rest = labels.trim_ascii_start();
    loop {
        if let Some(after) = rest.strip_prefix(b"}") {
            return Some(after);
        }
        let (name, after) = rest.split_at_checked(memchr(b'=', rest)?)?;
        let after = after.get(1..)?.trim_ascii_start().strip_prefix(b"\"")?;
        let (value, after) = read_label_value(after)?;
        visit(str::from_utf8(name.trim_ascii()).ok()?, value);
        rest = after.trim_ascii_start();
        rest = match rest.first()? {
            b',' => rest.get(1..)?.trim_ascii_start(),
            b'}' => rest,
            _ => return None,
        };
    }
}

/// Reads a label value behind its opening quote, with what follows the closing one.
fn read_label_value(text: &[u8]) -> Option<(Cow<'_, str>, &[u8])> {
    let mut unescaped = Vec::new();
    let mut rest = text;
    loop {
        let (plain, special) = rest.split_at_checked(memchr2(b'"', b'\\', rest)?)?;
        match special {
            [b'"', after @ ..] if unescaped.is_empty() => {
                return Some((Cow::Borrowed(str::from_utf8(plain).ok()?), after));
            }
            [b'"', after @ ..] => {
                unescaped.extend_from_slice(plain);
                return Some((Cow::Owned(String::from_utf8(unescaped).ok()?), after));
            }
            [b'\\', escaped, after @ ..] => {
                unescaped.extend_from_slice(plain);
                unescaped.push(if *escaped == b'n' { b'\n' } else { *escaped });
                rest = after;
            }
            _ => return None,
        }
    }
}

fn names(list: &str) -> Vec<String> {
    list.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// The value as a whole number, when it is one that makes sense for a count.
fn whole(value: f64) -> Option<u32> {
    (value >= 0.0 && value <= f64::from(u32::MAX) && value.fract() == 0.0).then_some(value as u32)
}

fn malformed(page: &[u8], start: usize, line: &[u8]) -> Error {
    let number = page.iter().take(start).filter(|byte| **byte == b'\n').count() + 1;
    Error::InvalidMetrics(format!(
        "expected `name{{label=\"text\"}} number` on line {number}: `{}`",
        excerpt(line)
    ))
}

fn excerpt(line: &[u8]) -> String {
    String::from_utf8_lossy(line.trim_ascii().get(..EXCERPT_BYTES).unwrap_or(line.trim_ascii())).into_owned()
}
