//! Keys: the id of a wrapping key, a wrapped file key, a file key.

use std::{fmt, str::FromStr};

use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use crate::{
    limits::{FILE_KEY_LEN, MAX_WRAPPED_KEY_LEN},
    v1,
};

/// The id of a key: its certificate's SubjectKeyIdentifier, shown as 40 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct KeyId([u8; Self::LEN]);

impl KeyId {
    /// Its length in bytes.
    pub const LEN: usize = 20;

    /// RFC 7093 §2 method 1: the leftmost 160 bits of the SHA-256 of the value of the `subjectPublicKey` BIT STRING
    /// (without tag, length and number of unused bits). For RSA that is the DER of `RSAPublicKey`.
    pub fn of_public_key(subject_public_key: &[u8]) -> Self {
        let mut id = [0; Self::LEN];
        id.copy_from_slice(&Sha256::digest(subject_public_key)[..Self::LEN]);
        Self(id)
    }

    /// The bytes of a SubjectKeyIdentifier. `None` if they are not 20: then it was not made by method 1.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self(bytes.try_into().ok()?))
    }

    /// The 20 bytes, as in a SubjectKeyIdentifier extension.
    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// The resource name, `keys/KEY_ID`.
    pub fn resource_name(&self) -> String {
        format!("keys/{self}")
    }

    /// Reads a resource name, `keys/KEY_ID`.
    pub fn from_resource_name(name: &str) -> Result<Self, NotAKeyId> {
        name.strip_prefix("keys/").ok_or(NotAKeyId)?.parse()
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for KeyId {
    type Err = NotAKeyId;

    fn from_str(text: &str) -> Result<Self, NotAKeyId> {
        let mut id = [0; Self::LEN];
        hex::decode_to_slice(text, &mut id).map_err(|_| NotAKeyId)?;
        Ok(Self(id))
    }
}

/// The text is no key id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key id has 40 hex digits")]
pub struct NotAKeyId;

/// How a file key is encrypted to an RSA key: RFC 8017 §7.1 RSAES-OAEP with an empty label and MGF1 over the same hash as the
/// encoding, or as OpenPGP does it.
///
/// In order of strength: `max` picks the strongest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum KeyWrapping {
    /// RSAES-PKCS1-v1_5 over nothing but the file key, as S/MIME did before OAEP (RFC 8551 §2.3). Only keys that were made for it
    /// unwrap this, and they unwrap nothing else (law 5).
    Pkcs1,
    /// As in a PKESK packet of OpenPGP (RFC 9580 §5.1.3): RSAES-PKCS1-v1_5 over the file key with its checksum
    /// ([`crate::openpgp`]). Only keys that were made for it unwrap this, and they unwrap nothing else (law 5).
    OpenPgp,
    /// SHA-1: all that some tokens can do. OAEP does not need collision resistance, so this is not broken.
    OaepSha1,
    /// SHA-256.
    OaepSha256,
    /// SHA-384.
    OaepSha384,
    /// SHA-512.
    OaepSha512,
}

impl KeyWrapping {
    /// Those with OAEP, the strongest first.
    pub const OAEP: [Self; 4] = [Self::OaepSha512, Self::OaepSha384, Self::OaepSha256, Self::OaepSha1];

    /// All of them, the strongest first.
    pub const ALL: [Self; 6] =
        [Self::OaepSha512, Self::OaepSha384, Self::OaepSha256, Self::OaepSha1, Self::OpenPgp, Self::Pkcs1];

    /// Whether its padding is PKCS #1 v1.5: whatever is wrong with a ciphertext then, nobody may learn (law 5).
    pub fn is_pkcs1(self) -> bool {
        matches!(self, Self::OpenPgp | Self::Pkcs1)
    }

    /// The name in text: `RSA-OAEP-SHA256`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pkcs1 => "RSA-PKCS1",
            Self::OpenPgp => "RSA-PKCS1-OPENPGP",
            Self::OaepSha1 => "RSA-OAEP-SHA1",
            Self::OaepSha256 => "RSA-OAEP-SHA256",
            Self::OaepSha384 => "RSA-OAEP-SHA384",
            Self::OaepSha512 => "RSA-OAEP-SHA512",
        }
    }

    /// Reads what [`KeyWrapping::name`] writes.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|wrapping| wrapping.name() == name)
    }
}

impl fmt::Display for KeyWrapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl From<KeyWrapping> for v1::KeyWrapping {
    fn from(wrapping: KeyWrapping) -> Self {
        match wrapping {
            KeyWrapping::Pkcs1 => Self::RsaPkcs1,
            KeyWrapping::OpenPgp => Self::RsaPkcs1Openpgp,
            KeyWrapping::OaepSha1 => Self::RsaOaepSha1,
            KeyWrapping::OaepSha256 => Self::RsaOaepSha256,
            KeyWrapping::OaepSha384 => Self::RsaOaepSha384,
            KeyWrapping::OaepSha512 => Self::RsaOaepSha512,
        }
    }
}

impl TryFrom<v1::KeyWrapping> for KeyWrapping {
    type Error = UnspecifiedWrapping;

    fn try_from(wrapping: v1::KeyWrapping) -> Result<Self, UnspecifiedWrapping> {
        match wrapping {
            v1::KeyWrapping::Unspecified => Err(UnspecifiedWrapping),
            v1::KeyWrapping::RsaPkcs1 => Ok(Self::Pkcs1),
            v1::KeyWrapping::RsaPkcs1Openpgp => Ok(Self::OpenPgp),
            v1::KeyWrapping::RsaOaepSha1 => Ok(Self::OaepSha1),
            v1::KeyWrapping::RsaOaepSha256 => Ok(Self::OaepSha256),
            v1::KeyWrapping::RsaOaepSha384 => Ok(Self::OaepSha384),
            v1::KeyWrapping::RsaOaepSha512 => Ok(Self::OaepSha512),
        }
    }
}

/// The message does not say how the key is wrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the key wrapping is not given")]
pub struct UnspecifiedWrapping;

/// A file key encrypted to a wrapping key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WrappedKey {
    key_id: KeyId,
    wrapping: KeyWrapping,
    ciphertext: Vec<u8>,
}

impl WrappedKey {
    /// Puts the parts together. `None` if the ciphertext is empty or longer than any modulus we serve
    /// ([`MAX_WRAPPED_KEY_LEN`]).
    pub fn new(key_id: KeyId, wrapping: KeyWrapping, ciphertext: Vec<u8>) -> Option<Self> {
        let fits = !ciphertext.is_empty() && ciphertext.len() <= MAX_WRAPPED_KEY_LEN;
        fits.then_some(Self { key_id, wrapping, ciphertext })
    }

    /// The wrapping key it was made for.
    pub fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// How it was made.
    pub fn wrapping(&self) -> KeyWrapping {
        self.wrapping
    }

    /// The RSA ciphertext.
    pub fn ciphertext(&self) -> &[u8] {
        &self.ciphertext
    }

    /// The SHA-256 of the ciphertext: the name of the file in the log.
    pub fn sha256(&self) -> [u8; 32] {
        Sha256::digest(&self.ciphertext).into()
    }
}

/// A file key: the random AES-256 key of one envelope. Has no `Debug`, and is overwritten when dropped (law 9).
///
/// The bytes stay where they are while the value moves: a move would leave a copy that nobody overwrites.
///
/// ```compile_fail
/// println!("{:?}", custodian_proto::key::FileKey::new([0; 32]));
/// ```
pub struct FileKey(Box<Zeroizing<[u8; FILE_KEY_LEN]>>);

impl FileKey {
    /// Takes the bytes over.
    pub fn new(mut bytes: [u8; FILE_KEY_LEN]) -> Self {
        let key = Self::copy_of(&bytes);
        bytes.zeroize();
        key
    }

    /// Takes the bytes if they are exactly a file key (law 4). Overwrites `bytes` either way.
    pub fn take(bytes: &mut [u8]) -> Option<Self> {
        let key = <&[u8; FILE_KEY_LEN]>::try_from(&*bytes).ok().map(Self::copy_of);
        bytes.zeroize();
        key
    }

    fn copy_of(bytes: &[u8; FILE_KEY_LEN]) -> Self {
        let mut key = Self(Box::new(Zeroizing::new([0; FILE_KEY_LEN])));
        key.0.copy_from_slice(bytes);
        key
    }

    /// The 32 bytes.
    pub fn expose(&self) -> &[u8; FILE_KEY_LEN] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn law_4_only_32_bytes_make_a_file_key() {
        for len in 0..70 {
            let mut bytes = vec![7; len];
            assert_eq!(FileKey::take(&mut bytes).is_some(), len == 32);
            assert!(bytes.iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn law_9_a_file_key_stays_where_it_is_when_it_moves() {
        let key = FileKey::new([7; 32]);
        let place = key.expose().as_ptr();
        let moved = Some(key);
        let (sender, receiver) = std::sync::mpsc::channel();
        sender.send(moved).unwrap();
        let key = receiver.recv().unwrap().unwrap();
        assert_eq!(key.expose().as_ptr(), place);
        assert_eq!(size_of::<FileKey>(), size_of::<usize>());
        assert_eq!(key.expose(), &[7; 32]);
    }

    #[test]
    fn key_ids_survive_text() {
        let id = KeyId::of_public_key(b"key");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(KeyId::from_resource_name(&id.resource_name()), Ok(id));
        assert_eq!("12".parse::<KeyId>(), Err(NotAKeyId));
        assert_eq!(KeyId::from_resource_name(&id.to_string()), Err(NotAKeyId));
    }

    #[test]
    fn the_strongest_wrapping_is_the_greatest() {
        let mut sorted = KeyWrapping::ALL;
        sorted.sort();
        sorted.reverse();
        assert_eq!(sorted, KeyWrapping::ALL);
    }
}
