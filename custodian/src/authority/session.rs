//! Sessions: short-lived logins, bound to one device certificate.

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::{SpkiHash, UserId};

/// The SHA-256 of a session token. The token itself is never kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SessionId(pub [u8; 32]);

impl SessionId {
    /// The id of the session that this token opens.
    pub fn of_token(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }
}

/// A login.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// Whose it is.
    pub user: UserId,
    /// The device it was made on. The idea of RFC 8705 §3: worthless elsewhere.
    pub device: SpkiHash,
    /// When it was made.
    pub created: Timestamp,
    /// When it was last used.
    pub used: Timestamp,
    /// When it last showed the second factor.
    pub factor: Option<Timestamp>,
    /// When it ends whatever happens.
    pub expires: Timestamp,
}
