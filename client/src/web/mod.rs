//! An envelope on the network: an HTTP(S) object, or one in S3, of which only the parts are fetched that are needed.
//!
//! Reading order: [`Location`] is what a person typed; [`s3`] signs for it where it is in S3; [`exchange`] is one request
//! and its answer; [`Object`] is bytes that can be read at any position.

mod connection;
mod exchange;
mod location;
mod object;
mod s3;

pub use self::location::{Access, Location, Plain};
pub(crate) use self::object::Object;
