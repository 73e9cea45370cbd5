//! Connections to other machines: whom to trust, and HTTP.

mod http;
mod tls;

pub use http::{Http, Origin};
pub use tls::{NoTrust, Tls};
