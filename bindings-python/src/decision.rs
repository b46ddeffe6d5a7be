//! `Decision`: which endpoint serves a request, and why.

use std::sync::{Arc, OnceLock};

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyString, PyTuple};

use crate::json;

/// Which endpoint serves a request.
///
/// It can be compared, hashed and pickled.
///
/// ```python
/// >>> from p3sched import Decision
/// >>> Decision(7, "10.0.0.1:8000", matched_tokens=96, prompt_tokens=120)
/// Decision(7, '10.0.0.1:8000', fallbacks=(), matched_tokens=96, prompt_tokens=120)
///
/// ```
#[pyclass(frozen, module = "p3sched")]
pub(crate) struct Decision {
    id: u64,
    endpoint: Arc<str>,
    fallbacks: Vec<Arc<str>>,
    matched_tokens: u32,
    prompt_tokens: u32,
    explanation: Option<Box<Explanation>>,
}

/// An explanation, made readable for Python when it is looked at.
struct Explanation {
    core: Option<p3sched::Explanation>,
    object: OnceLock<Py<PyAny>>,
}

impl Decision {
    pub(crate) fn new(decision: p3sched::Decision) -> Self {
        let explanation = decision.explanation().map(|explanation| {
            Box::new(Explanation { core: Some(explanation.clone()), object: OnceLock::new() })
        });
        Self {
            id: decision.id,
            endpoint: decision.endpoint,
            fallbacks: decision.fallbacks,
            matched_tokens: decision.matched_tokens,
            prompt_tokens: decision.prompt_tokens,
            explanation,
        }
    }
}

#[pymethods]
impl Decision {
    #[new]
    #[pyo3(signature = (id, endpoint, *, fallbacks=Vec::new(), matched_tokens, prompt_tokens, explanation=None))]
    fn from_parts(
        id: u64,
        endpoint: &str,
        fallbacks: Vec<String>,
        matched_tokens: u32,
        prompt_tokens: u32,
        explanation: Option<Py<PyAny>>,
    ) -> Self {
        let explanation =
            explanation.map(|object| Box::new(Explanation { core: None, object: OnceLock::from(object) }));
        Self {
            id,
            endpoint: endpoint.into(),
            fallbacks: fallbacks.into_iter().map(Into::into).collect(),
            matched_tokens,
            prompt_tokens,
            explanation,
        }
    }

    /// Name of this request for ``first_token`` and ``complete``, never reused; 0 if nothing was booked.
    #[getter]
    fn id(&self) -> u64 {
        self.id
    }

    /// The chosen endpoint.
    #[getter]
    fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Further endpoints to be tried in this order if the chosen one fails; as many as configured.
    #[getter]
    fn fallbacks<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.fallbacks.iter().map(|name| &**name))
    }

    /// Leading tokens of the prompt that the chosen endpoint is expected to hold.
    #[getter]
    fn matched_tokens(&self) -> u32 {
        self.matched_tokens
    }

    /// Tokens of the prompt; an estimate where the prompt is text.
    #[getter]
    fn prompt_tokens(&self) -> u32 {
        self.prompt_tokens
    }

    /// Why this endpoint: a plain dict whose ``str()`` is a table. ``None`` unless it was asked for.
    #[getter]
    fn explanation<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.explanation.as_ref().map(|explanation| explanation.object(py)).transpose()
    }

    /// The decision as a plain dict, the same as JSON in every language.
    ///
    /// ```python
    /// >>> from p3sched import Decision
    /// >>> Decision(7, "a:1", fallbacks=["b:1"], matched_tokens=0, prompt_tokens=3).to_dict()
    /// {'id': 7, 'endpoint': 'a:1', 'fallbacks': ['b:1'], 'matched_tokens': 0, 'prompt_tokens': 3}
    ///
    /// ```
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let fields = PyDict::new(py);
        fields.set_item("id", self.id)?;
        fields.set_item("endpoint", &*self.endpoint)?;
        fields.set_item("fallbacks", self.fallbacks.iter().map(|name| &**name).collect::<Vec<_>>())?;
        fields.set_item("matched_tokens", self.matched_tokens)?;
        fields.set_item("prompt_tokens", self.prompt_tokens)?;
        if let Some(explanation) = self.explanation(py)? {
            fields.set_item("explanation", explanation)?;
        }
        Ok(fields)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let Self { id, matched_tokens, prompt_tokens, .. } = self;
        let endpoint = PyString::new(py, &self.endpoint).repr()?;
        let fallbacks = self.fallbacks(py)?.repr()?;
        Ok(format!(
            "Decision({id}, {endpoint}, fallbacks={fallbacks}, matched_tokens={matched_tokens}, prompt_tokens={prompt_tokens})"
        ))
    }

    fn __eq__(&self, other: &Self, py: Python<'_>) -> PyResult<bool> {
        self.to_dict(py)?.eq(other.to_dict(py)?)
    }

    fn __hash__(&self) -> u64 {
        self.id
    }

    fn __getnewargs_ex__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyTuple>, Bound<'py, PyDict>)> {
        let fields = self.to_dict(py)?;
        fields.del_item("id")?;
        fields.del_item("endpoint")?;
        Ok(((self.id, &*self.endpoint).into_pyobject(py)?, fields))
    }
}

impl Explanation {
    fn object<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        if let Some(object) = self.object.get() {
            return Ok(object.bind(py).clone());
        }
        let fields = json::to_python(py, &self.core)?;
        let table = self.core.as_ref().map(ToString::to_string);
        let object = CLASS.import(py, "p3sched._explanation", "Explanation")?.call1((fields, table))?;
        Ok(self.object.get_or_init(|| object.unbind()).bind(py).clone())
    }
}
