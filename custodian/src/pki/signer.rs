//! rcgen signs through this: it asks the token.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use custodian_proto::key::KeyId;
use rcgen::{PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm, SigningKey};
use tokio::runtime::Handle;

use super::TOKEN_LIMIT;
use crate::token::{Token, TokenError};

/// A signing key in the token. rcgen's interface blocks: use it on a thread that may.
pub(super) struct TokenSigner {
    pub(super) token: Arc<dyn Token>,
    pub(super) key: KeyId,
    /// The public key as in its SubjectPublicKeyInfo.
    pub(super) point: Vec<u8>,
    pub(super) runtime: Handle,
    /// Why the token did not sign: rcgen's errors have no room for it.
    pub(super) failure: Mutex<Option<TokenError>>,
}

impl TokenSigner {
    pub(super) fn failure(&self) -> Option<TokenError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl PublicKeyData for TokenSigner {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for TokenSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature = self.token.sign(self.key, message, Instant::now() + TOKEN_LIMIT);
        self.runtime.block_on(signature).map_err(|error| {
            *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            rcgen::Error::RemoteKeyError
        })
    }
}
