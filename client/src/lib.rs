//! Seal files into envelopes, and open them through a custodian.

pub mod error;
pub mod extract;
pub mod inspect;
pub mod progress;
pub mod seal;
pub mod unwrapper;

pub mod interrupt;
pub mod password;
pub mod remote;
pub mod settings;

pub mod cli;

pub use error::{Error, Kind};
