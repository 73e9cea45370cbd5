//! The directory seal: what AE-2 leaves open. AE-2 authenticates the content of each entry, and nothing else: names,
//! times and modes could be changed, and entries removed or exchanged, by anybody. So the archive's comment holds a MAC
//! over the directory and the authentication codes of all entries, under the archive's password. Other programs show
//! the comment and need not care.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::{ae2::Code, password::Password};

/// The comment starts so; 64 hex digits follow.
const PREFIX: &str = "MTD1 ";
/// Keeps this use of the password apart from every other.
const LABEL: &[u8] = b"MTD1 directory seal\0";

/// A MAC over the directory of an archive.
pub(super) struct DirectorySeal(Hmac<Sha256>);

impl DirectorySeal {
    /// Over the central headers of all entries, as they are in the file, and then the authentication codes of those that
    /// have one, in the same order.
    pub(super) fn new<'a>(
        password: &Password,
        directory: &[u8],
        codes: impl Iterator<Item = &'a Code>,
    ) -> Option<Self> {
        let mut mac = Hmac::new_from_slice(password.expose()).ok()?;
        mac.update(LABEL);
        mac.update(directory);
        codes.for_each(|code| mac.update(code));
        Some(Self(mac))
    }

    /// As an archive's comment.
    pub(super) fn into_comment(self) -> Vec<u8> {
        format!("{PREFIX}{}", hex::encode(self.0.finalize().into_bytes())).into_bytes()
    }

    /// Whether this comment is the seal.
    pub(super) fn confirms(self, comment: &[u8]) -> bool {
        let digits = comment.strip_prefix(PREFIX.as_bytes()).unwrap_or_default();
        // Upper-case digits would be a second way to write the same seal.
        let lower = !digits.iter().any(u8::is_ascii_uppercase);
        hex::decode(digits).is_ok_and(|mac| lower && self.0.verify_slice(&mac).is_ok())
    }
}

/// Whether a comment claims to be a directory seal. What it is worth, the password tells.
pub(super) fn is_claimed(comment: &[u8]) -> bool {
    comment.starts_with(PREFIX.as_bytes())
}
