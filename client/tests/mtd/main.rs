//! The promises of the MTD format, from outside: seal and extract as the command line uses them.

// A test fails by panicking, and helpers are part of it.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout)]

#[path = "../signed/authority.rs"]
#[allow(dead_code, reason = "shared by several programs; each uses a part of it")]
mod authority;
#[path = "../common/mod.rs"]
mod common;
mod damage;
#[path = "../every_format/disk.rs"]
mod disk;
mod early;
mod hostile;
#[path = "../every_format/killed.rs"]
mod killed;
mod peers;
#[path = "../signed/people.rs"]
#[allow(dead_code, reason = "shared by several programs; each uses a part of it")]
mod people;
#[path = "../every_format/pipes.rs"]
mod pipes;
mod recipients;
#[path = "../every_format/roundtrip.rs"]
mod roundtrip;
#[path = "../every_format/senders.rs"]
mod senders;
#[path = "../every_format/sources.rs"]
mod sources;
#[path = "../every_format/stamped.rs"]
mod stamped;

/// What the suites for every format run with.
const FORMAT: custodian_client::envelope::Format = custodian_client::envelope::Format::Mtd;
