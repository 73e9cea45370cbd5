//! Seal files into envelopes, and open them through a custodian.

pub mod ahead;
pub mod approval;
mod chain;
pub mod envelope;
pub mod error;
pub mod extract;
mod input;
pub mod inspect;
pub mod log;
pub mod output;
pub mod progress;
pub mod seal;
mod sender;
pub mod sign;
pub mod signed;
mod single;
mod sources;
mod stdin;
mod target;
pub mod timestamp;
pub mod unwrapper;
pub mod verify;
pub mod web;
pub mod witness;
pub mod workers;

pub mod interrupt;
pub mod password;
pub mod person;
mod private_file;
pub mod remote;
pub mod settings;

pub mod cli;

pub use error::{Error, Kind};
