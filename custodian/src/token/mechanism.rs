//! The mechanisms we use: RSAES-OAEP to unwrap, RSAES-PKCS1-v1_5 to unwrap for OpenPGP, RSASSA-PSS, ECDSA P-256 or Ed25519 to
//! sign.
//! Everything else stays off, and no key can do two of them.

use aws_lc_rs::{
    digest, rand,
    rsa::{
        OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OAEP_SHA384_MGF1SHA384, OAEP_SHA512_MGF1SHA512,
        OaepAlgorithm, OaepPublicEncryptingKey, Pkcs1PublicEncryptingKey, PublicEncryptingKey,
    },
    signature::{
        ECDSA_P256_SHA256_ASN1, ED25519, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384,
        RSA_PSS_2048_8192_SHA512, UnparsedPublicKey, VerificationAlgorithm,
    },
};
use cryptoki::mechanism::{
    Mechanism, MechanismType,
    rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource, PkcsPssParams},
};
use custodian_proto::{
    key::{FileKey, KeyWrapping},
    limits::FILE_KEY_LEN,
    openpgp,
    sign::{DigestToSign, Hash, SignatureAlgorithm},
};
use der::{Encode, Sequence, asn1::UintRef};
use zeroize::Zeroizing;

use super::{KeyKind, TokenKey};

/// Bytes of a coordinate or scalar of P-256.
const P256_LEN: usize = 32;

/// The one mechanism a key of this kind may be used with.
pub(super) fn allowed(kind: KeyKind) -> MechanismType {
    match kind {
        KeyKind::RsaUnwrap { .. } => MechanismType::RSA_PKCS_OAEP,
        KeyKind::RsaOpenPgp { .. } => MechanismType::RSA_PKCS,
        KeyKind::RsaPssSign { .. } => MechanismType::RSA_PKCS_PSS,
        KeyKind::EcdsaP256Sign => MechanismType::ECDSA,
        KeyKind::Ed25519Sign => MechanismType::EDDSA,
    }
}

/// What unwraps it. OAEP with an empty label: some tokens ignore the label, so it must never matter.
pub(super) fn decrypting(wrapping: KeyWrapping) -> Mechanism<'static> {
    let (hash, mgf) = match wrapping {
        KeyWrapping::OpenPgp | KeyWrapping::Pkcs1 => return Mechanism::RsaPkcs,
        KeyWrapping::OaepSha1 => (MechanismType::SHA1, PkcsMgfType::MGF1_SHA1),
        KeyWrapping::OaepSha256 => (MechanismType::SHA256, PkcsMgfType::MGF1_SHA256),
        KeyWrapping::OaepSha384 => (MechanismType::SHA384, PkcsMgfType::MGF1_SHA384),
        KeyWrapping::OaepSha512 => (MechanismType::SHA512, PkcsMgfType::MGF1_SHA512),
    };
    Mechanism::RsaPkcsOaep(PkcsOaepParams::new(hash, mgf, PkcsOaepSource::empty()))
}

/// What signs a digest. PSS: MGF1 over the digest's hash, and a salt as long as the digest.
pub(super) fn signing(algorithm: SignatureAlgorithm) -> Mechanism<'static> {
    let SignatureAlgorithm::RsaPss(hash) = algorithm else { return Mechanism::Ecdsa };
    let (hash_alg, mgf, s_len) = match hash {
        Hash::Sha256 => (MechanismType::SHA256, PkcsMgfType::MGF1_SHA256, 32),
        Hash::Sha384 => (MechanismType::SHA384, PkcsMgfType::MGF1_SHA384, 48),
        Hash::Sha512 => (MechanismType::SHA512, PkcsMgfType::MGF1_SHA512, 64),
    };
    Mechanism::RsaPkcsPss(PkcsPssParams { hash_alg, mgf, s_len: s_len.into() })
}

/// The same for public-key operations in this process. `None`: it is not OAEP.
pub(super) fn oaep_public(wrapping: KeyWrapping) -> Option<&'static OaepAlgorithm> {
    match wrapping {
        KeyWrapping::OpenPgp | KeyWrapping::Pkcs1 => None,
        KeyWrapping::OaepSha1 => Some(&OAEP_SHA1_MGF1SHA1),
        KeyWrapping::OaepSha256 => Some(&OAEP_SHA256_MGF1SHA256),
        KeyWrapping::OaepSha384 => Some(&OAEP_SHA384_MGF1SHA384),
        KeyWrapping::OaepSha512 => Some(&OAEP_SHA512_MGF1SHA512),
    }
}

/// Encrypts anything to the RSA key of this SubjectPublicKeyInfo. `None` if it is none, or there is too much of it.
pub(super) fn encrypt(spki: &[u8], wrapping: KeyWrapping, plaintext: &[u8]) -> Option<Vec<u8>> {
    let key = PublicEncryptingKey::from_der(spki).ok()?;
    let mut ciphertext = vec![0; key.key_size_bytes()];
    match oaep_public(wrapping) {
        Some(algorithm) => {
            let key = OaepPublicEncryptingKey::new(key).ok()?;
            key.encrypt(algorithm, plaintext, &mut ciphertext, None).ok()?;
        }
        None => {
            Pkcs1PublicEncryptingKey::new(key).ok()?.encrypt(plaintext, &mut ciphertext).ok()?;
        }
    }
    Some(ciphertext)
}

/// Wraps a file key to the RSA key of this SubjectPublicKeyInfo: a public-key operation, which needs no token. `None` if it
/// is no RSA key.
pub(crate) fn wrap(spki: &[u8], wrapping: KeyWrapping, file_key: &FileKey) -> Option<Vec<u8>> {
    encrypt(spki, wrapping, &wrapped(file_key, wrapping))
}

/// What a key that unwraps this decrypts to the file key.
fn wrapped(file_key: &FileKey, wrapping: KeyWrapping) -> Zeroizing<Vec<u8>> {
    match wrapping {
        KeyWrapping::OpenPgp => openpgp::wrapped_by_v3(file_key),
        _ => Zeroizing::new(file_key.expose().to_vec()),
    }
}

/// A ciphertext whose plaintext we know: the token is well if it still decrypts it.
pub(super) struct Canary {
    plaintext: Zeroizing<Vec<u8>>,
    ciphertext: Vec<u8>,
}

impl Canary {
    /// Wraps random bytes to the key. `None` if this is no usable RSA key.
    pub(super) fn new(spki: &[u8], wrapping: KeyWrapping) -> Option<Self> {
        let mut random = Zeroizing::new([0; FILE_KEY_LEN]);
        rand::fill(&mut *random).ok()?;
        let plaintext = wrapped(&FileKey::new(*random), wrapping);
        let ciphertext = encrypt(spki, wrapping, &plaintext)?;
        Some(Self { plaintext, ciphertext })
    }

    pub(super) fn ciphertext(&self) -> &[u8] {
        &self.ciphertext
    }

    /// Whether this is what was wrapped.
    pub(super) fn sings(&self, plaintext: &[u8]) -> bool {
        plaintext == &self.plaintext[..]
    }
}

/// RFC 3279 §2.2.3.
#[derive(Sequence)]
struct EcdsaSigValue<'a> {
    r: UintRef<'a>,
    s: UintRef<'a>,
}

/// `r ‖ s`, as PKCS#11 has it, to `Ecdsa-Sig-Value` in DER. `None` if it is no signature of P-256.
pub(super) fn signature_to_der(raw: &[u8]) -> Option<Vec<u8>> {
    if raw.len() != 2 * P256_LEN {
        return None;
    }
    let (r, s) = raw.split_at(P256_LEN);
    EcdsaSigValue { r: UintRef::new(r).ok()?, s: UintRef::new(s).ok()? }.to_der().ok()
}

/// Whether this is a signature of a message by this key: of P-256 over SHA-256 in DER, or of Ed25519.
pub(super) fn verifies(key: &TokenKey, message: &[u8], signature: &[u8]) -> bool {
    let Ok(info) = spki::SubjectPublicKeyInfoRef::try_from(key.spki.as_slice()) else { return false };
    let public = info.subject_public_key.raw_bytes();
    match key.kind {
        KeyKind::EcdsaP256Sign => {
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, public).verify(message, signature)
        }
        KeyKind::Ed25519Sign => UnparsedPublicKey::new(&ED25519, public).verify(message, signature),
        KeyKind::RsaUnwrap { .. } | KeyKind::RsaOpenPgp { .. } | KeyKind::RsaPssSign { .. } => return false,
    }
    .is_ok()
}

/// Whether this is a signature of a digest by this key.
pub(super) fn verifies_digest(spki: &[u8], digest: &DigestToSign, signature: &[u8]) -> bool {
    let Ok(info) = spki::SubjectPublicKeyInfoRef::try_from(spki) else { return false };
    let (algorithm, hash): (&'static dyn VerificationAlgorithm, _) = match digest.algorithm() {
        SignatureAlgorithm::RsaPss(Hash::Sha256) => (&RSA_PSS_2048_8192_SHA256, &digest::SHA256),
        SignatureAlgorithm::RsaPss(Hash::Sha384) => (&RSA_PSS_2048_8192_SHA384, &digest::SHA384),
        SignatureAlgorithm::RsaPss(Hash::Sha512) => (&RSA_PSS_2048_8192_SHA512, &digest::SHA512),
        SignatureAlgorithm::EcdsaP256 => (&ECDSA_P256_SHA256_ASN1, &digest::SHA256),
    };
    let Ok(digest) = digest::Digest::import_less_safe(digest.digest(), hash) else { return false };
    let public = info.subject_public_key.raw_bytes();
    UnparsedPublicKey::new(algorithm, public).verify_digest(&digest, signature).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_become_der_with_positive_integers() {
        let mut raw = [0; 64];
        (raw[0], raw[63]) = (0x80, 1);
        let der = signature_to_der(&raw).unwrap();
        assert_eq!(der[..6], [0x30, 38, 0x02, 33, 0, 0x80]);
        assert_eq!(der[der.len() - 3..], [0x02, 1, 1]);
        assert_eq!(signature_to_der(&raw[1..]), None);
    }
}
