//! Who turns a wrapped key into a file key: the custodian, or in tests a software key.

use std::fmt;

use cms::cert::IssuerAndSerialNumber;
use custodian_proto::{
    key::{FileKey, KeyId, WrappedKey},
    v1::Claims,
};
use der::Decode;
use x509_cert::Certificate;

use crate::error::Result;

/// Unwraps file keys, one at a time.
pub trait Unwrapper: Send + Sync {
    /// Unwraps one. `claims` is what the log will say about the file.
    fn unwrap(&self, wrapped: &WrappedKey, claims: &Claims) -> Result<FileKey>;

    /// Which of an envelope's wrapped keys to ask for: the index, or an error that names the keys that would do. The
    /// answer is usually the first one whose wrapping key the custodian has.
    fn choose(&self, wrapped: &[WrappedKey]) -> Result<usize>;

    /// Which wrapping keys have these names, in the order of the names; `None` for names that it does not know: all, if it
    /// knows keys by their ids only.
    fn find(&self, names: &[KeyName]) -> Result<Vec<Option<KeyId>>> {
        Ok(vec![None; names.len()])
    }

    /// The fingerprints under which people know an OpenPGP wrapping key: its certificate's, and its own. Empty if that is not
    /// known.
    ///
    /// # Errors
    /// Whatever keeps it from telling.
    fn openpgp_fingerprints(&self, _: KeyId) -> Result<Vec<Vec<u8>>> {
        Ok(Vec::new())
    }
}

/// How a format names a wrapping key if it does not tell its [`KeyId`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeyName {
    /// The short name of an OpenPGP key: of version 4 the end, of version 6 the beginning of its fingerprint.
    OpenPgpId([u8; 8]),
    /// The fingerprint of an OpenPGP key: 20 bytes for version 4, 32 for version 6.
    OpenPgpFingerprint(Vec<u8>),
    /// The certificate of the key, by its issuer and serial number (RFC 5652 §10.2.4).
    Certificate(IssuerAndSerialNumber),
}

impl KeyName {
    /// Whether this is a name of the OpenPGP key that has this fingerprint.
    pub fn is_of(&self, fingerprint: &[u8]) -> bool {
        match (self, fingerprint.len()) {
            (Self::OpenPgpId(id), 20) => fingerprint.ends_with(id),
            (Self::OpenPgpId(id), 32) => fingerprint.starts_with(id),
            (Self::OpenPgpFingerprint(whole), 20 | 32) => whole == fingerprint,
            _ => false,
        }
    }

    /// Whether this is the name of this X.509 certificate, DER.
    pub fn is_of_certificate(&self, der: &[u8]) -> bool {
        let (Self::Certificate(name), Ok(certificate)) = (self, Certificate::from_der(der)) else {
            return false;
        };
        let tbs = certificate.tbs_certificate();
        name.issuer == *tbs.issuer() && name.serial_number == *tbs.serial_number()
    }
}

impl fmt::Display for KeyName {
    /// In capitals, as GnuPG shows them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OpenPgpId(id) => f.write_str(&hex::encode_upper(id)),
            Self::OpenPgpFingerprint(fingerprint) => f.write_str(&hex::encode_upper(fingerprint)),
            Self::Certificate(certificate) => {
                let serial = hex::encode(certificate.serial_number.as_bytes());
                write!(f, "certificate {serial} of “{}”", certificate.issuer)
            }
        }
    }
}
