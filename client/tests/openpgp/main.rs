//! The promises of the OpenPGP format, from outside: seal and extract as the command line uses them.

// A test fails by panicking, and helpers are part of it.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout)]

mod certificates;
#[path = "../common/mod.rs"]
#[allow(dead_code, reason = "shared by several programs; each uses a part of it")]
mod common;
mod damage;
mod facts;
mod gpg;
mod peers;
mod person;
mod senders;
mod senders_peers;
#[path = "../common/vector.rs"]
mod vector;
mod vectors;

/// What the shared helpers run with.
const FORMAT: custodian_client::envelope::Format = custodian_client::envelope::Format::OpenPgp;
