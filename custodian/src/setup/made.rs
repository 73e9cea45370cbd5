//! A token during a set-up: it remembers what was made, so that a set-up that fails can take it back.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use custodian_proto::{
    key::{FileKey, KeyId, WrappedKey},
    sign::DigestToSign,
};

use crate::{
    authority::Permit,
    custody::Withheld,
    token::{Health, KeyDescription, KeyTemplate, Survey, Token, TokenError, TokenKey},
};

/// How long the token may take to destroy one key.
const LIMIT: Duration = Duration::from_secs(10);

/// A token, and the keys that were made through this.
pub(super) struct Made {
    token: Arc<dyn Token>,
    keys: Mutex<Vec<TokenKey>>,
}

impl Made {
    pub(super) fn new(token: Arc<dyn Token>) -> Arc<Self> {
        Arc::new(Self { token, keys: Mutex::default() })
    }

    /// Destroys every key that was made. What stays is named in the log.
    pub(super) async fn take_back(&self) {
        let keys = std::mem::take(&mut *self.keys.lock().unwrap_or_else(PoisonError::into_inner));
        for key in keys {
            if let Err(error) = self.token.destroy(key.id, Instant::now() + LIMIT).await {
                tracing::warn!(key = %key.id, label = key.label, %error, "an unused key stays in the token");
            }
        }
    }
}

#[async_trait]
impl Token for Made {
    async fn unwrap(
        &self,
        permit: Permit,
        wrapped: &WrappedKey,
        deadline: Instant,
    ) -> Result<Withheld<FileKey>, TokenError> {
        self.token.unwrap(permit, wrapped, deadline).await
    }

    async fn sign_digest(
        &self,
        permit: Permit,
        digest: &DigestToSign,
        deadline: Instant,
    ) -> Result<Withheld<Vec<u8>>, TokenError> {
        self.token.sign_digest(permit, digest, deadline).await
    }

    async fn sign(&self, key: KeyId, message: &[u8], deadline: Instant) -> Result<Vec<u8>, TokenError> {
        self.token.sign(key, message, deadline).await
    }

    async fn generate(&self, template: KeyTemplate, deadline: Instant) -> Result<TokenKey, TokenError> {
        let key = self.token.generate(template, deadline).await?;
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).push(key.clone());
        Ok(key)
    }

    async fn destroy(&self, key: KeyId, deadline: Instant) -> Result<(), TokenError> {
        self.token.destroy(key, deadline).await
    }

    async fn describe(&self, key: KeyId, deadline: Instant) -> Result<Vec<KeyDescription>, TokenError> {
        self.token.describe(key, deadline).await
    }

    fn uris(&self, key: KeyId) -> Vec<String> {
        self.token.uris(key)
    }

    async fn survey(&self, deadline: Instant) -> Result<Survey, TokenError> {
        self.token.survey(deadline).await
    }

    fn health(&self) -> Health {
        self.token.health()
    }
}
