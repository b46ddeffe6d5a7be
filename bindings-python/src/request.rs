//! `Request`: what is known of a request before an endpoint is picked.

use p3sched::Prompt;
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::buffer::{Buffer, TokenIds};
use crate::error::Failure;
use crate::interpreter::lend;
use crate::number::optional;

/// One request to be routed.
///
/// Give the prompt as ``text`` (``str``, or bytes) or as ``tokens`` (a buffer of whole numbers such as ``array`` or
/// numpy, or a sequence of ``int``), or let ``Request.from_body`` read it from an HTTP body. Requests whose ``model``,
/// ``adapter`` or ``cache_salt`` differ never share a prefix.
///
/// ```python
/// >>> from p3sched import Request
/// >>> request = Request("llama", text="You are a helpful assistant.", session="user 7")
/// >>> request.model, request.session, request.prompt
/// ('llama', 'user 7', b'You are a helpful assistant.')
///
/// ```
#[pyclass(frozen, eq, module = "p3sched")]
#[derive(PartialEq)]
pub(crate) struct Request(pub(crate) p3sched::Request);

/// What a caller may say of a request beside its prompt; `None` leaves the core's default.
#[derive(Default)]
struct Options {
    adapter: Option<String>,
    cache_salt: Option<String>,
    session: Option<String>,
    priority: Option<i32>,
    stream: Option<bool>,
    subset: Option<Vec<String>>,
    explain: Option<bool>,
}

impl Options {
    fn apply(self, request: &mut p3sched::Request) {
        request.adapter = self.adapter.or(request.adapter.take());
        request.cache_salt = self.cache_salt.or(request.cache_salt.take());
        request.session = self.session.or(request.session.take());
        request.priority = self.priority.unwrap_or(request.priority);
        request.stream = self.stream.unwrap_or(request.stream);
        request.subset = self.subset.or(request.subset.take());
        request.explain = self.explain.unwrap_or(request.explain);
    }
}

/// Names in a list or another sequence; one text is none.
struct Names(Vec<String>);

impl<'py> FromPyObject<'_, 'py> for Names {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        value.extract().map(Self).map_err(|_| {
            let found = value.repr().map_or_else(|_| String::new(), |repr| repr.to_string());
            Failure::type_error(format!("subset must be a list of `str`: `{found}`")).into()
        })
    }
}

#[pymethods]
impl Request {
    #[new]
    #[pyo3(signature = (
        model, *, text=None, tokens=None, adapter=None, cache_salt=None, session=None, priority=None, stream=None,
        subset=None, explain=None
    ))]
    fn new(
        model: String,
        text: Option<&Bound<'_, PyAny>>,
        tokens: Option<TokenIds>,
        adapter: Option<String>,
        cache_salt: Option<String>,
        session: Option<String>,
        priority: Option<&Bound<'_, PyAny>>,
        stream: Option<bool>,
        subset: Option<Names>,
        explain: Option<bool>,
    ) -> Result<Self, Failure> {
        let mut request = match (text, tokens) {
            (Some(text), None) => p3sched::Request::from_text(model, bytes_of_text(text)?),
            (None, Some(TokenIds(tokens))) => p3sched::Request::from_tokens(model, tokens),
            (None, None) => p3sched::Request::from_text(model, ""),
            (Some(_), Some(_)) => return Err(Failure::type_error("give either `text` or `tokens`")),
        };
        let (priority, subset) = (optional("priority", priority)?, subset.map(|Names(names)| names));
        Options { adapter, cache_salt, session, priority, stream, subset, explain }.apply(&mut request);
        Ok(Self(request))
    }

    /// The request that a client made with an HTTP body (OpenAI's APIs, Anthropic messages, vLLM, SGLang).
    ///
    /// Paths are matched by their end; one without a prompt, such as ``/v1/models``, gives an empty request that is
    /// picked by load alone. The keyword arguments replace what the body says.
    ///
    /// Raises ``InvalidRequest`` if the body cannot be read; the message names the byte.
    ///
    /// ```python
    /// >>> from p3sched import Request
    /// >>> body = b'{"model": "llama", "prompt": "Once upon", "stream": true}'
    /// >>> Request.from_body("/v1/completions", body).stream
    /// True
    ///
    /// ```
    #[staticmethod]
    #[pyo3(signature = (
        path, body, *, adapter=None, cache_salt=None, session=None, priority=None, subset=None, explain=None
    ))]
    fn from_body(
        py: Python<'_>,
        path: &str,
        body: Buffer,
        adapter: Option<String>,
        cache_salt: Option<String>,
        session: Option<String>,
        priority: Option<&Bound<'_, PyAny>>,
        subset: Option<Names>,
        explain: Option<bool>,
    ) -> Result<Self, Failure> {
        let mut request = lend(py, body.len(), || p3sched::Request::from_body(path, &body))?;
        let stream = None;
        let (priority, subset) = (optional("priority", priority)?, subset.map(|Names(names)| names));
        Options { adapter, cache_salt, session, priority, stream, subset, explain }.apply(&mut request);
        Ok(Self(request))
    }

    /// Name of the model as the client wrote it; empty when it named none.
    #[getter]
    fn model(&self) -> &str {
        &self.0.model
    }

    /// LoRA adapter, when it is known apart from the model name.
    #[getter]
    fn adapter(&self) -> Option<&str> {
        self.0.adapter.as_deref()
    }

    /// vLLM's ``cache_salt``: requests with different salts never share a prefix.
    #[getter]
    fn cache_salt(&self) -> Option<&str> {
        self.0.cache_salt.as_deref()
    }

    /// Key that ties the requests of one conversation or user together.
    #[getter]
    fn session(&self) -> Option<&str> {
        self.0.session.as_deref()
    }

    /// Larger is more urgent; negative requests may be shed.
    #[getter]
    fn priority(&self) -> i32 {
        self.0.priority
    }

    /// What the block hashes are computed from: canonical bytes, or token ids.
    #[getter]
    fn prompt<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match &self.0.prompt {
            Prompt::Bytes(bytes) => PyBytes::new(py, bytes).into_bound_py_any(py),
            Prompt::Tokens(tokens) => tokens.into_bound_py_any(py),
            _ => Err(Failure::type_error("a prompt of an unknown kind").into()),
        }
    }

    /// Whether the client asked for a streamed answer.
    #[getter]
    fn stream(&self) -> bool {
        self.0.stream
    }

    /// Names of the only endpoints that may serve this request; ``None`` allows all.
    #[getter]
    fn subset(&self) -> Option<Vec<String>> {
        self.0.subset.clone()
    }

    /// Whether the decision shall carry an explanation.
    #[getter]
    fn explain(&self) -> bool {
        self.0.explain
    }

    fn __repr__(&self) -> String {
        let prompt = match &self.0.prompt {
            Prompt::Bytes(bytes) => format!("{} bytes", bytes.len()),
            Prompt::Tokens(tokens) => format!("{} tokens", tokens.len()),
            _ => String::new(),
        };
        format!("<Request model={:?} prompt={prompt}>", self.0.model)
    }
}

impl Request {
    /// Bytes that the scheduler goes over.
    pub(crate) fn size(&self) -> usize {
        match &self.0.prompt {
            Prompt::Bytes(bytes) => bytes.len(),
            Prompt::Tokens(tokens) => size_of_val(&**tokens),
            _ => 0,
        }
    }
}

fn bytes_of_text(text: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    match text.extract::<&str>() {
        Ok(text) => Ok(text.as_bytes().to_vec()),
        Err(_) => text.extract::<Buffer>().map(|bytes| bytes.to_vec()),
    }
}
