//! What a workstation that enrols sends: a PKCS#10 request. Only its key is used; names are ours to give.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use const_oid::db::rfc5912::{
    ECDSA_WITH_SHA_256, ID_EC_PUBLIC_KEY, RSA_ENCRYPTION, SECP_256_R_1, SHA_256_WITH_RSA_ENCRYPTION,
};
use der::{
    Any, Decode, Encode, Sequence,
    asn1::{ObjectIdentifier, UintRef},
};
use x509_cert::request::CertReq;

/// Largest request, in bytes.
pub const MAX_CSR_LEN: usize = 4 * 1024;

/// Moduli of people's keys, in bits.
const PERSON_MODULUS_BITS: [usize; 2] = [3072, 4096];

/// RFC 8017 §A.1.1.
#[derive(Sequence)]
struct RsaPublicKey<'a> {
    modulus: UintRef<'a>,
    public_exponent: UintRef<'a>,
}

/// Why a request is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadCsr {
    /// Longer than [`MAX_CSR_LEN`].
    #[error("the certificate request has more than {MAX_CSR_LEN} bytes")]
    TooLong,
    /// Not DER, or not a request.
    #[error("this is no certificate request (PKCS#10, DER): {0}")]
    Malformed(String),
    /// Another kind of key or signature.
    #[error("the certificate request must have an ECDSA P-256 key and be signed with it over SHA-256")]
    Algorithm,
    /// The same, for a key that is encrypted to.
    #[error(
        "the certificate request must have an RSA key of 3072 or 4096 bits with the exponent 65537, and be signed with it \
         (PKCS #1 v1.5 over SHA-256)"
    )]
    RsaAlgorithm,
    /// The signature does not verify: whoever sent it may not have the key.
    #[error("the certificate request's signature is wrong")]
    Signature,
}

/// Checks a request of an ECDSA P-256 key. Returns its key's SubjectPublicKeyInfo, DER.
///
/// # Errors
/// [`BadCsr`]: the size is checked first, the signature last.
pub fn verify(der: &[u8]) -> Result<Vec<u8>, BadCsr> {
    let request = read(der)?;
    let key = &request.info.public_key;
    let curve =
        key.algorithm.parameters.as_ref().and_then(|curve| curve.decode_as::<ObjectIdentifier>().ok());
    let algorithms = (key.algorithm.oid, curve, request.algorithm.oid);
    // RFC 5758 §3.2: the signature algorithm has no parameters.
    if algorithms != (ID_EC_PUBLIC_KEY, Some(SECP_256_R_1), ECDSA_WITH_SHA_256)
        || request.algorithm.parameters.is_some()
    {
        return Err(BadCsr::Algorithm);
    }
    // Whole bytes only: or else one signature has several encodings.
    let point = key.subject_public_key.as_bytes().ok_or(BadCsr::Algorithm)?;
    let signature = request.signature.as_bytes().ok_or(BadCsr::Signature)?;
    let signed = request.info.to_der().map_err(malformed)?;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
        .verify(&signed, signature)
        .map_err(|_| BadCsr::Signature)?;
    key.to_der().map_err(malformed)
}

/// As [`verify`], of an RSA key of 3072 or 4096 bits.
///
/// # Errors
/// [`BadCsr`]: the size is checked first, the signature last.
pub fn verify_rsa(der: &[u8]) -> Result<Vec<u8>, BadCsr> {
    let request = read(der)?;
    let key = &request.info.public_key;
    // RFC 3279 §2.3.1, RFC 4055 §5: the parameters of both are NULL.
    let is_null = |parameters: &Option<Any>| parameters.as_ref().is_some_and(Any::is_null);
    if (key.algorithm.oid, request.algorithm.oid) != (RSA_ENCRYPTION, SHA_256_WITH_RSA_ENCRYPTION)
        || !is_null(&key.algorithm.parameters)
        || !is_null(&request.algorithm.parameters)
    {
        return Err(BadCsr::RsaAlgorithm);
    }
    let public = key.subject_public_key.as_bytes().ok_or(BadCsr::RsaAlgorithm)?;
    let rsa = RsaPublicKey::from_der(public).map_err(malformed)?;
    let modulus = rsa.modulus.as_bytes();
    let bits = modulus.len() * 8 - modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
    if !PERSON_MODULUS_BITS.contains(&bits) || rsa.public_exponent.as_bytes() != [1, 0, 1] {
        return Err(BadCsr::RsaAlgorithm);
    }
    let signature = request.signature.as_bytes().ok_or(BadCsr::Signature)?;
    let signed = request.info.to_der().map_err(malformed)?;
    UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public)
        .verify(&signed, signature)
        .map_err(|_| BadCsr::Signature)?;
    key.to_der().map_err(malformed)
}

fn read(der: &[u8]) -> Result<CertReq, BadCsr> {
    if der.len() > MAX_CSR_LEN {
        return Err(BadCsr::TooLong);
    }
    CertReq::from_der(der).map_err(malformed)
}

fn malformed(error: der::Error) -> BadCsr {
    BadCsr::Malformed(error.to_string())
}

#[cfg(test)]
mod tests {
    use rcgen::{
        CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256, PublicKeyData, RsaKeySize,
    };

    use super::*;

    fn request(key: &KeyPair) -> Vec<u8> {
        let params = CertificateParams::new(["workstation.example".to_owned()]).unwrap();
        params.serialize_request(key).unwrap().der().to_vec()
    }

    #[test]
    fn a_good_request_gives_its_key() {
        let key = KeyPair::generate().unwrap();
        assert_eq!(verify(&request(&key)), Ok(key.subject_public_key_info()));
    }

    #[test]
    fn a_changed_request_is_refused() {
        let good = request(&KeyPair::generate().unwrap());
        for position in 0..good.len() {
            let mut bad = good.clone();
            bad[position] ^= 1;
            assert!(verify(&bad).is_err(), "byte {position}");
        }
        for length in 0..good.len() {
            assert!(verify(&good[..length]).is_err(), "{length} bytes");
        }
        assert!(verify(&[&good[..], &[0]].concat()).is_err());
    }

    fn rsa(size: RsaKeySize) -> Vec<u8> {
        request(&KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, size).unwrap())
    }

    #[test]
    fn a_persons_rsa_request_gives_its_key_and_no_changed_one_does() {
        let good = rsa(RsaKeySize::_3072);
        let spki = verify_rsa(&good).unwrap();
        assert!(good.windows(spki.len()).any(|window| window == spki));
        for position in (0..good.len()).step_by(7).chain([good.len() - 1]) {
            let mut bad = good.clone();
            bad[position] ^= 1;
            assert!(verify_rsa(&bad).is_err(), "byte {position}");
        }
        assert_eq!(verify_rsa(&rsa(RsaKeySize::_2048)), Err(BadCsr::RsaAlgorithm));
        assert_eq!(verify_rsa(&request(&KeyPair::generate().unwrap())), Err(BadCsr::RsaAlgorithm));
        assert_eq!(verify(&good), Err(BadCsr::Algorithm));
        assert_eq!(verify_rsa(&[0x30; MAX_CSR_LEN + 1]), Err(BadCsr::TooLong));
    }

    #[test]
    fn other_keys_and_sizes_are_refused() {
        let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
        assert_eq!(verify(&request(&p384)), Err(BadCsr::Algorithm));
        assert_eq!(verify(&[0x30; MAX_CSR_LEN + 1]), Err(BadCsr::TooLong));
    }
}
