//! WinZip AE-2, strength 3: how the content of one entry is encrypted and authenticated.
//!
//! `salt (16) ‖ verifier (2) ‖ AES-256-CTR ciphertext ‖ leftmost 80 bits of HMAC-SHA1 over the ciphertext`. The keys come
//! from PBKDF2-HMAC-SHA1 with 1,000 rounds over the archive's password and the entry's own salt.

use aes::cipher::{KeyIvInit, StreamCipher, StreamCipherSeek};
use aws_lc_rs::rand;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use super::{kdf, password::Password};
pub(super) use crate::envelope::zip::{AE2_CODE_LEN as CODE_LEN, Ae2Code as Code};
use crate::{
    envelope::zip::AE2_OVERHEAD,
    error::{Error, Kind, Result},
};

/// Bytes of the salt.
pub(super) const SALT_LEN: usize = 16;
/// Bytes that tell a wrong password early. Two of them: no proof of anything.
pub(super) const VERIFIER_LEN: usize = 2;
/// Bytes in front of the ciphertext.
pub(super) const HEAD_LEN: usize = SALT_LEN + VERIFIER_LEN;
const _: () = assert!((HEAD_LEN + CODE_LEN) as u64 == AE2_OVERHEAD);

const ROUNDS: u32 = 1_000;
const KEY_LEN: usize = 32;

/// The salt of one entry. Two entries never share one: their key streams would be the same.
pub(super) type Salt = [u8; SALT_LEN];

/// The keys of one entry. Has no `Debug`; overwritten when dropped.
pub(super) struct Keys {
    cipher: Zeroizing<[u8; KEY_LEN]>,
    mac: Zeroizing<[u8; KEY_LEN]>,
    verifier: [u8; VERIFIER_LEN],
}

impl Keys {
    /// Derives them: 8,000 SHA-1 compressions, by design slow.
    pub(super) fn derive(password: &Password, salt: &Salt) -> Self {
        let derived = kdf::derive(password.expose(), salt, ROUNDS);
        let mut keys =
            Self { cipher: Zeroizing::default(), mac: Zeroizing::default(), verifier: [0; VERIFIER_LEN] };
        keys.cipher.copy_from_slice(&derived[..KEY_LEN]);
        keys.mac.copy_from_slice(&derived[KEY_LEN..2 * KEY_LEN]);
        keys.verifier.copy_from_slice(&derived[2 * KEY_LEN..2 * KEY_LEN + VERIFIER_LEN]);
        keys
    }

    /// What stands in front of the ciphertext.
    pub(super) fn head(&self, salt: &Salt) -> [u8; HEAD_LEN] {
        let mut head = [0; HEAD_LEN];
        head[..SALT_LEN].copy_from_slice(salt);
        head[SALT_LEN..].copy_from_slice(&self.verifier);
        head
    }

    /// Reads the head of an entry: its keys, or `None` if this is not the password it was sealed with.
    pub(super) fn from_head(password: &Password, head: &[u8; HEAD_LEN]) -> Option<Self> {
        let mut salt = [0; SALT_LEN];
        salt.copy_from_slice(&head[..SALT_LEN]);
        let keys = Self::derive(password, &salt);
        bool::from(keys.verifier.ct_eq(&head[SALT_LEN..])).then_some(keys)
    }

    /// The key stream, from this byte of the content on.
    pub(super) fn stream(&self, position: u64) -> KeyStream {
        let mut counter = [0; 16];
        counter[0] = 1;
        let mut cipher = Counter::new((&*self.cipher).into(), &counter.into());
        cipher.seek(position);
        KeyStream(cipher)
    }

    /// Authenticates the ciphertext.
    pub(super) fn authenticator(&self) -> Authenticator {
        // The key is shorter than a block of SHA-1, so it is padded with zeros: no other length can occur.
        let mut block = Zeroizing::new([0; 64]);
        block[..KEY_LEN].copy_from_slice(self.mac.as_slice());
        Authenticator(Hmac::new((&*block).into()))
    }
}

/// AES-256 in counter mode, little-endian, from 1.
pub(super) struct KeyStream(Counter);

/// The counter is one of 128 bits. No file is so long that more than 64 of them change, and counting those is faster.
type Counter = ctr::Ctr64LE<aes::Aes256>;

impl KeyStream {
    /// Encrypts or decrypts the next bytes.
    pub(super) fn apply(&mut self, bytes: &mut [u8]) {
        self.0.apply_keystream(bytes);
    }
}

/// HMAC-SHA1-80 over the ciphertext of one entry.
pub(super) struct Authenticator(Hmac<Sha1>);

impl Authenticator {
    /// Takes the next bytes of ciphertext.
    pub(super) fn update(&mut self, ciphertext: &[u8]) {
        self.0.update(ciphertext);
    }

    /// The authentication code of all that was taken.
    pub(super) fn code(self) -> Code {
        let mut full = self.0.finalize().into_bytes();
        let mut code = [0; CODE_LEN];
        code.copy_from_slice(&full[..CODE_LEN]);
        full.as_mut_slice().zeroize();
        code
    }

    /// Whether all that was taken is what was sealed.
    pub(super) fn confirms(self, code: &Code) -> bool {
        self.code().ct_eq(code).into()
    }
}

/// A salt for a new entry.
pub(super) fn random_salt() -> Result<Salt> {
    let mut salt = [0; SALT_LEN];
    rand::fill(&mut salt)
        .map_err(|_| Error::new(Kind::Local, "cannot seal", "the system gives no random numbers"))?;
    Ok(salt)
}
