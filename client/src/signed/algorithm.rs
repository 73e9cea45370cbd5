//! How signers sign: RFC 4056 (RSA-PSS), RFC 5754 (ECDSA), RFC 8419 (Ed25519); and the hashes of RFC 5754 §2.

use std::fmt;

use aws_lc_rs::digest::{self, SHA256, SHA384, SHA512};

/// A hash that signatures use. SHA-1 is none of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Hash {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Hash {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Sha256, Self::Sha384, Self::Sha512];

    /// The implementation.
    pub fn implementation(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha256 => &SHA256,
            Self::Sha384 => &SHA384,
            Self::Sha512 => &SHA512,
        }
    }

    /// The hash of bytes in memory.
    pub fn of(self, bytes: &[u8]) -> Vec<u8> {
        digest::digest(self.implementation(), bytes).as_ref().to_vec()
    }

    /// Bytes of its output.
    pub fn output_len(self) -> u8 {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sha256 => "SHA-256",
            Self::Sha384 => "SHA-384",
            Self::Sha512 => "SHA-512",
        })
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
