//! Signatures: CMS SignedData (RFC 5652 §5, RFC 8551).
//!
//! Reading order: [`Signer`] is who signs, [`Algorithm`] how.

mod algorithm;
mod signer;

pub use algorithm::{Algorithm, Hash};
pub use signer::Signer;
