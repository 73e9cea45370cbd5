//! Who signs: a key in a file, in a PKCS #11 token, or in the custodian.

use super::Algorithm;
use crate::{error::Result, timestamp::Authority};

/// A signing key with its certificate.
pub trait Signer: Send + Sync {
    /// The signer's certificate, and then those between it and its root, each signed by the next; DER. Never empty. The
    /// root itself may be missing: who verifies has it.
    fn certificates(&self) -> &[Vec<u8>];

    /// How it signs. Always the same for one signer.
    fn algorithm(&self) -> Algorithm;

    /// Signs a short message: the signed attributes in DER (RFC 5652 §5.4). A signer hashes it with
    /// [`Algorithm::hash`] itself; Ed25519 takes the message as it is (RFC 8419 §3.1).
    ///
    /// # Errors
    /// Whatever keeps the key from signing.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>>;
}

/// Who signs, and who says when that was.
#[derive(Clone, Copy)]
pub struct Signing<'a> {
    /// Who signs.
    pub signer: &'a dyn Signer,
    /// Who vouches for the time (RFC 3161 appendix A); `None`: nobody but the signer tells it.
    pub authority: Option<&'a dyn Authority>,
}

impl<'a> Signing<'a> {
    /// By this signer, without a timestamp.
    pub fn by(signer: &'a dyn Signer) -> Self {
        Self { signer, authority: None }
    }
}
