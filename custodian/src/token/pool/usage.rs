//! What a key is used for: an operation that any token with the key can do, and that is safe to repeat.

use std::time::Instant;

use async_trait::async_trait;
use custodian_proto::{
    key::{FileKey, KeyId, WrappedKey},
    sign::DigestToSign,
};

use super::member::{Member, Miss};
use crate::token::TokenKey;

/// One use of a key.
#[async_trait]
pub(super) trait Usage: Send + Sync {
    /// What it gives.
    type Made: Send;

    /// With which key.
    fn key(&self) -> KeyId;

    /// Whether the key can be used so where it is held like this.
    fn fits(&self, key: &TokenKey) -> Fit;

    /// Tries it.
    async fn by(&self, member: &dyn Member, deadline: Instant) -> Result<Self::Made, Miss>;
}

/// Whether a token that has a key can use it as asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fit {
    /// It can.
    Good,
    /// It has the key, and would say no.
    Bad,
}

/// Unwrap one file key. The permit for it has been used up.
pub(super) struct Unwrapping<'a>(pub(super) &'a WrappedKey);

#[async_trait]
impl Usage for Unwrapping<'_> {
    type Made = FileKey;

    fn key(&self) -> KeyId {
        self.0.key_id()
    }

    /// A token can do its strongest wrapping and every weaker one. What is wrapped more strongly, it would reject: and a
    /// rejection is final.
    fn fits(&self, key: &TokenKey) -> Fit {
        match (key.wrapping, self.0.wrapping()) {
            // The mechanism is the same; for which of the two the key was made, its permit says.
            (Some(own), wrapping) if own.is_pkcs1() && wrapping.is_pkcs1() => Fit::Good,
            (Some(own), wrapping) if own.is_pkcs1() || wrapping.is_pkcs1() => Fit::Bad,
            (None, _) => Fit::Bad,
            (Some(strongest), wrapping) if wrapping <= strongest => Fit::Good,
            _ => Fit::Bad,
        }
    }

    async fn by(&self, member: &dyn Member, deadline: Instant) -> Result<FileKey, Miss> {
        member.unwrap(self.0, deadline).await
    }
}

/// Sign a digest for a caller. The permit for it has been used up.
pub(super) struct DigestSigning<'a>(pub(super) &'a DigestToSign);

#[async_trait]
impl Usage for DigestSigning<'_> {
    type Made = Vec<u8>;

    fn key(&self) -> KeyId {
        self.0.key_id()
    }

    fn fits(&self, key: &TokenKey) -> Fit {
        if key.kind.signs_digests(self.0.algorithm()) { Fit::Good } else { Fit::Bad }
    }

    async fn by(&self, member: &dyn Member, deadline: Instant) -> Result<Vec<u8>, Miss> {
        member.sign_digest(self.0, deadline).await
    }
}

/// Sign a message.
pub(super) struct Signing<'a> {
    pub(super) key: KeyId,
    pub(super) message: &'a [u8],
}

#[async_trait]
impl Usage for Signing<'_> {
    type Made = Vec<u8>;

    fn key(&self) -> KeyId {
        self.key
    }

    fn fits(&self, key: &TokenKey) -> Fit {
        if key.kind.signs() { Fit::Good } else { Fit::Bad }
    }

    async fn by(&self, member: &dyn Member, deadline: Instant) -> Result<Vec<u8>, Miss> {
        member.sign(self.key, self.message, deadline).await
    }
}
