//! The HTTP face of the simulated engine: OpenAI API, health, metrics, and switches for tests.

use super::engine::{Engine, Token};
use super::prompt::Prompt;
use super::{EngineSimulatorOptions, Fault, metrics};
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use futures_util::StreamExt;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_stream::wrappers::ReceiverStream;
use xxhash_rust::xxh3::xxh3_64;

/// Name of the replica on every response.
const ENGINE_ID: HeaderName = HeaderName::from_static("x-engine-id");
/// Length in bytes of the request body that arrived.
const BODY_BYTES: HeaderName = HeaderName::from_static("x-body-bytes");
/// XXH3-64 of the request body that arrived, sixteen hexadecimal digits.
const BODY_HASH: HeaderName = HeaderName::from_static("x-body-hash");

/// How much later a slow engine answers.
const SLOWNESS: Duration = Duration::from_secs(1);

/// Tokens of an answer whose request sets no limit.
const DEFAULT_MAX_TOKENS: u64 = 16;

/// What all requests share.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    options: Arc<EngineSimulatorOptions>,
    engine: Engine,
    fault: Arc<Mutex<Fault>>,
    requests: Arc<AtomicU64>,
}

/// The two forms of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Endpoint {
    Chat,
    Completions,
}

/// One request after its body has been understood.
struct Generation {
    endpoint: Endpoint,
    id: String,
    model: String,
    prompt: Prompt,
    max_tokens: usize,
    stream: bool,
    include_usage: bool,
}

impl Service {
    pub(crate) fn new(options: EngineSimulatorOptions) -> Self {
        let engine = Engine::new(&options);
        Self { options: Arc::new(options), engine, fault: Arc::default(), requests: Arc::default() }
    }

    pub(crate) fn set_fault(&self, fault: Fault) {
        *self.fault.lock() = fault;
    }

    pub(crate) fn requests_received(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub(crate) fn router(&self) -> Router {
        let api = Router::new()
            .route("/v1/models", get(models))
            .route("/v1/completions", post(completions))
            .route("/v1/chat/completions", post(chat_completions))
            .layer(from_fn_with_state(self.clone(), misbehave));
        Router::new()
            .route("/health", get(|| async { StatusCode::OK }))
            .route("/metrics", get(metrics_page))
            .route("/simulator/fault", post(set_fault))
            .route("/simulator/echo", any(echo))
            .route("/simulator/echo/{*path}", any(echo))
            .merge(api)
            .layer(from_fn_with_state(self.clone(), name_the_replica))
            .layer(DefaultBodyLimit::disable())
            .with_state(self.clone())
    }

    fn understand(&self, endpoint: Endpoint, body: &[u8]) -> Result<Generation, Refusal> {
        let body: Value = serde_json::from_slice(body)
            .map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, format!("invalid JSON: {error}")))?;
        let model = body.get("model").and_then(Value::as_str).unwrap_or_default().to_owned();
        if model != self.options.model && !self.options.adapters.contains(&model) {
            return Err(Refusal::new(StatusCode::NOT_FOUND, format!("unknown model: `{model}`")));
        }
        let prompt = match endpoint {
            Endpoint::Chat => Prompt::from_chat(&body),
            Endpoint::Completions => Prompt::from_completion(&body),
        };
        let prompt =
            prompt.ok_or_else(|| Refusal::new(StatusCode::BAD_REQUEST, "the request has no prompt"))?;
        let number = |name: &str| body.get(name).and_then(Value::as_u64);
        let max_tokens =
            number("max_completion_tokens").or(number("max_tokens")).unwrap_or(DEFAULT_MAX_TOKENS).max(1)
                as usize;
        if !self.engine.fits(&prompt, max_tokens) {
            let message = format!("the request is longer than the cache: {} tokens", prompt.tokens());
            return Err(Refusal::new(StatusCode::BAD_REQUEST, message));
        }
        let flag = |value: Option<&Value>| value.and_then(Value::as_bool).unwrap_or(false);
        Ok(Generation {
            endpoint,
            id: format!("{}-{}", endpoint.id_prefix(), self.requests_received()),
            model,
            prompt,
            max_tokens,
            stream: flag(body.get("stream")),
            include_usage: flag(body.pointer("/stream_options/include_usage")),
        })
    }

    async fn answer(&self, endpoint: Endpoint, body: &[u8]) -> Response {
        let generation = match self.understand(endpoint, body) {
            Ok(generation) => generation,
            Err(refusal) => return refusal.into_response(),
        };
        let adapter = self.options.adapters.contains(&generation.model).then(|| generation.model.clone());
        let tokens = self.engine.generate(generation.prompt.clone(), generation.max_tokens, adapter);
        if generation.stream { generation.stream(tokens) } else { generation.collect(tokens).await }
    }
}

impl Endpoint {
    fn id_prefix(self) -> &'static str {
        match self {
            Self::Chat => "chatcmpl",
            Self::Completions => "cmpl",
        }
    }

    fn object(self, stream: bool) -> &'static str {
        match (self, stream) {
            (Self::Chat, false) => "chat.completion",
            (Self::Chat, true) => "chat.completion.chunk",
            (Self::Completions, _) => "text_completion",
        }
    }
}

impl Generation {
    /// The answer as one JSON document.
    async fn collect(&self, mut tokens: mpsc::Receiver<Token>) -> Response {
        let (mut text, mut generated, mut cached) = (String::new(), 0, 0);
        while let Some(token) = tokens.recv().await {
            text.push_str(token.text);
            generated += 1;
            cached = token.cached_tokens;
        }
        let choice = match self.endpoint {
            Endpoint::Chat => choice("message", &json!({"role": "assistant", "content": text}), true),
            Endpoint::Completions => choice("text", &json!(text), true),
        };
        Json(self.document(&[choice], Some((generated, cached)))).into_response()
    }

    /// The answer as server-sent events, one per token, as vLLM sends them.
    fn stream(self, tokens: mpsc::Receiver<Token>) -> Response {
        let mut generated = 0;
        let events = ReceiverStream::new(tokens).map(move |token| {
            generated += 1;
            let last = generated == self.max_tokens;
            let choice = match self.endpoint {
                Endpoint::Chat => choice("delta", &json!({"content": token.text}), last),
                Endpoint::Completions => choice("text", &json!(token.text), last),
            };
            let mut events = String::new();
            if generated == 1 && self.endpoint == Endpoint::Chat {
                // vLLM names the role together with the first token, not before it.
                let role = json!({"role": "assistant", "content": ""});
                events.push_str(&self.event(&[self::choice("delta", &role, false)], None));
            }
            events.push_str(&self.event(&[choice], None));
            if last && self.include_usage {
                events.push_str(&self.event(&[], Some((generated, token.cached_tokens))));
            }
            if last {
                events.push_str("data: [DONE]\n\n");
            }
            events
        });
        let events = events.map(Ok::<_, std::convert::Infallible>);
        ([(header::CONTENT_TYPE, "text/event-stream; charset=utf-8")], Body::from_stream(events))
            .into_response()
    }

    fn event(&self, choices: &[Value], usage: Option<(usize, usize)>) -> String {
        format!("data: {}\n\n", self.document(choices, usage))
    }

    /// One JSON document; `usage` is the number of generated and of cached tokens.
    fn document(&self, choices: &[Value], usage: Option<(usize, usize)>) -> Value {
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
        let object = self.endpoint.object(self.stream);
        let prompt = self.prompt.tokens();
        let mut document = json!({
            "id": self.id, "object": object, "created": created, "model": self.model, "choices": choices,
        });
        if let (Some((generated, cached)), Some(fields)) = (usage, document.as_object_mut()) {
            let usage = json!({
                "prompt_tokens": prompt,
                "total_tokens": prompt + generated,
                "completion_tokens": generated,
                "prompt_tokens_details": {"cached_tokens": cached},
            });
            fields.insert("usage".to_owned(), usage);
        }
        document
    }
}

fn choice(field: &str, content: &Value, last: bool) -> Value {
    json!({"index": 0, (field): content, "logprobs": null, "finish_reason": last.then_some("length")})
}

async fn completions(State(service): State<Service>, body: Bytes) -> Response {
    with_body_record(service.answer(Endpoint::Completions, &body).await, &body)
}

async fn chat_completions(State(service): State<Service>, body: Bytes) -> Response {
    with_body_record(service.answer(Endpoint::Chat, &body).await, &body)
}

async fn models(State(service): State<Service>) -> Json<Value> {
    let names = std::iter::once(&service.options.model).chain(&service.options.adapters);
    let models: Vec<_> =
        names.map(|name| json!({"id": name, "object": "model", "owned_by": "p3sched"})).collect();
    Json(json!({"object": "list", "data": models}))
}

async fn metrics_page(State(service): State<Service>) -> Response {
    let fault = *service.fault.lock();
    match fault {
        Fault::HangMetrics => std::future::pending().await,
        Fault::GarbageMetrics => "\u{0}<html>vllm:num_requests_waiting{ no metrics here".into_response(),
        Fault::LargeMetrics => {
            "# A comment of fifty bytes, which is about a line.\n".repeat(200_000).into_response()
        }
        Fault::CutMetrics => {
            let page = metrics::page(&service.options, &service.engine);
            let half = Bytes::from(page).slice(..100);
            let cut = Err(std::io::Error::from(std::io::ErrorKind::ConnectionAborted));
            Body::from_stream(futures_util::stream::iter([Ok(half), cut])).into_response()
        }
        Fault::None | Fault::Hang | Fault::ServerError | Fault::Unavailable | Fault::Slow => {
            let page = metrics::page(&service.options, &service.engine);
            ([(header::CONTENT_TYPE, "text/plain; version=1.0.0; charset=utf-8")], page).into_response()
        }
    }
}

/// Says what arrived, with two cookies on the answer, so that a test of a proxy can compare both directions.
async fn echo(method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let headers: Vec<_> = headers
        .iter()
        .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
        .collect();
    let seen = json!({"method": method.as_str(), "path": uri.to_string(), "headers": headers});
    let mut response = with_body_record(Json(seen).into_response(), &body);
    for cookie in ["first=1", "second=2"] {
        response.headers_mut().append(header::SET_COOKIE, HeaderValue::from_static(cookie));
    }
    response
}

async fn set_fault(State(service): State<Service>, body: Bytes) -> Response {
    #[derive(serde::Deserialize)]
    struct Change {
        fault: Fault,
    }
    match serde_json::from_slice::<Change>(&body) {
        Ok(change) => {
            service.set_fault(change.fault);
            StatusCode::NO_CONTENT.into_response()
        }
        Err(error) => {
            Refusal::new(StatusCode::BAD_REQUEST, format!("invalid fault: {error}")).into_response()
        }
    }
}

async fn misbehave(State(service): State<Service>, request: Request, next: Next) -> Response {
    service.requests.fetch_add(1, Ordering::Relaxed);
    let fault = *service.fault.lock();
    match fault {
        Fault::Hang => std::future::pending().await,
        Fault::ServerError => {
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "simulated failure").into_response()
        }
        Fault::Unavailable => {
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "simulated overload").into_response()
        }
        Fault::Slow => {
            sleep(SLOWNESS).await;
            next.run(request).await
        }
        Fault::None
        | Fault::HangMetrics
        | Fault::GarbageMetrics
        | Fault::LargeMetrics
        | Fault::CutMetrics => next.run(request).await,
    }
}

async fn name_the_replica(State(service): State<Service>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if let Ok(name) = HeaderValue::from_str(&service.options.engine_id) {
        response.headers_mut().insert(ENGINE_ID, name);
    }
    response
}

fn with_body_record(mut response: Response, body: &[u8]) -> Response {
    response.headers_mut().insert(BODY_BYTES, HeaderValue::from(body.len()));
    if let Ok(hash) = HeaderValue::from_str(&format!("{:016x}", xxh3_64(body))) {
        response.headers_mut().insert(BODY_HASH, hash);
    }
    response
}

/// An error in the API's own form.
struct Refusal {
    status: StatusCode,
    message: String,
}

impl Refusal {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let error = json!({
            "message": self.message,
            "type": self.status.canonical_reason(),
            "code": self.status.as_u16(),
        });
        (self.status, Json(json!({"error": error}))).into_response()
    }
}
