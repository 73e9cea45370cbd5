//! Seal files into envelopes, and open them through a custodian.

pub mod error;
pub mod extract;
pub mod inspect;
pub mod progress;
pub mod seal;
pub mod unwrapper;

pub use error::{Error, Kind};
