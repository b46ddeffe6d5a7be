//! OpenTelemetry traces of requests, under the span names of the reference endpoint picker.
//!
//! | span | from | to |
//! |---|---|---|
//! | `request` | the request's headers | the end of its stream |
//! | `request_orchestration` | the pick is due | it is made or refused |
//! | `pick_endpoints` | the scheduler is asked | it answers |
//!
//! The span of a request is the current one of OpenTelemetry while its messages are worked on, so that nothing has to carry
//! it. Requests that are not sampled have none. No span holds text of a prompt.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanKind, Status, TraceContextExt, Tracer, TracerProvider,
};
use opentelemetry::{Array, Context, KeyValue, Value};
use opentelemetry_otlp::{SpanExporter, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider, SpanData};
use p3sched::decision::Explanation;
use p3sched::gateway::Refusal;
use p3sched::{Decision, Outcome};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

/// Where a collector listens when nothing else is said.
const DEFAULT_ENDPOINT: &str = "http://localhost:4317";
/// Share of the requests that nobody else decided about, as the reference has it.
const DEFAULT_RATIO: f64 = 0.1;
/// Where Linux distributions and the image keep the authorities that they trust.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Time for the last spans at the end of the process.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// So many of the highest totals are written down.
const TOP_ENDPOINTS: usize = 5;

/// What the environment variables of OpenTelemetry say beyond what its library reads itself.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceSettings {
    /// URL of the collector's OTLP port for gRPC.
    pub endpoint: String,
    /// Authorities (PEM) that an https collector is checked against.
    pub authorities: PathBuf,
    /// Share of the requests without a sampled or unsampled parent; `None` where `OTEL_TRACES_SAMPLER` decides.
    pub ratio: Option<f64>,
    /// Name of the service, where no variable names it.
    pub service_name: Option<&'static str>,
}

impl TraceSettings {
    /// Reads the variables; `None` when they switch traces off.
    ///
    /// # Errors
    ///
    /// A variable has a value that cannot work.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, String> {
        let variable = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let either = |name: &str| {
            let own = variable(&format!("OTEL_EXPORTER_OTLP_TRACES_{name}"));
            own.or_else(|| variable(&format!("OTEL_EXPORTER_OTLP_{name}")))
        };
        let disabled = variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        if disabled || variable("OTEL_TRACES_EXPORTER").is_some_and(|exporter| exporter == "none") {
            return Ok(None);
        }
        let endpoint = either("ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        let endpoint = if endpoint.contains("://") { endpoint } else { format!("http://{endpoint}") };
        let authorities = either("CERTIFICATE").or_else(|| variable("SSL_CERT_FILE"));
        let ratio = match variable("OTEL_TRACES_SAMPLER_ARG") {
            Some(text) => text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio)).ok_or_else(|| {
                format!("share of traces must be a number from 0 to 1: `OTEL_TRACES_SAMPLER_ARG={text}`")
            })?,
            None => DEFAULT_RATIO,
        };
        let attributes = variable("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
        let named = variable("OTEL_SERVICE_NAME").is_some() || attributes.contains("service.name=");
        Ok(Some(Self {
            endpoint,
            authorities: authorities.map_or_else(|| PathBuf::from(SYSTEM_AUTHORITIES), PathBuf::from),
            ratio: variable("OTEL_TRACES_SAMPLER").is_none().then_some(ratio),
            service_name: (!named).then_some("epp-server"),
        }))
    }

    fn channel(&self) -> Result<Channel, String> {
        let wrong = |error: &dyn fmt::Display| format!("cannot send traces, {error}: `{}`", self.endpoint);
        let mut endpoint = Endpoint::from_shared(self.endpoint.clone()).map_err(|error| wrong(&error))?;
        if endpoint.uri().scheme_str() == Some("https") {
            let tls = ClientTlsConfig::new().ca_certificate(read_authorities(&self.authorities)?);
            endpoint = endpoint.tls_config(tls).map_err(|error| wrong(&error))?;
        }
        // Without a connection, so that a collector may start later.
        Ok(endpoint.connect_lazy())
    }
}

fn read_authorities(path: &Path) -> Result<Certificate, String> {
    let pem = std::fs::read(path).map_err(|error| {
        format!(
            "cannot read the authorities of an https collector, {error}; hint: name them with `OTEL_EXPORTER_OTLP_CERTIFICATE`: `{}`",
            path.display()
        )
    })?;
    Ok(Certificate::from_pem(pem))
}

/// Makes spans and sends them to a collector, in batches and from a thread of its own.
pub struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    propagator: TraceContextPropagator,
}

impl Traces {
    /// Spans for a collector, which need not run yet. Has to be called where tokio runs.
    ///
    /// # Errors
    ///
    /// The endpoint is no URL, or its authorities cannot be read.
    pub fn new(settings: &TraceSettings) -> Result<Self, String> {
        let exporter = SpanExporter::builder().with_tonic().with_channel(settings.channel()?);
        let exporter = exporter.build().map_err(|error| format!("cannot send traces: {error}"))?;
        let mut resource =
            Resource::builder().with_attribute(KeyValue::new("service.version", p3sched::VERSION));
        if let Some(name) = settings.service_name {
            resource = resource.with_service_name(name);
        }
        let mut provider = SdkTracerProvider::builder()
            .with_resource(resource.build())
            .with_batch_exporter(LoggedExporter { exporter, failing: AtomicBool::new(false) });
        if let Some(ratio) = settings.ratio {
            let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio)));
            provider = provider.with_sampler(sampler);
        }
        let provider = provider.build();
        Ok(Self {
            tracer: provider.tracer("epp-server"),
            provider,
            propagator: TraceContextPropagator::new(),
        })
    }

    /// Begins the span of a request below the one that its headers name; `None` if it is not sampled.
    ///
    /// Whoever works on the request attaches it.
    pub fn begin<'a>(&self, headers: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Option<Context> {
        let headers = TraceHeaders::read(headers);
        let parent = self.propagator.extract_with_context(&Context::new(), &headers);
        let builder = SpanBuilder::from_name("request").with_kind(SpanKind::Server);
        let mut span = self.tracer.build_with_context(builder, &parent);
        if !span.is_recording() {
            return None;
        }
        if let Some(id) = headers.request_id {
            span.set_attribute(KeyValue::new("gen_ai.request.id", id.to_owned()));
        }
        Some(parent.with_span(span))
    }

    /// Begins the span of a pick below the current request's; `None` if that is not sampled.
    pub fn begin_pick(&self) -> Option<PickTrace> {
        let parent = Context::map_current(|context| context.has_active_span().then(|| context.clone()))?;
        let builder = SpanBuilder::from_name("request_orchestration").with_kind(SpanKind::Server);
        let span = self.tracer.build_with_context(builder, &parent);
        Some(PickTrace { context: parent.with_span(span), asked: SystemTime::now() })
    }

    /// Says what the scheduler did with a request.
    pub fn picked(&self, trace: &PickTrace, model: &str, priority: i32, decision: Option<&Decision>) {
        trace.context.span().set_attributes([
            KeyValue::new("target_model", model.to_owned()),
            KeyValue::new("request_prio", i64::from(priority)),
        ]);
        let mut attributes = vec![KeyValue::new("gen_ai.request.model", model.to_owned())];
        if let Some(decision) = decision {
            attributes.extend(attributes_of(decision));
        }
        let builder =
            SpanBuilder::from_name("pick_endpoints").with_start_time(trace.asked).with_attributes(attributes);
        let mut span = self.tracer.build_with_context(builder, &trace.context);
        if decision.is_none() {
            span.set_status(Status::error("no endpoint"));
        }
        span.end();
    }

    /// Headers that make spans of the engine children of the pick's.
    pub fn headers(&self, trace: &PickTrace) -> Vec<(&'static str, String)> {
        let mut headers = PropagatedHeaders(Vec::new());
        self.propagator.inject_context(&trace.context, &mut headers);
        headers.0
    }

    /// Sends what is left; takes seconds at most, during which the thread waits.
    pub fn shut_down(&self) {
        // What failed was logged by the exporter.
        let _result = self.provider.shutdown_with_timeout(FLUSH_TIMEOUT);
    }
}

/// The span of a pick; dropping it ends the span.
pub struct PickTrace {
    context: Context,
    asked: SystemTime,
}

/// Marks the current request's span as refused.
pub fn refused(refusal: &Refusal) {
    Context::map_current(|context| context.span().set_status(Status::error(refusal.code)));
}

/// Writes the end of the current request into its span; `error_code` is for what the endpoint could not do.
pub fn completed(outcome: &Outcome, error_code: Option<&'static str>) {
    Context::map_current(|context| {
        let span = context.span();
        for (name, tokens) in [
            ("gen_ai.usage.input_tokens", outcome.prompt_tokens),
            ("gen_ai.usage.output_tokens", outcome.completion_tokens),
            ("gen_ai.usage.cache_read.input_tokens", outcome.cached_tokens),
        ] {
            if let Some(tokens) = tokens {
                span.set_attribute(KeyValue::new(name, i64::from(tokens)));
            }
        }
        if let Some(error_code) = error_code {
            span.set_status(Status::error(error_code));
        }
    });
}

fn attributes_of(decision: &Decision) -> Vec<KeyValue> {
    let mut attributes = vec![
        KeyValue::new("p3sched.endpoint", decision.endpoint.to_string()),
        KeyValue::new("p3sched.prompt_tokens", i64::from(decision.prompt_tokens)),
        KeyValue::new("p3sched.matched_tokens", i64::from(decision.matched_tokens)),
    ];
    if let Some(explanation) = decision.explanation() {
        attributes.extend(attributes_of_candidates(explanation));
    }
    attributes
}

fn attributes_of_candidates(explanation: &Explanation) -> [KeyValue; 5] {
    let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    let mut rated: Vec<_> = (explanation.endpoints.iter())
        .filter_map(|endpoint| Some((&endpoint.endpoint, endpoint.total?)))
        .collect();
    rated.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(b.0)));
    let eligible = count(rated.len());
    rated.truncate(TOP_ENDPOINTS);
    let names = rated.iter().map(|(name, _)| name.to_string().into()).collect();
    let totals = rated.iter().map(|(_, total)| f64::from(*total)).collect();
    [
        KeyValue::new("llm_d.epp.filter.candidate_endpoints", count(explanation.endpoints.len())),
        KeyValue::new("llm_d.epp.filter.filtered_endpoints", eligible),
        KeyValue::new("llm_d.epp.picker.candidate_endpoints", eligible),
        KeyValue::new("llm_d.epp.picker.top_endpoints", Value::Array(Array::String(names))),
        KeyValue::new("llm_d.epp.picker.top_scores", Value::Array(Array::F64(totals))),
    ]
}

/// The headers that name a request and its trace.
#[derive(Default)]
struct TraceHeaders<'a> {
    traceparent: Option<&'a str>,
    tracestate: Option<&'a str>,
    request_id: Option<&'a str>,
}

impl<'a> TraceHeaders<'a> {
    fn read(headers: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        let mut found = Self::default();
        for (name, value) in headers {
            let place = match name {
                b"traceparent" => &mut found.traceparent,
                b"tracestate" => &mut found.tracestate,
                b"x-request-id" => &mut found.request_id,
                _ => continue,
            };
            *place = std::str::from_utf8(value).ok();
        }
        found
    }
}

impl Extractor for TraceHeaders<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => self.traceparent,
            "tracestate" => self.tracestate,
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

struct PropagatedHeaders(Vec<(&'static str, String)>);

impl Injector for PropagatedHeaders {
    fn set(&mut self, key: &str, value: String) {
        let name = match key {
            "traceparent" => "traceparent",
            "tracestate" => "tracestate",
            _ => return,
        };
        // An empty state says nothing and would be one more header.
        if !value.is_empty() {
            self.0.push((name, value));
        }
    }
}

/// Says once that spans cannot be sent, and once that they can again.
#[derive(Debug)]
struct LoggedExporter {
    exporter: SpanExporter,
    failing: AtomicBool,
}

impl opentelemetry_sdk::trace::SpanExporter for LoggedExporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let result = self.exporter.export(batch).await;
        let failed_before = self.failing.swap(result.is_err(), Ordering::Relaxed);
        match &result {
            Err(error) if !failed_before => {
                tracing::warn!(%error, "traces cannot be sent; they are dropped until the collector answers");
            }
            Ok(()) if failed_before => tracing::info!("traces are sent again"),
            _ => {}
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Result<Option<TraceSettings>, String> {
        let value = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        TraceSettings::from_variables(|name| value(name).map(str::to_owned))
    }

    #[test]
    fn the_standard_variables_are_read() {
        let unset = settings(&[]).unwrap().unwrap();
        assert_eq!(
            (&*unset.endpoint, unset.ratio, unset.service_name),
            ("http://localhost:4317", Some(0.1), Some("epp-server"))
        );
        let set = settings(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.5"),
            ("OTEL_SERVICE_NAME", ""),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=mine,zone=b"),
        ]);
        let expected = TraceSettings {
            endpoint: "http://collector:4317".to_owned(),
            authorities: PathBuf::from("/ca.pem"),
            ratio: Some(0.5),
            service_name: None,
        };
        assert_eq!(set.unwrap().unwrap(), expected);
        let own = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://metrics:4317"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://traces:4317"),
            ("OTEL_TRACES_SAMPLER", "always_on"),
        ];
        let own = settings(&own).unwrap().unwrap();
        assert_eq!((&*own.endpoint, own.ratio), ("https://traces:4317", None));
        assert_eq!(settings(&[("OTEL_SDK_DISABLED", "true")]), Ok(None));
        assert_eq!(settings(&[("OTEL_TRACES_EXPORTER", "none")]), Ok(None));
        assert!(
            settings(&[("OTEL_TRACES_SAMPLER_ARG", "2")])
                .unwrap_err()
                .contains("`OTEL_TRACES_SAMPLER_ARG=2`")
        );
    }
}
