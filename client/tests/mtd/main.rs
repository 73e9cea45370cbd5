//! The promises of the MTD format, from outside: seal and extract as the command line uses them.

// A test fails by panicking, and helpers are part of it.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout)]

mod common;
mod damage;
mod disk;
mod hostile;
mod killed;
mod peers;
mod pipes;
mod recipients;
mod roundtrip;
mod sources;
