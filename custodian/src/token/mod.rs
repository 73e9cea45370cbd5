//! The token: where the private keys are.
//!
//! The PKCS#11 module is loaded by a child process, the worker (law 6). This side knows keys by [`KeyId`] only.

mod attributes;
mod cage;
mod config;
mod decrypt_once;
mod describe;
mod drain;
mod elf;
mod even;
mod grip;
mod init;
mod inventory;
mod keeper;
mod keys;
mod link;
mod listed;
mod logins;
mod mechanism;
mod name;
mod outgoing;
mod patience;
mod pin;
mod pkcs11;
mod pool;
mod public;
mod queue;
mod rv;
mod supervisor;
mod turns;
mod uri;
mod wire;
pub mod worker;

#[cfg(test)]
mod contract;
#[cfg(test)]
pub(crate) mod memory;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use custodian_proto::{
    key::{FileKey, KeyId, KeyWrapping, WrappedKey},
    refusal::Refusal,
    sign::{DigestToSign, SignatureAlgorithm},
};

pub use cage::{Cage, CageConfig, Network, Programs};
pub use config::{MemberConfig, PinSource, TokenConfig, TokenSelect};
pub use describe::{KeyDescription, Said, TokenDescription};
pub use drain::Drain;
pub use init::{InitToken, init_token};
pub(crate) use mechanism::wrap;
pub use name::TokenName;
pub use pool::{Pool, TokenReport};
pub use supervisor::{StartError, Supervisor, WorkerCommand};
pub(crate) use uri::select;
#[doc(hidden)]
pub use wire::try_worker_messages;

use crate::{
    authority::Permit,
    custody::{Denial, Fault, Withheld},
};

/// A token that holds private keys and uses them.
///
/// Every operation has a deadline and answers by then, whatever the module does; a rejection up to 25 ms later (law 5).
#[async_trait]
pub trait Token: Send + Sync + 'static {
    /// Unwraps one file key. Uses the permit up; the key stays withheld until the attempt is settled.
    ///
    /// Whatever does not unwrap to exactly 32 bytes is [`TokenError::Rejected`] (laws 4 and 5).
    async fn unwrap(
        &self,
        permit: Permit,
        wrapped: &WrappedKey,
        deadline: Instant,
    ) -> Result<Withheld<FileKey>, TokenError>;

    /// Signs one digest for a caller. Uses the permit up; the signature stays withheld until the attempt is settled.
    /// RSASSA-PSS, or ECDSA with the signature in DER.
    async fn sign_digest(
        &self,
        permit: Permit,
        digest: &DigestToSign,
        deadline: Instant,
    ) -> Result<Withheld<Vec<u8>>, TokenError>;

    /// Signs `message` (not its digest) with a signing key: ECDSA P-256 over SHA-256, the signature in DER
    /// (`Ecdsa-Sig-Value`, RFC 3279 §2.2.3).
    async fn sign(&self, key: KeyId, message: &[u8], deadline: Instant) -> Result<Vec<u8>, TokenError>;

    /// Generates a key pair: sensitive, never extractable, private, one purpose, one mechanism.
    async fn generate(&self, template: KeyTemplate, deadline: Instant) -> Result<TokenKey, TokenError>;

    /// As [`Token::generate`], in the token of this name among several.
    async fn generate_in(
        &self,
        name: &TokenName,
        template: KeyTemplate,
        deadline: Instant,
    ) -> Result<TokenKey, TokenError> {
        drop((template, deadline));
        Err(TokenError::Unavailable(format!("there is no token {name} beside this one")))
    }

    /// Destroys the objects of a key pair in the token, private and public. Nothing brings them back: record it first.
    ///
    /// # Errors
    /// [`TokenError::UnknownKey`] if the token has no such key, served or not: after an earlier try, as good as done.
    async fn destroy(&self, key: KeyId, deadline: Instant) -> Result<(), TokenError>;

    /// What each token that has this key says of it, as far as they can be asked.
    async fn describe(&self, key: KeyId, deadline: Instant) -> Result<Vec<KeyDescription>, TokenError>;

    /// The PKCS#11 URIs (RFC 7512) of this private key, one for each token that has it, as far as is known. Never asks the
    /// token.
    fn uris(&self, key: KeyId) -> Vec<String> {
        let survey = self.health().last_survey;
        let keys = survey.iter().flat_map(|survey| &survey.keys);
        keys.filter(|known| known.id == key).map(|known| known.uri.clone()).collect()
    }

    /// Looks into the token: the keys that pass the check of their attributes (law 7), and how the token is. Takes a
    /// turn in the token's queue: for what was found last, see [`Token::health`].
    async fn survey(&self, deadline: Instant) -> Result<Survey, TokenError>;

    /// How often a worker was replaced since the start, whether one serves now (or why not), and what the token has as
    /// far as is known. Never asks the token, never waits.
    fn health(&self) -> Health;
}

/// What a key pair is to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyTemplate {
    /// CKA_LABEL, for people who look into the token with other tools.
    pub label: String,
    /// Its one purpose.
    pub kind: KeyKind,
}

/// A key's algorithm, size and one purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyKind {
    /// RSA, to unwrap file keys. The token gives it the strongest wrapping it can do.
    RsaUnwrap {
        /// The size of the modulus.
        modulus_bits: u32,
    },
    /// RSA, to unwrap file keys with PKCS #1 v1.5, and nothing else (law 5): as OpenPGP wraps them, or bare, as in CMS. Which of
    /// the two, the token cannot say; the ledger does.
    RsaOpenPgp {
        /// The size of the modulus.
        modulus_bits: u32,
    },
    /// RSA, to sign digests with RSASSA-PSS.
    RsaPssSign {
        /// The size of the modulus.
        modulus_bits: u32,
    },
    /// ECDSA on P-256, to sign.
    EcdsaP256Sign,
    /// Ed25519 (RFC 8032), to sign. Not every token can do it.
    Ed25519Sign,
}

impl KeyKind {
    /// Whether it signs messages of ours ([`Token::sign`]).
    pub fn signs(self) -> bool {
        match self {
            Self::EcdsaP256Sign | Self::Ed25519Sign => true,
            Self::RsaUnwrap { .. } | Self::RsaOpenPgp { .. } | Self::RsaPssSign { .. } => false,
        }
    }

    /// Whether it signs digests so ([`Token::sign_digest`]).
    pub fn signs_digests(self, algorithm: SignatureAlgorithm) -> bool {
        match self {
            Self::RsaPssSign { .. } => matches!(algorithm, SignatureAlgorithm::RsaPss(_)),
            Self::EcdsaP256Sign => algorithm == SignatureAlgorithm::EcdsaP256,
            Self::RsaUnwrap { .. } | Self::RsaOpenPgp { .. } | Self::Ed25519Sign => false,
        }
    }

    /// Whether its one purpose is to unwrap.
    pub fn unwraps(self) -> bool {
        match self {
            Self::RsaUnwrap { .. } | Self::RsaOpenPgp { .. } => true,
            Self::RsaPssSign { .. } | Self::EcdsaP256Sign | Self::Ed25519Sign => false,
        }
    }

    /// The size of the modulus, if it is an RSA key.
    pub fn modulus_bits(self) -> Option<u32> {
        match self {
            Self::RsaUnwrap { modulus_bits }
            | Self::RsaOpenPgp { modulus_bits }
            | Self::RsaPssSign { modulus_bits } => Some(modulus_bits),
            Self::EcdsaP256Sign | Self::Ed25519Sign => None,
        }
    }
}

/// A key pair in the token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TokenKey {
    /// Its id, computed from the public key as the token gives it.
    pub id: KeyId,
    /// CKA_LABEL.
    pub label: String,
    /// What it is.
    pub kind: KeyKind,
    /// For unwrapping keys: the one wrapping it unwraps.
    pub wrapping: Option<KeyWrapping>,
    /// SubjectPublicKeyInfo, DER.
    pub spki: Vec<u8>,
    /// Its name for other programs: a PKCS#11 URI (RFC 7512).
    pub uri: String,
}

/// What a token is and has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Survey {
    /// The token's label.
    pub label: String,
    /// Manufacturer and model, as the token says.
    pub model: String,
    /// The strongest wrapping it can do: what new keys get.
    pub wrapping: KeyWrapping,
    /// The keys it serves.
    pub keys: Vec<TokenKey>,
    /// The keys it does not serve, each with the reason (law 7): `key "old" (CKA_ID 01ab): CKA_EXTRACTABLE is true`.
    pub unserved: Vec<String>,
    /// What the module is kept from.
    pub cage: Cage,
    /// What else an operator should know, each with what to do about it: fewer sessions than wanted.
    pub remarks: Vec<String>,
}

/// How a token is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Health {
    /// How often a worker was replaced.
    pub restarts: u32,
    /// Why it does not serve; `None` when it does.
    pub trouble: Option<String>,
    /// The last survey: at the worker's start or later, with the keys that were made since. `None` before the first.
    pub last_survey: Option<Arc<Survey>>,
}

/// Why the token did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The ciphertext is no wrapped file key of that wrapping key. One answer for every cause (law 5).
    #[error("the ciphertext is no file key of this wrapping key")]
    Rejected,
    /// The token serves no such key for that purpose.
    #[error("the token serves no key {0} for this")]
    UnknownKey(KeyId),
    /// The permit was given for another operation or another key: a defect of ours.
    #[error("the permit is not for this key")]
    NotPermitted,
    /// The queue is full.
    #[error("the token's queue is full")]
    Busy,
    /// Not done within the deadline, or the token cannot be reached. Says why, and what to do.
    #[error("{0}")]
    Unavailable(String),
}

impl From<TokenError> for Denial {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Rejected => Refusal::WrappedKeyRejected.into(),
            // The ledger knew the key, or we would not be here: the token lost it, or it failed the check at start.
            TokenError::UnknownKey(_) | TokenError::Unavailable(_) => {
                Fault::TokenUnavailable(error.to_string()).into()
            }
            TokenError::NotPermitted => Fault::Internal(error.to_string()).into(),
            TokenError::Busy => Refusal::Overloaded.into(),
        }
    }
}
