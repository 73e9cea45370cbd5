//! The promises of the CMS format, from outside: seal and extract as the command line uses them.

// A test fails by panicking, and helpers are part of it.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout)]

#[path = "../signed/authority.rs"]
#[allow(dead_code, reason = "shared by several programs; each uses a part of it")]
mod authority;
#[path = "../common/mod.rs"]
#[allow(dead_code, reason = "shared by several programs; each uses a part of it")]
mod common;
mod damage;
mod foreign;
mod hostile;
mod legacy;
mod peers;
#[path = "../signed/people.rs"]
#[allow(dead_code, reason = "shared by several programs; each uses a part of it")]
mod people;
mod rewrapped;
mod roundtrip;
#[path = "../every_format/senders.rs"]
mod senders;
#[path = "../every_format/stamped.rs"]
mod stamped;

/// What the shared helpers run with.
const FORMAT: custodian_client::envelope::Format = custodian_client::envelope::Format::Cms;
