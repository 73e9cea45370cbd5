//! The C side: functions with the names of the C library's, which the dynamic linker finds first.
//!
//! To stand before C functions, `unsafe` is needed. It is here and nowhere else. The kernel is called directly, so none of
//! these can end in itself.
#![allow(unsafe_code, reason = "these are C functions, called by C")]

use std::{
    ffi::{c_int, c_void},
    os::fd::BorrowedFd,
    slice,
};

use libc::{off_t, size_t, ssize_t};
use rustix::io::{Errno, Result};

use crate::fault::{Call, meet};

/// pwrite(2)
///
/// # Safety
/// `buffer` has `count` bytes.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn pwrite64(
    file: c_int,
    buffer: *const c_void,
    count: size_t,
    at: off_t,
) -> ssize_t {
    // SAFETY: what the caller vouches for.
    let bytes = unsafe { slice::from_raw_parts(buffer.cast(), count) };
    let written = call(Call::Write, file, |file| rustix::io::pwrite(file, bytes, at.cast_unsigned()));
    written.map_or(-1, usize::cast_signed)
}

/// pwrite(2), by its other name.
///
/// # Safety
/// `buffer` has `count` bytes.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn pwrite(
    file: c_int,
    buffer: *const c_void,
    count: size_t,
    at: off_t,
) -> ssize_t {
    // SAFETY: what the caller vouches for.
    unsafe { pwrite64(file, buffer, count, at) }
}

/// ftruncate(2)
#[unsafe(no_mangle)]
pub(crate) extern "C" fn ftruncate64(file: c_int, length: off_t) -> c_int {
    done(call(Call::Write, file, |file| rustix::fs::ftruncate(file, length.cast_unsigned())))
}

/// ftruncate(2), by its other name.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn ftruncate(file: c_int, length: off_t) -> c_int {
    ftruncate64(file, length)
}

/// fsync(2)
#[unsafe(no_mangle)]
pub(crate) extern "C" fn fsync(file: c_int) -> c_int {
    done(call(Call::Sync, file, |file| rustix::fs::fsync(file)))
}

/// fdatasync(2)
#[unsafe(no_mangle)]
pub(crate) extern "C" fn fdatasync(file: c_int) -> c_int {
    done(call(Call::Sync, file, |file| rustix::fs::fdatasync(file)))
}

fn done(result: Option<()>) -> c_int {
    if result.is_some() { 0 } else { -1 }
}

/// Does it, or fails as told. `None`: `errno` says why not.
fn call<T>(kind: Call, file: c_int, act: impl FnOnce(BorrowedFd<'_>) -> Result<T>) -> Option<T> {
    let result = match meet(kind, file) {
        Some(number) => Err(Errno::from_raw_os_error(number)),
        None if file < 0 => Err(Errno::BADF),
        // SAFETY: not negative; if it is not open, the kernel says so.
        None => act(unsafe { BorrowedFd::borrow_raw(file) }),
    };
    result.map_err(|error| set_errno(error.raw_os_error())).ok()
}

fn set_errno(number: c_int) {
    // SAFETY: the C library's own place for this thread's error number.
    unsafe { *libc::__errno_location() = number };
}
