//! How signatures are told in messages, and how they are verified: RFC 4055/4056 (RSA), RFC 5754 (ECDSA), RFC 8419 (Ed25519).

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P256_SHA512_ASN1, ECDSA_P384_SHA256_ASN1,
    ECDSA_P384_SHA384_ASN1, ECDSA_P384_SHA512_ASN1, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaPssSaltLength, VerificationAlgorithm,
};
use der::{Any, Sequence, asn1::ObjectIdentifier};
use spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};

use super::{Algorithm, Hash};
pub(super) const ID_RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const ID_RSASSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
const ID_MGF1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.8");
const ID_EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const ID_P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const ID_P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const ID_ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// What names both the padding and the hash.
const PKCS1: [(Hash, ObjectIdentifier); 3] = [
    (Hash::Sha256, ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.11")),
    (Hash::Sha384, ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.12")),
    (Hash::Sha512, ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.13")),
];
const ECDSA: [(Hash, ObjectIdentifier); 3] = [
    (Hash::Sha256, ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2")),
    (Hash::Sha384, ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3")),
    (Hash::Sha512, ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.4")),
];

/// `RSASSA-PSS-params`, RFC 4055 §3.1. What is left out stands for SHA-1, which is not accepted: so only the trailer has a
/// default here.
#[derive(Sequence)]
struct PssParameters {
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    hash: AlgorithmIdentifierOwned,
    #[asn1(context_specific = "1", tag_mode = "EXPLICIT")]
    mgf: AlgorithmIdentifierOwned,
    #[asn1(context_specific = "2", tag_mode = "EXPLICIT")]
    salt_len: u16,
    #[asn1(context_specific = "3", tag_mode = "EXPLICIT", default = "trailer")]
    trailer: u8,
}

fn trailer() -> u8 {
    1
}

/// The identifier of a hash: RFC 5754 §2, without parameters.
pub(super) fn hash_identifier(hash: Hash) -> AlgorithmIdentifierOwned {
    AlgorithmIdentifierOwned { oid: hash.oid(), parameters: None }
}

/// A salt is as long as the hash.
fn salt_len(hash: Hash) -> u16 {
    hash.size() as u16
}

/// Reads the identifier of a hash, whose parameters may be absent or NULL (RFC 5754 §2). `None` for others.
pub(super) fn hash_from(algorithm: &AlgorithmIdentifierOwned) -> Option<Hash> {
    let plain = algorithm.parameters.as_ref().is_none_or(Any::is_null);
    Hash::ALL.into_iter().find(|hash| plain && hash.oid() == algorithm.oid)
}

/// The identifier of a signer's algorithm in a SignerInfo.
pub(super) fn identifier(algorithm: Algorithm) -> der::Result<AlgorithmIdentifierOwned> {
    let named = |names: [(Hash, ObjectIdentifier); 3], hash| {
        let found = names.into_iter().find(|(named, _)| *named == hash);
        let oid = found.map(|(_, oid)| oid).ok_or_else(|| der::Error::from(der::ErrorKind::Failed))?;
        Ok(AlgorithmIdentifierOwned { oid, parameters: None })
    };
    match algorithm {
        Algorithm::RsaPss(hash) => {
            // RFC 4055 §2.1: here the parameters of a hash are NULL.
            let hash_id = AlgorithmIdentifierOwned { oid: hash.oid(), parameters: Some(Any::null()) };
            let mgf =
                AlgorithmIdentifierOwned { oid: ID_MGF1, parameters: Some(Any::encode_from(&hash_id)?) };
            let salt_len = salt_len(hash);
            let parameters = PssParameters { hash: hash_id, mgf, salt_len, trailer: trailer() };
            let parameters = Some(Any::encode_from(&parameters)?);
            Ok(AlgorithmIdentifierOwned { oid: ID_RSASSA_PSS, parameters })
        }
        Algorithm::EcdsaP256 => named(ECDSA, Hash::Sha256),
        Algorithm::EcdsaP384 => named(ECDSA, Hash::Sha384),
        Algorithm::Ed25519 => Ok(AlgorithmIdentifierOwned { oid: ID_ED25519, parameters: None }),
    }
}

/// How a signature was made, as a SignerInfo tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Scheme {
    /// RSASSA-PSS with a salt of this many bytes: `openssl` takes the longest that fits.
    Pss(Hash, u16),
    /// RSASSA-PKCS1-v1_5, the default of `openssl`. Ours never make it.
    Pkcs1(Hash),
    Ecdsa(Hash),
    Ed25519,
}

impl Scheme {
    /// How a signer of this algorithm makes them.
    pub(super) fn of(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::RsaPss(hash) => Self::Pss(hash, salt_len(hash)),
            Algorithm::EcdsaP256 | Algorithm::EcdsaP384 => Self::Ecdsa(algorithm.hash()),
            Algorithm::Ed25519 => Self::Ed25519,
        }
    }

    /// Reads it. `hash` is what the content is hashed with: the attributes must be hashed with the same. `None` if it is not
    /// known here.
    pub(super) fn read(algorithm: &AlgorithmIdentifierOwned, hash: Hash) -> Option<Self> {
        let plain = algorithm.parameters.as_ref().is_none_or(Any::is_null);
        let names = |names: [(Hash, ObjectIdentifier); 3]| plain && names.contains(&(hash, algorithm.oid));
        match algorithm.oid {
            ID_RSASSA_PSS => Self::read_pss(algorithm.parameters.as_ref()?, hash),
            // RFC 3370 §3.2: the hash is then that of the content.
            ID_RSA_ENCRYPTION if plain => Some(Self::Pkcs1(hash)),
            // RFC 8419 §3.1: with signed attributes, SHA-512.
            ID_ED25519 if algorithm.parameters.is_none() && hash == Hash::Sha512 => Some(Self::Ed25519),
            _ if names(PKCS1) => Some(Self::Pkcs1(hash)),
            _ if names(ECDSA) => Some(Self::Ecdsa(hash)),
            _ => None,
        }
    }

    fn read_pss(parameters: &Any, hash: Hash) -> Option<Self> {
        let parameters: PssParameters = parameters.decode_as().ok()?;
        let mgf_hash = parameters.mgf.parameters.as_ref()?.decode_as::<AlgorithmIdentifierOwned>().ok()?;
        let same = [&parameters.hash, &mgf_hash].into_iter().all(|id| hash_from(id) == Some(hash));
        let usual = parameters.mgf.oid == ID_MGF1 && parameters.trailer == trailer();
        (same && usual).then_some(Self::Pss(hash, parameters.salt_len))
    }

    /// Whether this is a signature of the message under this key. Also no: the key is of another kind, of a size or on a
    /// curve that is not known here.
    pub(super) fn verify(self, key: &SubjectPublicKeyInfoOwned, message: &[u8], signature: &[u8]) -> bool {
        let Some(bytes) = key.subject_public_key.as_bytes() else { return false };
        let Some(kind) = KeyKind::of(&key.algorithm) else { return false };
        let verifies =
            |algorithm: &dyn VerificationAlgorithm| algorithm.verify_sig(bytes, message, signature).is_ok();
        match (self, kind) {
            (Self::Pss(hash, salt_len), KeyKind::Rsa | KeyKind::RsaForPss) => {
                let parameters = match hash {
                    Hash::Sha256 => RSA_PSS_2048_8192_SHA256,
                    Hash::Sha384 => RSA_PSS_2048_8192_SHA384,
                    Hash::Sha512 => RSA_PSS_2048_8192_SHA512,
                };
                verifies(&parameters.with_pss_salt_length(RsaPssSaltLength::Custom(salt_len)))
            }
            (Self::Pkcs1(hash), KeyKind::Rsa) => verifies(match hash {
                Hash::Sha256 => &RSA_PKCS1_2048_8192_SHA256,
                Hash::Sha384 => &RSA_PKCS1_2048_8192_SHA384,
                Hash::Sha512 => &RSA_PKCS1_2048_8192_SHA512,
            }),
            (Self::Ecdsa(hash), KeyKind::P256) => verifies(match hash {
                Hash::Sha256 => &ECDSA_P256_SHA256_ASN1,
                Hash::Sha384 => &ECDSA_P256_SHA384_ASN1,
                Hash::Sha512 => &ECDSA_P256_SHA512_ASN1,
            }),
            (Self::Ecdsa(hash), KeyKind::P384) => verifies(match hash {
                Hash::Sha256 => &ECDSA_P384_SHA256_ASN1,
                Hash::Sha384 => &ECDSA_P384_SHA384_ASN1,
                Hash::Sha512 => &ECDSA_P384_SHA512_ASN1,
            }),
            (Self::Ed25519, KeyKind::Ed25519) => verifies(&ED25519),
            _ => false,
        }
    }
}

impl std::fmt::Display for Scheme {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pss(hash, _) => write!(f, "RSA-PSS with {hash}"),
            Self::Pkcs1(hash) => write!(f, "RSA PKCS #1 v1.5 with {hash}"),
            Self::Ecdsa(hash) => write!(f, "ECDSA with {hash}"),
            Self::Ed25519 => f.write_str("Ed25519"),
        }
    }
}

/// The kinds of public keys that sign.
#[derive(Clone, Copy, PartialEq, Eq)]
enum KeyKind {
    Rsa,
    /// RFC 4055 §1.2: never used with another padding.
    RsaForPss,
    P256,
    P384,
    Ed25519,
}

impl KeyKind {
    fn of(algorithm: &AlgorithmIdentifierOwned) -> Option<Self> {
        match algorithm.oid {
            ID_RSA_ENCRYPTION => Some(Self::Rsa),
            ID_RSASSA_PSS => Some(Self::RsaForPss),
            ID_ED25519 => Some(Self::Ed25519),
            ID_EC_PUBLIC_KEY => match algorithm.parameters.as_ref()?.decode_as().ok()? {
                ID_P256 => Some(Self::P256),
                ID_P384 => Some(Self::P384),
                _ => None,
            },
            _ => None,
        }
    }
}

/// How a key of this kind signs; `None` if it does not, or is not known here.
pub(super) fn algorithm_of(key: &SubjectPublicKeyInfoOwned) -> Option<Algorithm> {
    Some(match KeyKind::of(&key.algorithm)? {
        KeyKind::Rsa | KeyKind::RsaForPss => Algorithm::RsaPss(Hash::Sha256),
        KeyKind::P256 => Algorithm::EcdsaP256,
        KeyKind::P384 => Algorithm::EcdsaP384,
        KeyKind::Ed25519 => Algorithm::Ed25519,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let hashes = Hash::ALL.map(Algorithm::RsaPss);
        let others = [Algorithm::EcdsaP256, Algorithm::EcdsaP384, Algorithm::Ed25519];
        for algorithm in hashes.into_iter().chain(others) {
            let identifier = identifier(algorithm).expect("encodes");
            assert_eq!(Scheme::read(&identifier, algorithm.hash()), Some(Scheme::of(algorithm)));
            for other in Hash::ALL.into_iter().filter(|other| *other != algorithm.hash()) {
                assert_eq!(Scheme::read(&identifier, other), None, "another hash than the content's");
            }
        }
    }

    #[test]
    fn sha1_is_never_read() {
        let empty = Any::new(der::Tag::Sequence, Vec::new()).expect("encodes");
        let pss = AlgorithmIdentifierOwned { oid: ID_RSASSA_PSS, parameters: Some(empty) };
        let with_rsa = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.5");
        let named = AlgorithmIdentifierOwned { oid: with_rsa, parameters: Some(Any::null()) };
        for hash in Hash::ALL {
            assert_eq!(Scheme::read(&pss, hash), None);
            assert_eq!(Scheme::read(&named, hash), None);
        }
    }
}
