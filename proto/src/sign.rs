//! What is signed with a key in the token, and how.

use std::fmt;

use der::asn1::ObjectIdentifier;
use sha2::{Digest as _, Sha256, Sha384, Sha512};

use crate::{key::KeyId, v1};

/// A hash function of FIPS 180-4.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Hash {
    /// 32 bytes.
    Sha256,
    /// 48 bytes.
    Sha384,
    /// 64 bytes.
    Sha512,
}

impl Hash {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Sha256, Self::Sha384, Self::Sha512];

    /// Its object identifier (RFC 5754 §2).
    pub fn oid(self) -> ObjectIdentifier {
        ObjectIdentifier::new_unwrap(match self {
            Self::Sha256 => "2.16.840.1.101.3.4.2.1",
            Self::Sha384 => "2.16.840.1.101.3.4.2.2",
            Self::Sha512 => "2.16.840.1.101.3.4.2.3",
        })
    }

    /// Bytes of a digest.
    pub fn size(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// The digest of bytes in memory.
    pub fn of(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha256 => Sha256::digest(bytes).to_vec(),
            Self::Sha384 => Sha384::digest(bytes).to_vec(),
            Self::Sha512 => Sha512::digest(bytes).to_vec(),
        }
    }

    /// As it stands in records: `sha256`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
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

/// How a digest is signed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SignatureAlgorithm {
    /// RFC 8017 §8.1 RSASSA-PSS with MGF1 over the same hash, and a salt as long as the digest.
    RsaPss(Hash),
    /// ECDSA on P-256 over SHA-256.
    EcdsaP256,
}

impl SignatureAlgorithm {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::RsaPss(Hash::Sha256), Self::RsaPss(Hash::Sha384), Self::RsaPss(Hash::Sha512), Self::EcdsaP256];

    /// The hash that makes the digest.
    pub fn hash(self) -> Hash {
        match self {
            Self::RsaPss(hash) => hash,
            Self::EcdsaP256 => Hash::Sha256,
        }
    }

    /// The name in text: `RSA-PSS-SHA256`.
    pub fn name(self) -> &'static str {
        match self {
            Self::RsaPss(Hash::Sha256) => "RSA-PSS-SHA256",
            Self::RsaPss(Hash::Sha384) => "RSA-PSS-SHA384",
            Self::RsaPss(Hash::Sha512) => "RSA-PSS-SHA512",
            Self::EcdsaP256 => "ECDSA-P256-SHA256",
        }
    }
}

impl fmt::Display for SignatureAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl From<SignatureAlgorithm> for v1::SignatureAlgorithm {
    fn from(algorithm: SignatureAlgorithm) -> Self {
        match algorithm {
            SignatureAlgorithm::RsaPss(Hash::Sha256) => Self::RsaPssSha256,
            SignatureAlgorithm::RsaPss(Hash::Sha384) => Self::RsaPssSha384,
            SignatureAlgorithm::RsaPss(Hash::Sha512) => Self::RsaPssSha512,
            SignatureAlgorithm::EcdsaP256 => Self::EcdsaP256Sha256,
        }
    }
}

impl TryFrom<v1::SignatureAlgorithm> for SignatureAlgorithm {
    type Error = UnspecifiedAlgorithm;

    fn try_from(algorithm: v1::SignatureAlgorithm) -> Result<Self, UnspecifiedAlgorithm> {
        match algorithm {
            v1::SignatureAlgorithm::Unspecified => Err(UnspecifiedAlgorithm),
            v1::SignatureAlgorithm::RsaPssSha256 => Ok(Self::RsaPss(Hash::Sha256)),
            v1::SignatureAlgorithm::RsaPssSha384 => Ok(Self::RsaPss(Hash::Sha384)),
            v1::SignatureAlgorithm::RsaPssSha512 => Ok(Self::RsaPss(Hash::Sha512)),
            v1::SignatureAlgorithm::EcdsaP256Sha256 => Ok(Self::EcdsaP256),
        }
    }
}

/// The message does not say how to sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature algorithm is not given")]
pub struct UnspecifiedAlgorithm;

/// A digest that a key is to sign.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DigestToSign {
    key_id: KeyId,
    algorithm: SignatureAlgorithm,
    digest: Vec<u8>,
}

impl DigestToSign {
    /// Puts the parts together. `None` if the digest is not as long as one of the algorithm's hash.
    pub fn new(key_id: KeyId, algorithm: SignatureAlgorithm, digest: Vec<u8>) -> Option<Self> {
        (digest.len() == algorithm.hash().size()).then_some(Self { key_id, algorithm, digest })
    }

    /// The key that is to sign.
    pub fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// How.
    pub fn algorithm(&self) -> SignatureAlgorithm {
        self.algorithm
    }

    /// The digest.
    pub fn digest(&self) -> &[u8] {
        &self.digest
    }

    /// The digest as it stands in records: `sha256:…`, in hex.
    pub fn recorded(&self) -> String {
        format!("{}:{}", self.algorithm.hash().name(), hex::encode(&self.digest))
    }

    /// What budgets know it by.
    pub fn sha256(&self) -> [u8; 32] {
        Sha256::digest(&self.digest).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_has_the_length_of_its_hash() {
        let key = KeyId::of_public_key(b"key");
        for algorithm in SignatureAlgorithm::ALL {
            for len in 0..130 {
                let made = DigestToSign::new(key, algorithm, vec![7; len]);
                assert_eq!(made.is_some(), len == algorithm.hash().size(), "{algorithm} over {len} bytes");
            }
            assert_eq!(SignatureAlgorithm::try_from(v1::SignatureAlgorithm::from(algorithm)), Ok(algorithm));
        }
    }
}
