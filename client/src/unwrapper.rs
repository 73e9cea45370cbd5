//! Who turns a wrapped key into a file key: the custodian, or in tests a software key.

use std::fmt;

use custodian_proto::{
    key::{FileKey, KeyId, WrappedKey},
    v1::Claims,
};

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
}

/// How a format names a wrapping key if it does not tell its [`KeyId`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeyName {
    /// The short name of an OpenPGP key: of version 4 the end, of version 6 the beginning of its fingerprint.
    OpenPgpId([u8; 8]),
    /// The fingerprint of an OpenPGP key: 20 bytes for version 4, 32 for version 6.
    OpenPgpFingerprint(Vec<u8>),
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
}

impl fmt::Display for KeyName {
    /// In capitals, as GnuPG shows them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OpenPgpId(id) => f.write_str(&hex::encode_upper(id)),
            Self::OpenPgpFingerprint(fingerprint) => f.write_str(&hex::encode_upper(fingerprint)),
        }
    }
}
