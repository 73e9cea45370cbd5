//! Timestamps (RFC 3161): that something was there at a time, as an authority says that signs nothing else.
//!
//! Reading order: [`Authority`] is who is asked, [`HttpAuthority`] one on the web; [`ask`] gets a timestamp, [`Token`] is one,
//! and [`Token::verify`] tells whether it is right and whose. [`Attached`] is the one of a signature.

mod ask;
mod attach;
mod authority;
mod http;
mod token;
mod trust;

pub use ask::ask;
pub use attach::Attached;
pub(crate) use attach::attributes;
pub use authority::Authority;
pub use http::HttpAuthority;
pub use token::{Stamped, Token};
pub use trust::{Others, TrustedAuthorities};
