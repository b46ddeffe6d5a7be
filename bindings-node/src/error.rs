//! Errors as JavaScript sees them: `err.code` is the core's stable code.

use napi::Env;

/// What an exported function fails with.
pub(crate) type Error = napi::Error<String>;
/// What an exported function returns.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// An error of the core.
pub(crate) fn from_core(error: p3sched::Error) -> Error {
    napi::Error::new(error.code().to_owned(), error.to_string())
}

/// An error of Node-API.
pub(crate) fn from_napi(error: napi::Error) -> Error {
    napi::Error::new(error.status.as_ref().to_owned(), error.reason.clone())
}

/// Throws an error of the core where only an error of Node-API can be returned.
pub(crate) fn throw(env: &Env, error: &p3sched::Error) -> napi::Error {
    match env.throw_error(&error.to_string(), Some(error.code())) {
        Ok(()) => napi::Error::from_status(napi::Status::PendingException),
        Err(failure) => failure,
    }
}
