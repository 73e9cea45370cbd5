//! The S/MIME capabilities of a wrapping key (RFC 4262): how to wrap a file key, and which cipher the file key is for.

use const_oid::db::{
    rfc5911::ID_AES_256_GCM,
    rfc5912::{ID_MGF_1, ID_RSAES_OAEP, ID_SHA_1, ID_SHA_256, ID_SHA_384, ID_SHA_512, RSA_ENCRYPTION},
};
use custodian_proto::key::KeyWrapping;
use der::{
    Any, Encode, Sequence,
    asn1::{Null, ObjectIdentifier},
};
use spki::AlgorithmIdentifier;

/// smimeCapabilities, RFC 4262 §2.
pub(super) const EXTENSION: &[u64] = &[1, 2, 840, 113_549, 1, 9, 15];

/// RFC 4055 §4.1. What has the default value is left out (DER); so is pSourceFunc: our labels are empty.
#[derive(Sequence)]
struct RsaesOaepParams {
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    hash: Option<AlgorithmIdentifier<Any>>,
    #[asn1(context_specific = "1", tag_mode = "EXPLICIT", optional = "true")]
    mask_gen: Option<AlgorithmIdentifier<Any>>,
}

/// `SMIMECapabilities ::= SEQUENCE OF SMIMECapability` (RFC 8551 §2.5.2), which is built like an AlgorithmIdentifier.
/// The first is the wrapping, the second AES-256-GCM.
pub(super) fn der(wrapping: KeyWrapping) -> der::Result<Vec<u8>> {
    let hash = match wrapping {
        // S/MIME has nothing like it.
        KeyWrapping::OpenPgp => return Vec::<AlgorithmIdentifier<Any>>::new().to_der(),
        KeyWrapping::Pkcs1 => {
            let gcm = AlgorithmIdentifier { oid: ID_AES_256_GCM, parameters: None };
            return vec![with_parameters(RSA_ENCRYPTION, &Null)?, gcm].to_der();
        }
        KeyWrapping::OaepSha1 => ID_SHA_1,
        KeyWrapping::OaepSha256 => ID_SHA_256,
        KeyWrapping::OaepSha384 => ID_SHA_384,
        KeyWrapping::OaepSha512 => ID_SHA_512,
    };
    let params = if wrapping == KeyWrapping::OaepSha1 {
        RsaesOaepParams { hash: None, mask_gen: None }
    } else {
        let hash = with_parameters(hash, &Null)?;
        let mask_gen = with_parameters(ID_MGF_1, &hash)?;
        RsaesOaepParams { hash: Some(hash), mask_gen: Some(mask_gen) }
    };
    vec![
        with_parameters(ID_RSAES_OAEP, &params)?,
        AlgorithmIdentifier { oid: ID_AES_256_GCM, parameters: None },
    ]
    .to_der()
}

fn with_parameters(oid: ObjectIdentifier, parameters: &impl Encode) -> der::Result<AlgorithmIdentifier<Any>> {
    use der::Decode;
    let parameters = Any::from_der(&parameters.to_der()?)?;
    Ok(AlgorithmIdentifier { oid, parameters: Some(parameters) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// id-RSAES-OAEP, as on the wire.
    const OAEP: &str = "06092a864886f70d010107";
    /// AES-256-GCM without parameters.
    const GCM: &str = "300b060960864801650304012e";

    #[test]
    fn sha_1_is_the_default_and_left_out() {
        // RFC 3560 §3 gives these very bytes for the first capability.
        let expected = format!("301c300d{OAEP}3000{GCM}");
        assert_eq!(hex::encode(der(KeyWrapping::OaepSha1).unwrap()), expected);
    }

    #[test]
    fn other_hashes_are_named_twice() {
        let sha256 = "300d06096086480165030402010500";
        let params = format!("302fa00f{sha256}a11c301a06092a864886f70d010108{sha256}");
        let expected = format!("304b303c{OAEP}{params}{GCM}");
        assert_eq!(hex::encode(der(KeyWrapping::OaepSha256).unwrap()), expected);
    }
}
