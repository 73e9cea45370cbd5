//! From a configuration to a running custodian, and from nothing to a configuration.

pub mod accept_ledger;
pub mod check;
pub mod dev;
mod files;
pub mod init;
mod layout;
pub mod log_key;
mod made;
mod parts;
pub mod people_ca;
pub mod reset_factor;
pub mod reset_policy;
pub mod serve;

pub use parts::Parts;
