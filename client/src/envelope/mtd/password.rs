//! The archive's password: what CIPHER.KEY holds.

use aws_lc_rs::rand;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use crate::error::{Error, Kind, Result};

/// Passwords of envelopes whose directory is sealed start so. Whoever strips the directory seal from such an envelope
/// would have to change this too, and cannot.
const SEALED_PREFIX: &str = "MTD1.";

/// Longest password that is accepted, in bytes.
const MAX_LEN: usize = 1_024;

/// The password of all entries of one archive. Has no `Debug`, and is overwritten when dropped (law 9).
pub(super) struct Password(Zeroizing<Vec<u8>>);

impl Password {
    /// A new one: `MTD1.` and 43 characters base64url of 32 random bytes.
    pub(super) fn random() -> Result<Self> {
        let mut random = Zeroizing::new([0; 32]);
        rand::fill(random.as_mut_slice())
            .map_err(|_| Error::new(Kind::Local, "cannot seal", "the system gives no random numbers"))?;
        let mut text = Zeroizing::new(String::with_capacity(64));
        text.push_str(SEALED_PREFIX);
        URL_SAFE_NO_PAD.encode_string(random.as_slice(), &mut text);
        Ok(Self(Zeroizing::new(text.as_bytes().to_vec())))
    }

    /// One that was found in a CIPHER.KEY. `None` if it cannot be the password of a ZIP archive.
    pub(super) fn from_bytes(bytes: Zeroizing<Vec<u8>>) -> Option<Self> {
        let usable = !bytes.is_empty() && bytes.len() <= MAX_LEN && !bytes.contains(&0);
        usable.then_some(Self(bytes))
    }

    /// Its bytes.
    pub(super) fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Whether its archive must have a directory seal.
    pub(super) fn promises_directory_seal(&self) -> bool {
        self.0.starts_with(SEALED_PREFIX.as_bytes())
    }
}
