//! What a workstation that enrols sends: a PKCS#10 request. Only its key is used; names are ours to give.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use const_oid::db::rfc5912::{ECDSA_WITH_SHA_256, ID_EC_PUBLIC_KEY, SECP_256_R_1};
use der::{Decode, Encode, asn1::ObjectIdentifier};
use x509_cert::request::CertReq;

/// Largest request, in bytes.
pub const MAX_CSR_LEN: usize = 4 * 1024;

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
    /// The signature does not verify: whoever sent it may not have the key.
    #[error("the certificate request's signature is wrong")]
    Signature,
}

/// Checks a request. Returns its key's SubjectPublicKeyInfo, DER.
///
/// # Errors
/// [`BadCsr`]: the size is checked first, the signature last.
pub fn verify(der: &[u8]) -> Result<Vec<u8>, BadCsr> {
    if der.len() > MAX_CSR_LEN {
        return Err(BadCsr::TooLong);
    }
    let malformed = |error: der::Error| BadCsr::Malformed(error.to_string());
    let request = CertReq::from_der(der).map_err(malformed)?;
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

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384, PublicKeyData};

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

    #[test]
    fn other_keys_and_sizes_are_refused() {
        let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
        assert_eq!(verify(&request(&p384)), Err(BadCsr::Algorithm));
        assert_eq!(verify(&[0x30; MAX_CSR_LEN + 1]), Err(BadCsr::TooLong));
    }
}
