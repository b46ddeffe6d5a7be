//! What an answer says about the tokens it took.

use std::ffi::c_void;

use crate::ffi::{self, guard, into_handle};
use crate::pick::TokenCount;
use crate::status::Status;

/// Finds the usage in an answer that passes by in pieces. One thread at a time may use it.
pub struct UsageScanner {
    scanner: p3sched::usage::UsageScanner,
}

/// Tokens of one answer, for the fields of the same names in `p3sched_outcome`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt, cached ones included.
    pub prompt_tokens: TokenCount,
    /// Tokens that were generated.
    pub completion_tokens: TokenCount,
    /// Tokens of the prompt that were found in the prefix cache.
    pub cached_tokens: TokenCount,
}

/// Makes a scanner for one answer, JSON or server-sent events. The caller owns `*scanner` and frees it with
/// `p3sched_usage_scanner_free`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p3sched_usage_scanner_new(scanner: *mut *mut UsageScanner) -> Status {
    guard(|| {
        let out = read!(output scanner);
        out.write(into_handle(UsageScanner { scanner: p3sched::usage::UsageScanner::new() }));
        Ok(())
    })
}

/// Passes over the next bytes of the answer. The `length` bytes at `data` are only read; at most 16 KiB are kept.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p3sched_usage_scanner_push(
    scanner: *mut UsageScanner,
    data: *const c_void,
    length: usize,
) -> Status {
    guard(|| {
        read!(borrow_mut scanner).scanner.push(read!(bytes data, length));
        Ok(())
    })
}

/// Writes what the answer has said so far; `*usage` is a plain value. The scanner may go on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p3sched_usage_scanner_finish(
    scanner: *const UsageScanner,
    usage: *mut Usage,
) -> Status {
    guard(|| {
        let out = read!(output usage);
        let found = read!(borrow scanner).scanner.finish();
        out.write(Usage {
            prompt_tokens: TokenCount::from_option(found.prompt_tokens),
            completion_tokens: TokenCount::from_option(found.completion_tokens),
            cached_tokens: TokenCount::from_option(found.cached_tokens),
        });
        Ok(())
    })
}

/// Frees a scanner; NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p3sched_usage_scanner_free(scanner: *mut UsageScanner) {
    // SAFETY: the caller hands the scanner back and does not use it any more, as the contract says.
    unsafe { ffi::free(scanner) }
}
