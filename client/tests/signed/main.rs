//! The promises of signatures, from outside.

// A test fails by panicking, and helpers are part of it.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod accepted;
mod authority;
mod command;
mod lists;
mod peers;
mod people;
mod vectors;

#[path = "../common/mod.rs"]
#[allow(dead_code, reason = "shared by several programs; each uses a part of it")]
mod common;

/// What the shared helpers run with.
const FORMAT: custodian_client::envelope::Format = custodian_client::envelope::Format::Cms;
