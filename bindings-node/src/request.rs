//! Requests, from the options object that describes one.

use napi::bindgen_prelude::*;
use p3sched::{Error, Prompt, Request, openai};

use crate::clock::whole;
use crate::error::{self, from_core, from_napi};
use napi_derive::napi;

/// Token ids, in an array or a typed array.
type TokenIds<'a> = Either<Uint32ArraySlice<'a>, Vec<f64>>;

/// A prompt as text or as bytes of the canonical form.
type Text<'a> = Either<Uint8ArraySlice<'a>, String>;

/// Reads a request, whose fields have the names of the core's `Request`; the prompt is either `prompt` or `tokens`.
pub(crate) fn read(fields: &Object<'_>) -> error::Result<Request> {
    let mut request = Request::default();
    set_fields(&mut request, fields)?;
    Ok(request)
}

/// Sets the fields of a request that the object has; the others stay.
pub(crate) fn set_fields(request: &mut Request, fields: &Object<'_>) -> error::Result<()> {
    for name in Object::keys(fields).map_err(from_napi)? {
        let is_known = set_field(request, fields, &name).map_err(|fault| {
            let reason = fault.reason.clone();
            from_core(Error::InvalidRequest(format!("field `{name}`: {reason}")))
        })?;
        if !is_known {
            let names =
                "model, prompt, tokens, adapter, cacheSalt, session, priority, stream, subset, explain";
            let message = format!("unknown field `{name}`, expected one of: {names}");
            return Err(from_core(Error::InvalidRequest(message)));
        }
    }
    Ok(())
}

/// Whether there is a field of this name.
fn set_field(request: &mut Request, fields: &Object<'_>, name: &str) -> Result<bool> {
    if is_absent(fields, name)? {
        return Ok(true);
    }
    match name {
        "model" => request.model = required(fields, name)?,
        "prompt" => {
            request.prompt = Prompt::Bytes(match required::<Text<'_>>(fields, name)? {
                Either::A(bytes) => bytes.to_vec(),
                Either::B(text) => text.into_bytes(),
            });
        }
        "tokens" => request.prompt = Prompt::Tokens(token_ids(required(fields, name)?)?),
        "adapter" => request.adapter = Some(required(fields, name)?),
        "cacheSalt" => request.cache_salt = Some(required(fields, name)?),
        "session" => request.session = Some(required(fields, name)?),
        "priority" => request.priority = required(fields, name)?,
        "stream" => request.stream = required(fields, name)?,
        "subset" => request.subset = Some(required(fields, name)?),
        "explain" => request.explain = required(fields, name)?,
        _ => return Ok(false),
    }
    Ok(true)
}

fn is_absent(fields: &Object<'_>, name: &str) -> Result<bool> {
    let value: Option<Unknown<'_>> = fields.get(name)?;
    let absent = |value: Unknown<'_>| Ok(matches!(value.get_type()?, ValueType::Undefined | ValueType::Null));
    value.map_or(Ok(true), absent)
}

fn required<T: FromNapiValue>(fields: &Object<'_>, name: &str) -> Result<T> {
    fields.get(name)?.ok_or_else(|| napi::Error::from_reason("it is missing"))
}

fn token_ids(ids: TokenIds<'_>) -> Result<Vec<u32>> {
    let ids = match ids {
        Either::A(ids) => return Ok(ids.to_vec()),
        Either::B(ids) => ids,
    };
    let token_id = |id: &f64| {
        let fits = whole(*id).and_then(|id| u32::try_from(id).ok());
        fits.ok_or_else(|| {
            napi::Error::from_reason(format!("a token id must be a number below 2^32: `{id}`"))
        })
    };
    ids.iter().map(token_id).collect()
}

/// What a request body holds.
#[napi(object, object_from_js = false)]
pub struct Body<'a> {
    /// Name of the model, empty if the client named none.
    pub model: String,
    /// Canonical bytes of the prompt, if it is text.
    pub prompt: Option<BufferSlice<'a>>,
    /// Token ids of the prompt, if it is given in them.
    pub tokens: Option<Uint32Array>,
    /// vLLM's cache salt.
    pub cache_salt: Option<String>,
    /// Key that ties the requests of one conversation or user together.
    pub session: Option<String>,
    /// Whether the client asked for a streamed answer.
    pub stream: bool,
    /// First byte of the value of `model`, quotes included.
    pub model_start: Option<u32>,
    /// First byte behind the value of `model`.
    pub model_end: Option<u32>,
}

/// Reads the body of a request to `path`.
#[napi(catch_unwind)]
pub fn read_body<'a>(env: &'a Env, path: String, body: Uint8ArraySlice<'_>) -> error::Result<Body<'a>> {
    let openai::Body { request, model_span, .. } = openai::scan(&path, &body).map_err(from_core)?;
    let (prompt, tokens) = match request.prompt {
        Prompt::Tokens(tokens) => (None, Some(Uint32Array::new(tokens))),
        Prompt::Bytes(bytes) => (Some(BufferSlice::from_data(env, bytes).map_err(from_napi)?), None),
        _ => (None, None),
    };
    let place = |at: usize| u32::try_from(at).ok();
    Ok(Body {
        model: request.model,
        prompt,
        tokens,
        cache_salt: request.cache_salt,
        session: request.session,
        stream: request.stream,
        model_start: model_span.as_ref().and_then(|span| place(span.start)),
        model_end: model_span.as_ref().and_then(|span| place(span.end)),
    })
}
