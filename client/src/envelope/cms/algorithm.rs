//! Algorithm identifiers of the content's encryption: RFC 3565 (AES-CBC), RFC 5084 (AES-GCM), RFC 9709 (derived keys).

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use custodian_proto::{key::FileKey, limits::FILE_KEY_LEN};
use der::{
    Any, Decode, Encode, Sequence,
    asn1::{ObjectIdentifier, OctetString},
};
use spki::AlgorithmIdentifierOwned;
use zeroize::Zeroizing;

use super::gcm;
use crate::{
    envelope::damaged,
    error::{Error, Kind, Result},
};

const ID_AES256_GCM: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.1.46");
const ID_AES256_CBC: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.1.42");
/// RFC 9709 §3: the content is encrypted with a key that is derived from the file key and the algorithm.
const ID_CEK_HKDF_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.3.31");
/// RFC 9709 §3.
const HKDF_SALT: &[u8] = b"The Cryptographic Message Syntax";

/// Others that messages have, for the message: their keys are not 32 bytes, or they are broken.
const NAMES: [(ObjectIdentifier, &str); 6] = [
    (ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.1.2"), "AES-128-CBC"),
    (ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.1.22"), "AES-192-CBC"),
    (ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.1.6"), "AES-128-GCM"),
    (ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.1.26"), "AES-192-GCM"),
    (ObjectIdentifier::new_unwrap("1.2.840.113549.3.7"), "triple DES"),
    (ObjectIdentifier::new_unwrap("1.2.840.113549.3.2"), "RC2"),
];

/// Bytes of the initialisation vector of AES-CBC.
pub(super) const IV_LEN: usize = 16;

/// RFC 5084 §3.2.
#[derive(Sequence)]
struct GcmParameters {
    nonce: OctetString,
    #[asn1(default = "default_tag_len")]
    tag_len: u8,
}

fn default_tag_len() -> u8 {
    12
}

/// How the content is encrypted.
pub(super) struct Algorithm {
    pub(super) cipher: Cipher,
    /// What the key is derived with, RFC 9709; `None`: it is the file key itself.
    derived_with: Option<Vec<u8>>,
}

/// The cipher with its parameters.
pub(super) enum Cipher {
    /// AES-256-GCM, with a tag of this length.
    Gcm { nonce: [u8; gcm::NONCE_LEN], tag_len: usize },
    /// AES-256-CBC.
    Cbc { iv: [u8; IV_LEN] },
    /// Something else, by name.
    Unknown(String),
}

impl Algorithm {
    /// Reads an algorithm identifier in DER.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if it is none, or its parameters are not those of a cipher that is known here.
    pub(super) fn parse(der: &[u8]) -> Result<Self> {
        let algorithm = AlgorithmIdentifierOwned::from_der(der).map_err(unreadable)?;
        if algorithm.oid != ID_CEK_HKDF_SHA256 {
            return Ok(Self { cipher: cipher(&algorithm)?, derived_with: None });
        }
        let inner = parameters(&algorithm)?;
        let cipher = cipher(&inner.decode_as::<AlgorithmIdentifierOwned>().map_err(unreadable)?)?;
        Ok(Self { cipher, derived_with: Some(inner.to_der().map_err(unreadable)?) })
    }

    /// AES-256-GCM with this nonce and a full tag, in DER.
    pub(super) fn gcm(nonce: &[u8; gcm::NONCE_LEN]) -> der::Result<Vec<u8>> {
        let parameters =
            GcmParameters { nonce: OctetString::new(nonce.as_slice())?, tag_len: gcm::TAG_LEN as u8 };
        let parameters = Some(Any::encode_from(&parameters)?);
        AlgorithmIdentifierOwned { oid: ID_AES256_GCM, parameters }.to_der()
    }

    /// AES-256-CBC with this initialisation vector, in DER (RFC 3565 §4.1).
    pub(super) fn cbc(iv: &[u8; IV_LEN]) -> der::Result<Vec<u8>> {
        let parameters = Some(Any::encode_from(&OctetString::new(iv.as_slice())?)?);
        AlgorithmIdentifierOwned { oid: ID_AES256_CBC, parameters }.to_der()
    }

    /// The key that the content is encrypted with.
    ///
    /// # Errors
    /// [`Kind::Local`] if the cryptographic library refuses.
    pub(super) fn content_key(&self, file_key: FileKey) -> Result<FileKey> {
        match &self.derived_with {
            None => Ok(file_key),
            Some(algorithm) => derive(file_key.expose(), algorithm)
                .map(|key| FileKey::new(*key))
                .ok_or_else(|| Error::new(Kind::Local, "cannot open the envelope", "HKDF is not available")),
        }
    }

    /// Its name in text.
    pub(super) fn name(&self) -> String {
        let name = match &self.cipher {
            Cipher::Gcm { .. } => "AES-256-GCM",
            Cipher::Cbc { .. } => "AES-256-CBC",
            Cipher::Unknown(name) => name,
        };
        let derived = if self.derived_with.is_some() { ", key derived by HKDF-SHA256" } else { "" };
        format!("{name}{derived}")
    }
}

/// RFC 9709 §2. `None` if the cryptographic library refuses.
fn derive(file_key: &[u8], algorithm: &[u8]) -> Option<Zeroizing<[u8; FILE_KEY_LEN]>> {
    struct KeyLen;
    impl KeyType for KeyLen {
        fn len(&self) -> usize {
            FILE_KEY_LEN
        }
    }
    let mut key = Zeroizing::new([0; FILE_KEY_LEN]);
    let extracted = Salt::new(HKDF_SHA256, HKDF_SALT).extract(file_key);
    extracted.expand(&[algorithm], KeyLen).ok()?.fill(key.as_mut_slice()).ok()?;
    Some(key)
}

fn cipher(algorithm: &AlgorithmIdentifierOwned) -> Result<Cipher> {
    if algorithm.oid == ID_AES256_GCM {
        let parameters: GcmParameters = parameters(algorithm)?.decode_as().map_err(unreadable)?;
        let tag_len = usize::from(parameters.tag_len);
        return match parameters.nonce.as_bytes().try_into() {
            Ok(nonce) if gcm::TAG_LENS.contains(&tag_len) => Ok(Cipher::Gcm { nonce, tag_len }),
            _ => Ok(Cipher::Unknown("AES-256-GCM with an unusual nonce or tag".to_owned())),
        };
    }
    if algorithm.oid == ID_AES256_CBC {
        let iv: OctetString = parameters(algorithm)?.decode_as().map_err(unreadable)?;
        let iv =
            iv.as_bytes().try_into().map_err(|_| damaged("its initialisation vector is not 16 bytes"))?;
        return Ok(Cipher::Cbc { iv });
    }
    let name = NAMES.iter().find(|(oid, _)| *oid == algorithm.oid);
    Ok(Cipher::Unknown(name.map_or_else(|| algorithm.oid.to_string(), |(_, name)| (*name).to_owned())))
}

fn parameters(algorithm: &AlgorithmIdentifierOwned) -> Result<&Any> {
    algorithm.parameters.as_ref().ok_or_else(|| damaged("its algorithm has no parameters"))
}

fn unreadable(why: der::Error) -> Error {
    damaged(format!("its algorithm cannot be read ({why})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 9709 appendix A.1 derives a key of 16 bytes. One of 32 bytes begins with it.
    #[test]
    fn keys_are_derived_as_in_the_rfc() {
        let bytes = |hex: &str| hex::decode(hex).expect("hex");
        let file_key = bytes("c702e7d0a9e064b09ba55245fb733cf3");
        let algorithm = bytes("301b0609608648016503040106300e040c5c79058ba2f43447639d29e2");
        let key = derive(&file_key, &algorithm).expect("derived");
        assert_eq!(hex::encode(&key[..16]), "2124ffb29fac4e0fbbc7d5d87492bff3");
    }
}
