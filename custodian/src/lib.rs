//! The key custodian. Read in this order: `custody` is the product, the others are what it stands on.

pub mod custody;

pub mod authority;
pub mod ledger;
pub mod log;
pub mod siem;
pub mod token;

pub mod net;
pub mod pki;
pub mod tsa;

pub mod api;
pub mod server;

pub mod config;
pub mod setup;
pub mod trouble;
