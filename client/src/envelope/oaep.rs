//! RSAES-OAEP as an algorithm identifier: RFC 4055 §4.1, restricted to MGF1 over the same hash and an empty label.

use aws_lc_rs::rsa::{
    OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OAEP_SHA384_MGF1SHA384, OAEP_SHA512_MGF1SHA512, OaepAlgorithm,
};
use custodian_proto::key::KeyWrapping;
use der::{
    Any, Decode, Encode, Sequence,
    asn1::{ObjectIdentifier, OctetString},
};
use spki::AlgorithmIdentifierOwned;

/// id-RSAES-OAEP
pub(super) const ID_RSAES_OAEP: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.7");
const ID_MGF1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.8");
const ID_P_SPECIFIED: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.9");
const ID_SHA1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.14.3.2.26");
const ID_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
const ID_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");
const ID_SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.3");

/// `RSAES-OAEP-params`. In DER a field that has its default value (SHA-1 everywhere) is left out.
#[derive(Sequence)]
struct Params {
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", default = "sha1")]
    hash: AlgorithmIdentifierOwned,
    #[asn1(context_specific = "1", tag_mode = "EXPLICIT", default = "mgf1_sha1")]
    mgf: AlgorithmIdentifierOwned,
    #[asn1(context_specific = "2", tag_mode = "EXPLICIT", default = "empty_label")]
    label: AlgorithmIdentifierOwned,
}

/// The algorithm identifier of a key wrapped this way, which must be OAEP.
pub(super) fn to_algorithm(wrapping: KeyWrapping) -> der::Result<AlgorithmIdentifierOwned> {
    let oid = hash_oid(wrapping).ok_or_else(|| der::Error::from(der::ErrorKind::Failed))?;
    let hash = with_null(oid);
    let mgf = AlgorithmIdentifierOwned { oid: ID_MGF1, parameters: Some(Any::encode_from(&hash)?) };
    let params = Params { hash, mgf, label: empty_label() };
    Ok(AlgorithmIdentifierOwned { oid: ID_RSAES_OAEP, parameters: Some(Any::encode_from(&params)?) })
}

/// Reads an algorithm identifier. `None` if it is not OAEP, or OAEP in a way no custodian serves.
pub(super) fn from_algorithm(algorithm: &AlgorithmIdentifierOwned) -> Option<KeyWrapping> {
    if algorithm.oid != ID_RSAES_OAEP {
        return None;
    }
    let params = Params::from_der(&algorithm.parameters.as_ref()?.to_der().ok()?).ok()?;
    let wrapping = wrapping_of(&params.hash)?;
    let mgf_hash =
        AlgorithmIdentifierOwned::from_der(&params.mgf.parameters.as_ref()?.to_der().ok()?).ok()?;
    let same_hash = params.mgf.oid == ID_MGF1 && wrapping_of(&mgf_hash) == Some(wrapping);
    (same_hash && params.label == empty_label()).then_some(wrapping)
}

/// The implementation. `None`: it is not OAEP.
pub(super) fn implementation(wrapping: KeyWrapping) -> Option<&'static OaepAlgorithm> {
    match wrapping {
        KeyWrapping::OpenPgp | KeyWrapping::Pkcs1 => None,
        KeyWrapping::OaepSha1 => Some(&OAEP_SHA1_MGF1SHA1),
        KeyWrapping::OaepSha256 => Some(&OAEP_SHA256_MGF1SHA256),
        KeyWrapping::OaepSha384 => Some(&OAEP_SHA384_MGF1SHA384),
        KeyWrapping::OaepSha512 => Some(&OAEP_SHA512_MGF1SHA512),
    }
}

fn hash_oid(wrapping: KeyWrapping) -> Option<ObjectIdentifier> {
    match wrapping {
        KeyWrapping::OpenPgp | KeyWrapping::Pkcs1 => None,
        KeyWrapping::OaepSha1 => Some(ID_SHA1),
        KeyWrapping::OaepSha256 => Some(ID_SHA256),
        KeyWrapping::OaepSha384 => Some(ID_SHA384),
        KeyWrapping::OaepSha512 => Some(ID_SHA512),
    }
}

fn wrapping_of(hash: &AlgorithmIdentifierOwned) -> Option<KeyWrapping> {
    // RFC 4055 §2.1: parameters are NULL, and absent ones must be accepted.
    let plain = hash.parameters.as_ref().is_none_or(Any::is_null);
    KeyWrapping::OAEP.into_iter().find(|wrapping| plain && hash_oid(*wrapping) == Some(hash.oid))
}

fn with_null(oid: ObjectIdentifier) -> AlgorithmIdentifierOwned {
    AlgorithmIdentifierOwned { oid, parameters: Some(Any::null()) }
}

fn sha1() -> AlgorithmIdentifierOwned {
    with_null(ID_SHA1)
}

fn mgf1_sha1() -> AlgorithmIdentifierOwned {
    AlgorithmIdentifierOwned { oid: ID_MGF1, parameters: Any::encode_from(&sha1()).ok() }
}

fn empty_label() -> AlgorithmIdentifierOwned {
    let empty = OctetString::new(Vec::new()).and_then(|label| Any::encode_from(&label));
    AlgorithmIdentifierOwned { oid: ID_P_SPECIFIED, parameters: empty.ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wrapping_survives_der() {
        for wrapping in KeyWrapping::OAEP {
            let der = to_algorithm(wrapping).and_then(|algorithm| algorithm.to_der()).expect("encodes");
            let read = AlgorithmIdentifierOwned::from_der(&der).expect("decodes");
            assert_eq!(from_algorithm(&read), Some(wrapping));
        }
    }

    #[test]
    fn sha1_is_the_default_and_so_not_written() {
        let der =
            to_algorithm(KeyWrapping::OaepSha1).and_then(|algorithm| algorithm.to_der()).expect("encodes");
        assert_eq!(hex::encode(der), "300d06092a864886f70d0101073000");
    }

    #[test]
    fn mgf1_over_another_hash_is_not_ours() {
        let hash = with_null(ID_SHA256);
        let params = Params { hash, mgf: mgf1_sha1(), label: empty_label() };
        let parameters = Some(Any::encode_from(&params).expect("encodes"));
        assert_eq!(from_algorithm(&AlgorithmIdentifierOwned { oid: ID_RSAES_OAEP, parameters }), None);
    }
}
