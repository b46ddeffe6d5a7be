//! Statuses, and the message that explains the last one.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};
use std::fmt::Display;

/// How a call ended. Numbers are never given another meaning; a later version may add some.
#[repr(i32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It did what was asked for.
    Ok = 0,
    /// The configuration, or the name of an endpoint, cannot work.
    InvalidConfig = 1,
    /// The request cannot be read.
    InvalidRequest = 2,
    /// The scheduler has no endpoints at all.
    NoEndpoints = 3,
    /// There are endpoints, but a filter left none of them.
    NoEligibleEndpoint = 4,
    /// No endpoint of this name is known.
    UnknownEndpoint = 5,
    /// This id was never handed out by a pick of this scheduler.
    UnknownRequest = 6,
    /// The metrics cannot be read.
    InvalidMetrics = 7,
    /// A KV event, or the payload that should hold some, cannot be used.
    InvalidKvEvent = 8,
    /// The snapshot is truncated, corrupted or of another format.
    InvalidSnapshot = 9,
    /// An error that this version of the header has no number for; the message describes it.
    Other = 99,
    /// A pointer is NULL that must not be.
    NullPointer = 100,
    /// A text is not UTF-8.
    InvalidUtf8 = 101,
    /// A length, an alignment or a number that no correct program passes.
    InvalidArgument = 102,
    /// A defect of the library was caught; handles may still be used and freed. Please report it with the message.
    Panic = 103,
}

impl Status {
    fn of(error: &p3sched::Error) -> Self {
        match error {
            p3sched::Error::InvalidConfig(_) => Self::InvalidConfig,
            p3sched::Error::InvalidRequest(_) => Self::InvalidRequest,
            p3sched::Error::NoEndpoints => Self::NoEndpoints,
            p3sched::Error::NoEligibleEndpoint { .. } => Self::NoEligibleEndpoint,
            p3sched::Error::UnknownEndpoint(_) => Self::UnknownEndpoint,
            p3sched::Error::UnknownRequest(_) => Self::UnknownRequest,
            p3sched::Error::InvalidMetrics(_) => Self::InvalidMetrics,
            p3sched::Error::InvalidKvEvent(_) => Self::InvalidKvEvent,
            p3sched::Error::InvalidSnapshot(_) => Self::InvalidSnapshot,
            _ => Self::Other,
        }
    }
}

/// Why a call failed. One pointer, so that the results of checks that succeed stay in registers.
#[derive(Debug)]
pub(crate) struct Failure(Box<(Status, String)>);

impl Failure {
    #[cold]
    fn new(status: Status, message: String) -> Self {
        Self(Box::new((status, message)))
    }

    #[cold]
    pub(crate) fn null(name: &str) -> Self {
        Self::new(Status::NullPointer, format!("`{}` must not be NULL", member(name)))
    }

    #[cold]
    pub(crate) fn utf8(name: &str) -> Self {
        Self::new(Status::InvalidUtf8, format!("`{}` must be UTF-8", member(name)))
    }

    #[cold]
    pub(crate) fn alignment(name: &str, right: usize) -> Self {
        Self::argument(&format!("`{}` must be aligned to {right} bytes", member(name)))
    }

    #[cold]
    pub(crate) fn length(name: &str, length: usize) -> Self {
        Self::argument(&format!("`{}` must fit into memory: `{length}` elements", member(name)))
    }

    #[cold]
    pub(crate) fn argument(message: &str) -> Self {
        Self::new(Status::InvalidArgument, message.to_owned())
    }

    #[cold]
    pub(crate) fn other(message: String) -> Self {
        Self::new(Status::Other, message)
    }

    #[cold]
    pub(crate) fn panic(message: &str) -> Self {
        Self::new(Status::Panic, format!("defect in p3sched: {message}"))
    }

    /// Keeps the message for this thread.
    #[cold]
    pub(crate) fn report(self) -> Status {
        let (status, message) = *self.0;
        let message = CString::new(message.replace('\0', "\u{FFFD}")).unwrap_or_default();
        // A thread that is ending has no place for messages any more; the status still tells.
        let _ = LAST_ERROR.try_with(|last| last.replace(message));
        status
    }
}

impl From<p3sched::Error> for Failure {
    #[cold]
    fn from(error: p3sched::Error) -> Self {
        Self::new(Status::of(&error), error.to_string())
    }
}

/// The name of an argument or member as C programs know it.
fn member(name: &str) -> &str {
    name.strip_prefix("self.").unwrap_or(name)
}

/// Makes an error of the core from what serde says about a JSON text.
pub(crate) fn json_failure(kind: fn(String) -> p3sched::Error, error: impl Display) -> Failure {
    kind(error.to_string()).into()
}

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// Describes the last call of this thread that failed: one line of UTF-8, empty if none failed yet. The text belongs to the
/// library and is valid until the next call of this thread that fails; calls that succeed leave it as it is.
#[unsafe(no_mangle)]
pub extern "C" fn p3sched_last_error_message() -> *const c_char {
    let empty = c"".as_ptr();
    LAST_ERROR.try_with(|last| last.try_borrow().map_or(empty, |message| message.as_ptr())).unwrap_or(empty)
}

/// Name of a status, the same string as the error's code in the other languages, for example `NoEndpoints`. The text
/// belongs to the library and is always valid; a number without a name gives `Unknown`.
#[unsafe(no_mangle)]
pub extern "C" fn p3sched_status_name(status: i32) -> *const c_char {
    name(status).as_ptr()
}

fn name(status: i32) -> &'static CStr {
    const NAMES: [(Status, &CStr); 15] = [
        (Status::Ok, c"Ok"),
        (Status::InvalidConfig, c"InvalidConfig"),
        (Status::InvalidRequest, c"InvalidRequest"),
        (Status::NoEndpoints, c"NoEndpoints"),
        (Status::NoEligibleEndpoint, c"NoEligibleEndpoint"),
        (Status::UnknownEndpoint, c"UnknownEndpoint"),
        (Status::UnknownRequest, c"UnknownRequest"),
        (Status::InvalidMetrics, c"InvalidMetrics"),
        (Status::InvalidKvEvent, c"InvalidKvEvent"),
        (Status::InvalidSnapshot, c"InvalidSnapshot"),
        (Status::Other, c"Other"),
        (Status::NullPointer, c"NullPointer"),
        (Status::InvalidUtf8, c"InvalidUtf8"),
        (Status::InvalidArgument, c"InvalidArgument"),
        (Status::Panic, c"Panic"),
    ];
    NAMES.iter().find(|(known, _)| *known as i32 == status).map_or(c"Unknown", |(_, name)| name)
}

/// Version of the library that runs, for example `0.1.0`; compare it with `P3SCHED_VERSION` of the header. The text belongs
/// to the library and is always valid.
#[unsafe(no_mangle)]
pub extern "C" fn p3sched_version() -> *const c_char {
    const VERSION: &CStr =
        match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
            Ok(version) => version,
            Err(_) => c"",
        };
    VERSION.as_ptr()
}
