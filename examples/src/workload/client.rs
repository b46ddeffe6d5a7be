//! A client of the OpenAI API that measures what its user feels.

use super::Turn;
use anyhow::{Context, Result, ensure};
use futures_util::StreamExt;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Header in which Envoy names the replica that answered.
const SERVED_BY: &str = "x-served-by";

/// Limit of one request; longer counts as an error.
const REQUEST_LIMIT: Duration = Duration::from_secs(120);

/// What happened to one request.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// When it was sent, since the start of the run.
    pub sent: Duration,
    /// From sending it to the first token; `None` for answers in one piece.
    pub time_to_first_token: Option<Duration>,
    /// Prompt tokens by the engine's own count.
    pub prompt_tokens: u64,
    /// Prompt tokens that the engine had in its cache.
    pub cached_tokens: u64,
    /// Place of the replica that answered.
    pub replica: Option<usize>,
    /// The answer.
    pub text: String,
    /// Why there is no answer.
    pub error: Option<String>,
}

/// A client of one gateway.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    model: String,
    replicas: Vec<SocketAddr>,
    start: Instant,
}

/// A request body and where it goes.
#[derive(Debug, Clone)]
pub struct ApiRequest {
    path: &'static str,
    body: Value,
}

impl ApiRequest {
    /// A text completion.
    #[must_use]
    pub fn completion(prompt: &str, max_tokens: usize) -> Self {
        Self { path: "/v1/completions", body: json!({"prompt": prompt, "max_tokens": max_tokens}) }
    }

    /// A chat completion.
    #[must_use]
    pub fn chat(turns: &[Turn], max_tokens: usize) -> Self {
        let messages: Vec<_> =
            turns.iter().map(|turn| json!({"role": turn.role, "content": turn.content})).collect();
        Self { path: "/v1/chat/completions", body: json!({"messages": messages, "max_tokens": max_tokens}) }
    }

    /// The same request with its answer as a stream that ends with the usage.
    #[must_use]
    pub fn streamed(mut self) -> Self {
        self.set("stream", json!(true));
        self.set("stream_options", json!({"include_usage": true}));
        self
    }

    fn set(&mut self, name: &str, value: Value) {
        if let Some(fields) = self.body.as_object_mut() {
            fields.insert(name.to_owned(), value);
        }
    }

    fn is_streamed(&self) -> bool {
        self.body.get("stream").is_some()
    }
}

impl Client {
    /// Makes a client of the gateway at `url` in front of `replicas`.
    ///
    /// # Errors
    ///
    /// If the HTTP client cannot be set up.
    pub fn new(url: &str, model: &str, replicas: &[SocketAddr]) -> Result<Self> {
        let http = reqwest::Client::builder().no_proxy().timeout(REQUEST_LIMIT).build()?;
        Ok(Self {
            http,
            url: url.to_owned(),
            model: model.to_owned(),
            replicas: replicas.to_vec(),
            start: Instant::now(),
        })
    }

    /// Time since the client was made, the clock of [`Outcome::sent`].
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Fetches a path without a body.
    ///
    /// # Errors
    ///
    /// If the answer does not come or its status is not one of success.
    pub async fn get(&self, path: &str) -> Result<String> {
        let response = self.http.get(format!("{}{path}", self.url)).send().await?.error_for_status()?;
        Ok(response.text().await?)
    }

    /// Sends a request and measures it; a failure is part of the outcome.
    pub async fn send(&self, mut request: ApiRequest) -> Outcome {
        request.set("model", json!(self.model));
        // The models of the test answer at random: an early end would make runs differ.
        request.set("ignore_eos", json!(true));
        let mut outcome = Outcome { sent: self.elapsed(), ..Outcome::default() };
        if let Err(error) = self.exchange(&request, &mut outcome).await {
            outcome.error = Some(format!("{error:#}"));
        }
        outcome
    }

    async fn exchange(&self, request: &ApiRequest, outcome: &mut Outcome) -> Result<()> {
        let sent = Instant::now();
        let url = format!("{}{}", self.url, request.path);
        let response = self.http.post(url).json(&request.body).send().await?;
        outcome.replica = self.replica(&response);
        let status = response.status();
        if !status.is_success() {
            let body = response.text().await.unwrap_or_default();
            anyhow::bail!("status {}: {body}", status.as_u16());
        }
        if !request.is_streamed() {
            return outcome.read_document(&response.json().await?);
        }
        let mut events = EventReader::default();
        let mut body = response.bytes_stream();
        while let Some(chunk) = body.next().await {
            for event in events.push(&chunk?) {
                outcome.read_event(&event, sent)?;
            }
        }
        ensure!(events.done, "the stream ended early");
        ensure!(outcome.time_to_first_token.is_some(), "the stream holds no token");
        Ok(())
    }

    fn replica(&self, response: &reqwest::Response) -> Option<usize> {
        let served_by: SocketAddr = response.headers().get(SERVED_BY)?.to_str().ok()?.parse().ok()?;
        self.replicas.iter().position(|replica| *replica == served_by)
    }
}

impl Outcome {
    fn read_document(&mut self, document: &Value) -> Result<()> {
        let text = ["/choices/0/message/content", "/choices/0/text"]
            .iter()
            .find_map(|path| document.pointer(path)?.as_str())
            .context("the answer holds no text")?;
        text.clone_into(&mut self.text);
        self.read_usage(document);
        Ok(())
    }

    fn read_event(&mut self, event: &str, sent: Instant) -> Result<()> {
        let event: Value = serde_json::from_str(event).context("an event is not JSON")?;
        self.read_usage(&event);
        // The first event of a chat names the role; some engines send it before anything has been computed.
        if event.pointer("/choices/0/delta/role").is_some() {
            return Ok(());
        }
        let token = ["/choices/0/delta/content", "/choices/0/text"]
            .iter()
            .find_map(|path| event.pointer(path)?.as_str());
        if let Some(token) = token {
            self.text.push_str(token);
            self.time_to_first_token.get_or_insert_with(|| sent.elapsed());
        }
        Ok(())
    }

    fn read_usage(&mut self, document: &Value) {
        let count = |path: &str| document.pointer(path).and_then(Value::as_u64);
        if let Some(prompt) = count("/usage/prompt_tokens") {
            self.prompt_tokens = prompt;
            self.cached_tokens = count("/usage/prompt_tokens_details/cached_tokens").unwrap_or(0);
        }
    }
}

/// Cuts a stream of chunks into the data of its server-sent events.
#[derive(Debug, Default)]
struct EventReader {
    pending: Vec<u8>,
    done: bool,
}

impl EventReader {
    fn push(&mut self, chunk: &[u8]) -> Vec<String> {
        self.pending.extend_from_slice(chunk);
        let mut events = Vec::new();
        while let Some(end) = self.pending.windows(2).position(|pair| pair == b"\n\n") {
            let event: Vec<_> = self.pending.drain(..end + 2).collect();
            let event = String::from_utf8_lossy(&event);
            match event.trim_end().strip_prefix("data: ") {
                Some("[DONE]") => self.done = true,
                Some(data) => events.push(data.to_owned()),
                None => {}
            }
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_found_however_the_stream_is_cut() {
        let stream = b"data: {\"a\":1}\n\ndata: {\"b\":\"\xc3\xa4\"}\n\ndata: [DONE]\n\n";
        for size in 1..stream.len() {
            let mut reader = EventReader::default();
            let events: Vec<_> = stream.chunks(size).flat_map(|chunk| reader.push(chunk)).collect();
            assert_eq!(events, ["{\"a\":1}", "{\"b\":\"ä\"}"], "chunks of {size}");
            assert!(reader.done);
        }
    }

    #[test]
    fn the_role_is_not_the_first_token() {
        let mut outcome = Outcome::default();
        let sent = Instant::now();
        outcome.read_event(r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#, sent).unwrap();
        assert!(outcome.time_to_first_token.is_none());
        outcome.read_event(r#"{"choices":[{"delta":{"content":"a"}}]}"#, sent).unwrap();
        let usage =
            r#"{"choices":[],"usage":{"prompt_tokens":9,"prompt_tokens_details":{"cached_tokens":4}}}"#;
        outcome.read_event(usage, sent).unwrap();
        assert!(outcome.time_to_first_token.is_some());
        assert_eq!((outcome.text.as_str(), outcome.prompt_tokens, outcome.cached_tokens), ("a", 9, 4));
    }
}
