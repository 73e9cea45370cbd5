//! How signers sign: RFC 4056 (RSA-PSS), RFC 5754 (ECDSA), RFC 8419 (Ed25519).

use std::fmt;

use aws_lc_rs::digest::{self, SHA256, SHA384, SHA512};
use custodian_proto::sign::Hash;

/// The implementation of a hash that takes content piece by piece.
pub(super) fn implementation(hash: Hash) -> &'static digest::Algorithm {
    match hash {
        Hash::Sha256 => &SHA256,
        Hash::Sha384 => &SHA384,
        Hash::Sha512 => &SHA512,
    }
}

/// How a signer signs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Algorithm {
    /// RSASSA-PSS, MGF1 over the same hash, a salt as long as the hash.
    RsaPss(Hash),
    /// ECDSA over P-256 with SHA-256; the signature is in DER.
    EcdsaP256,
    /// ECDSA over P-384 with SHA-384; the signature is in DER.
    EcdsaP384,
    /// Ed25519.
    Ed25519,
}

impl Algorithm {
    /// The hash of the content, and of the signed attributes where the algorithm hashes them.
    pub fn hash(self) -> Hash {
        match self {
            Self::RsaPss(hash) => hash,
            Self::EcdsaP256 => Hash::Sha256,
            Self::EcdsaP384 => Hash::Sha384,
            // RFC 8419 §3.1: with signed attributes, id-sha512.
            Self::Ed25519 => Hash::Sha512,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RsaPss(hash) => write!(f, "RSA-PSS with {hash}"),
            Self::EcdsaP256 => f.write_str("ECDSA P-256"),
            Self::EcdsaP384 => f.write_str("ECDSA P-384"),
            Self::Ed25519 => f.write_str("Ed25519"),
        }
    }
}
