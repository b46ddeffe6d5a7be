//! Requests, from the options object that describes one.

use napi::bindgen_prelude::*;
use napi_derive::napi;
use p3sched::{Error, Prompt, Request, openai};

use crate::error::{self, from_core, from_napi};
use crate::number::{count, within};

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
    let names = Object::keys(fields).map_err(from_napi)?;
    for name in &names {
        set_field(request, &Field { fields, name }).map_err(from_core)?;
    }
    let has = |name| names.iter().any(|given| given == name) && !Field { fields, name }.is_absent();
    if has("prompt") && has("tokens") {
        return Err(from_core(Error::InvalidRequest("give either `prompt` or `tokens`".to_owned())));
    }
    Ok(())
}

fn set_field(request: &mut Request, field: &Field<'_>) -> std::result::Result<(), Error> {
    if field.is_absent() {
        return Ok(());
    }
    match field.name {
        "model" => request.model = field.value("a string")?,
        "prompt" => {
            request.prompt = Prompt::Bytes(match field.value::<Text<'_>>("a string or a Uint8Array")? {
                Either::A(bytes) => bytes.to_vec(),
                Either::B(text) => text.into_bytes(),
            });
        }
        "tokens" => request.prompt = Prompt::Tokens(token_ids(field)?),
        "adapter" => request.adapter = Some(field.value("a string")?),
        "cacheSalt" => request.cache_salt = Some(field.value("a string")?),
        "session" => request.session = Some(field.value("a string")?),
        "priority" => {
            request.priority = within("priority", field.value("a number")?, i32::MIN, i32::MAX)?;
        }
        "stream" => request.stream = field.value("true or false")?,
        "subset" => request.subset = Some(field.value("an array of strings")?),
        "explain" => request.explain = field.value("true or false")?,
        name => {
            let names =
                "model, prompt, tokens, adapter, cacheSalt, session, priority, stream, subset, explain";
            return Err(Error::InvalidRequest(format!("unknown field `{name}`, expected one of: {names}")));
        }
    }
    Ok(())
}

/// One field of an options object.
struct Field<'a> {
    fields: &'a Object<'a>,
    name: &'a str,
}

impl Field<'_> {
    fn is_absent(&self) -> bool {
        let value = self.fields.get::<Unknown<'_>>(self.name).ok().flatten();
        let kind = value.and_then(|value| value.get_type().ok());
        matches!(kind, None | Some(ValueType::Undefined | ValueType::Null))
    }

    fn value<T: FromNapiValue>(&self, right: &str) -> std::result::Result<T, Error> {
        self.fields.get(self.name).ok().flatten().ok_or_else(|| {
            let value = self.fields.get::<Unknown<'_>>(self.name).ok().flatten();
            let kind = value.and_then(|value| value.get_type().ok()).unwrap_or(ValueType::Unknown);
            let found = format!("{kind:?}").to_lowercase();
            Error::InvalidRequest(format!("field `{}` must be {right}: `{found}`", self.name))
        })
    }
}

fn token_ids(field: &Field<'_>) -> std::result::Result<Vec<u32>, Error> {
    let ids = match field.value::<TokenIds<'_>>("an array of numbers or a Uint32Array")? {
        Either::A(ids) => return Ok(ids.to_vec()),
        Either::B(ids) => ids,
    };
    ids.into_iter().map(|id| count("a token id", id)).collect()
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
