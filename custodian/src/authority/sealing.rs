//! The key under which the ledger keeps the secrets of second factors. It is in a file of its own: whoever copies the
//! ledger, or a backup of it, has no codes.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    rand,
};
use zeroize::Zeroizing;

use super::{TotpSecret, UserId};
use crate::custody::Fault;

/// Bytes of the key in its file.
const KEY_LEN: usize = 32;

/// A secret as the ledger keeps it: nonce, ciphertext, tag (AES-256-GCM). Worthless without the key and for another user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SealedSecret(pub Vec<u8>);

/// Seals and opens secrets of second factors.
pub struct SealingKey(RandomizedNonceKey);

impl SealingKey {
    /// The key in this file.
    ///
    /// # Errors
    /// If it cannot be read, has not 32 bytes, or is for other eyes than its owner's, too.
    pub fn read(path: &Path) -> io::Result<Self> {
        let found = fs::metadata(path)?;
        if found.mode() & 0o077 != 0 {
            return Err(io::Error::other("others may read it: chmod 600"));
        }
        let bytes = Zeroizing::new(fs::read(path)?);
        if bytes.len() != KEY_LEN {
            return Err(io::Error::other(format!("it has {} bytes, not {KEY_LEN}", bytes.len())));
        }
        Self::from_bytes(&bytes)
    }

    /// A new key, in a new file for its owner only.
    ///
    /// # Errors
    /// If the file is there already or cannot be written.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut bytes = Zeroizing::new([0; KEY_LEN]);
        rand::fill(bytes.as_mut_slice()).map_err(|_| io::Error::other("no randomness"))?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(bytes.as_slice())?;
        file.sync_all()?;
        Self::from_bytes(bytes.as_slice())
    }

    fn from_bytes(bytes: &[u8]) -> io::Result<Self> {
        let key = RandomizedNonceKey::new(&AES_256_GCM, bytes);
        key.map(Self).map_err(|_| io::Error::other("it is no AES-256 key"))
    }

    /// Seals the secret of this user.
    ///
    /// # Errors
    /// [`Fault::Internal`] if there is no randomness.
    pub fn seal(&self, user: &UserId, secret: &TotpSecret) -> Result<SealedSecret, Fault> {
        let mut text = Zeroizing::new(secret.as_bytes().to_vec());
        let (nonce, tag) = self
            .0
            .seal_in_place_separate_tag(about(user), &mut text)
            .map_err(|_| Fault::Internal("a second factor cannot be sealed".into()))?;
        let sealed = [nonce.as_ref().as_slice(), &text, tag.as_ref()].concat();
        Ok(SealedSecret(sealed))
    }

    /// Opens the secret of this user.
    ///
    /// # Errors
    /// [`Fault::Internal`] if it was sealed under another key or for another user.
    pub fn open(&self, user: &UserId, sealed: &SealedSecret) -> Result<TotpSecret, Fault> {
        let fault = || {
            Fault::Internal(format!(
                "the second factor of {user} was sealed under another key: restore the file of [second_factor], or reset it"
            ))
        };
        let (nonce, rest) = sealed.0.split_first_chunk::<NONCE_LEN>().ok_or_else(fault)?;
        let mut rest = Zeroizing::new(rest.to_vec());
        let nonce = Nonce::from(nonce);
        let opened = self.0.open_in_place(nonce, about(user), &mut rest).map_err(|_| fault())?;
        TotpSecret::from_bytes(opened).ok_or_else(fault)
    }
}

/// Bound to the user: nobody who can write to the ledger can give somebody their own secret.
fn about(user: &UserId) -> Aad<Vec<u8>> {
    Aad::from(format!("custodian totp 1 {user}").into_bytes())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_sealed_secret_opens_with_its_key_for_its_user_and_unchanged_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let key = SealingKey::create(&path).unwrap();
        let (anna, bob) = ("anna".parse().unwrap(), "bob".parse().unwrap());
        let secret = TotpSecret::generate().unwrap();
        let sealed = key.seal(&anna, &secret).unwrap();
        assert!(!sealed.0.windows(TotpSecret::LEN).any(|part| part == secret.as_bytes()));
        // After a restart, too.
        let key = SealingKey::read(&path).unwrap();
        assert_eq!(key.open(&anna, &sealed).ok().unwrap().as_bytes(), secret.as_bytes());
        assert!(key.open(&bob, &sealed).is_err());
        for index in 0..sealed.0.len() {
            let mut changed = sealed.clone();
            changed.0[index] ^= 1;
            assert!(key.open(&anna, &changed).is_err());
        }
        assert!(key.open(&anna, &SealedSecret(Vec::new())).is_err());
        let other = SealingKey::create(&folder.path().join("other")).unwrap();
        assert!(other.open(&anna, &sealed).is_err());
    }

    #[test]
    fn a_key_file_is_its_owners_only_and_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        drop(SealingKey::create(&path).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(SealingKey::create(&path).is_err());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(SealingKey::read(&path).is_err());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(SealingKey::read(&path).is_ok());
        fs::write(&path, b"short").unwrap();
        assert!(SealingKey::read(&path).is_err());
    }
}
