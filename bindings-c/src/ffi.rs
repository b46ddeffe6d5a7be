//! What crosses the boundary: the only places where pointers are trusted and where panics end.
//!
//! What reads arguments is always inlined: most of it is checks that fold away, and a pick has a dozen of them.

use std::any::Any;
use std::ffi::{CStr, c_char};
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::slice;

use crate::status::{Failure, Status};

/// Reads an argument with one of the functions of this module, or leaves the function with the reason why it cannot.
macro_rules! read {
    ($reader:ident $pointer:expr $(, $length:expr)?) => {
        // SAFETY: a pointer that is not NULL points to what its type and length say, for as long as the call lasts. Nobody
        // but the caller can know that, and the contract in the header makes it the caller's part.
        unsafe { $crate::ffi::$reader($pointer, $($length,)? stringify!($pointer)) }?
    };
}

/// Runs a function's body: an error becomes its status and this thread's message, and so does a panic.
#[inline]
pub(crate) fn guard(body: impl FnOnce() -> Result<(), Failure>) -> Status {
    // A panic leaves no lock held and no handle half written: the core's locks open while it unwinds.
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => Status::Ok,
        Ok(Err(failure)) => failure.report(),
        Err(payload) => Failure::panic(&panic_message(&*payload)).report(),
    }
}

/// Runs the body of a function that returns a value, which is `otherwise` after a panic.
pub(crate) fn guard_or<T>(otherwise: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(otherwise)
}

fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message").to_owned()
}

/// The handle or structure behind a pointer.
#[inline(always)]
pub(crate) unsafe fn borrow<'a, T>(pointer: *const T, name: &'static str) -> Result<&'a T, Failure> {
    // SAFETY: the caller's promise, see `read!`.
    unsafe { optional(pointer, name) }?.ok_or_else(|| Failure::null(name))
}

/// The structure behind a pointer that may be NULL.
#[inline(always)]
pub(crate) unsafe fn optional<'a, T>(
    pointer: *const T,
    name: &'static str,
) -> Result<Option<&'a T>, Failure> {
    check_alignment(pointer, name)?;
    // SAFETY: the caller's promise, see `read!`.
    Ok(unsafe { pointer.as_ref() })
}

/// The handle behind a pointer, to be changed: only for handles that one thread uses at a time.
#[inline(always)]
pub(crate) unsafe fn borrow_mut<'a, T>(pointer: *mut T, name: &'static str) -> Result<&'a mut T, Failure> {
    check_alignment(pointer, name)?;
    // SAFETY: the caller's promise, see `read!`, and that no other thread uses the handle meanwhile.
    unsafe { pointer.as_mut() }.ok_or_else(|| Failure::null(name))
}

/// The place for a result; what is there before is not looked at.
#[inline(always)]
pub(crate) unsafe fn output<'a, T>(
    pointer: *mut T,
    name: &'static str,
) -> Result<&'a mut MaybeUninit<T>, Failure> {
    // SAFETY: the caller's promise, see `read!`; `MaybeUninit` asks nothing of the memory.
    unsafe { borrow_mut(pointer.cast::<MaybeUninit<T>>(), name) }
}

/// An array, which may be NULL if it is empty.
#[inline(always)]
pub(crate) unsafe fn array<'a, T>(
    pointer: *const T,
    length: usize,
    name: &'static str,
) -> Result<&'a [T], Failure> {
    if length == 0 {
        return Ok(&[]);
    }
    if pointer.is_null() {
        return Err(Failure::null(name));
    }
    check_alignment(pointer, name)?;
    if length > isize::MAX.unsigned_abs() / size_of::<T>().max(1) {
        return Err(Failure::length(name, length));
    }
    // SAFETY: not NULL, aligned and not larger than any object can be; the rest is the caller's promise, see `read!`.
    Ok(unsafe { slice::from_raw_parts(pointer, length) })
}

/// Bytes, which may be NULL if there are none; `T` is how the C type calls them.
#[inline(always)]
pub(crate) unsafe fn bytes<'a, T>(
    pointer: *const T,
    length: usize,
    name: &'static str,
) -> Result<&'a [u8], Failure> {
    // SAFETY: the caller's promise, see `read!`.
    unsafe { array(pointer.cast::<u8>(), length, name) }
}

/// A text that ends with NUL.
#[inline(always)]
pub(crate) unsafe fn text<'a>(pointer: *const c_char, name: &'static str) -> Result<&'a str, Failure> {
    // SAFETY: the caller's promise, see `read!`.
    unsafe { optional_text(pointer, name) }?.ok_or_else(|| Failure::null(name))
}

/// A text that ends with NUL, or none.
#[inline(always)]
pub(crate) unsafe fn optional_text<'a>(
    pointer: *const c_char,
    name: &'static str,
) -> Result<Option<&'a str>, Failure> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: not NULL; that it ends with NUL is the caller's promise, see `read!`.
    let text = unsafe { CStr::from_ptr(pointer) }.to_bytes();
    // Paths and names are ASCII, which is checked several times faster than UTF-8.
    if text.is_ascii() {
        // SAFETY: ASCII is UTF-8.
        return Ok(Some(unsafe { str::from_utf8_unchecked(text) }));
    }
    str::from_utf8(text).map(Some).map_err(|_| Failure::utf8(name))
}

#[inline(always)]
fn check_alignment<T>(pointer: *const T, name: &'static str) -> Result<(), Failure> {
    if pointer.is_aligned() {
        return Ok(());
    }
    Err(Failure::alignment(name, align_of::<T>()))
}

/// Gives a value to the caller, as a handle.
pub(crate) fn into_handle<T>(value: T) -> *mut T {
    Box::into_raw(Box::new(value))
}

/// Takes a handle back and ends its value; NULL is fine.
pub(crate) unsafe fn free<T>(handle: *mut T) {
    if handle.is_null() {
        return;
    }
    // SAFETY: every handle comes from `into_handle`; that it was not freed before is the caller's promise.
    let value = unsafe { Box::from_raw(handle) };
    guard_or((), || drop(value));
}
