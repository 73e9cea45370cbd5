//! A disk that fails as it is told: preloaded, this stands before the C library's calls that write to files.
//!
//! | environment | |
//! |---|---|
//! | `LD_PRELOAD` | this library |
//! | `FAULTY_DISK_FILES` | the beginning of the paths of the files it is about |
//! | `FAULTY_DISK_CONTROL` | a file with the name of a [`Fault`], read at each call; missing or empty: nothing fails |
//!
//! Calls of the kernel that do not go through the C library's `pwrite`, `ftruncate`, `fsync` and `fdatasync` are not seen:
//! SQLite makes all of its own through them.

mod calls;
mod fault;

pub use fault::Fault;

/// The environment variable with the file that tells what to do.
pub const CONTROL: &str = "FAULTY_DISK_CONTROL";

/// The environment variable with the beginning of the paths.
pub const FILES: &str = "FAULTY_DISK_FILES";
