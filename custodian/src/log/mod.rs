//! The log as others can check it: a key in the token signs the head of the tree that the ledger keeps.
//!
//! Signing is never in the way of a commit. A record is durable first (law 1); the checkpoint that covers it follows, and
//! while the token is away, checkpoints lag behind the log.

mod checkpointer;
mod key;
mod receipt;
mod second;
#[cfg(test)]
mod tests;
mod witness;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use custodian_proto::{
    key::KeyId,
    tlog::{Checkpoint, VerifierKey},
};
use jiff::Timestamp;
use tokio::sync::watch;

pub use key::{LogKeyError, make_log_key};
pub use second::{
    BucketConfig, Confirmed, Copier, CopyConfig, CopyError, CopyState, Copying, OnFailure, Place, SecondPlace,
};
pub use witness::{Cosigned, Cosigners, WitnessConfig, WitnessState, WitnessUrl};

use crate::{
    ledger::{Ledger, LedgerError},
    token::{Token, TokenError},
};

/// The log: signs checkpoints of the ledger's tree.
pub struct Log {
    ledger: Arc<dyn Ledger>,
    token: Arc<dyn Token>,
    key: KeyId,
    verifier: VerifierKey,
    token_deadline: Duration,
    witnesses: Vec<WitnessConfig>,
    /// The size of the checkpoint that was kept last.
    kept: tokio::sync::Mutex<u64>,
    state: watch::Sender<LogState>,
}

/// How the log is.
#[derive(Clone, Default, Debug)]
pub struct LogState {
    /// The newest checkpoint. `None` before the first.
    pub newest: Option<Arc<SignedCheckpoint>>,
    /// Why there is no newer one although there are newer records; `None` while all is well.
    pub trouble: Option<String>,
    /// The newest checkpoint that a witness has cosigned, with all its cosignatures.
    pub cosigned: Option<Arc<SignedCheckpoint>>,
    /// Every witness has answered, or not, for the checkpoint of this size.
    pub collected: u64,
    /// How the witnesses are, in the order of the configuration.
    pub witnesses: Vec<WitnessState>,
}

/// A checkpoint with its signature.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignedCheckpoint {
    /// What is signed.
    pub checkpoint: Checkpoint,
    /// The signed note, as it is given to others.
    pub note: String,
    /// When it was signed, by our clock; `None` if an earlier run did it. No part of what is signed.
    pub time: Option<Timestamp>,
}

/// Why there is no new checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// The ledger does not tell its tree.
    #[error("the ledger does not answer: {0}")]
    Ledger(#[from] LedgerError),
    /// The token does not sign.
    #[error("the token does not sign: {0}")]
    Token(#[from] TokenError),
    /// The token signed, but the signature does not verify.
    #[error("the token's signature is wrong: {0}")]
    Signature(custodian_proto::tlog::Flaw),
    /// The tree does not begin with the one that was signed last. Nobody may sign that.
    #[error(
        "the log of {now} records does not begin with the {signed} records that were signed before: somebody changed the \
         ledger's file. Stop the custodian, keep a copy of the file, and compare it with a backup"
    )]
    Rewritten {
        /// Records in the checkpoint signed last.
        signed: u64,
        /// Records there are now.
        now: u64,
    },
}

impl Log {
    /// The log whose key is `verifier`; the private half must be in the token. A signature that takes longer than
    /// `token_deadline` is given up.
    ///
    /// # Errors
    /// If the token does not serve that key.
    pub async fn open(
        ledger: Arc<dyn Ledger>,
        token: Arc<dyn Token>,
        verifier: VerifierKey,
        token_deadline: Duration,
    ) -> Result<Self, LogKeyError> {
        key::find(token.as_ref(), &verifier, Instant::now() + token_deadline).await?;
        Self::of_key(ledger, token, verifier, token_deadline)
    }

    /// As [`Log::open`], but the key is not looked for: the token with it may come later.
    ///
    /// # Errors
    /// If this is no key that any token would serve.
    pub fn of_key(
        ledger: Arc<dyn Ledger>,
        token: Arc<dyn Token>,
        verifier: VerifierKey,
        token_deadline: Duration,
    ) -> Result<Self, LogKeyError> {
        let key = key::id(&verifier)?;
        // What an earlier run signed with another key counts for the ledger alone, which has compared it.
        let newest = ledger.kept_checkpoint().and_then(|note| {
            let checkpoint = Checkpoint::open(&note, &verifier).ok()?;
            Some(Arc::new(SignedCheckpoint { checkpoint, note, time: None }))
        });
        let kept = tokio::sync::Mutex::new(newest.as_ref().map_or(0, |newest| newest.checkpoint.size));
        let state = watch::Sender::new(LogState { newest, ..LogState::default() });
        Ok(Self { ledger, token, key, verifier, token_deadline, witnesses: Vec::new(), kept, state })
    }

    /// The public key with the log's name, for those who check.
    pub fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }

    /// The private key in the token.
    pub fn key(&self) -> KeyId {
        self.key
    }

    /// Keeps a checkpoint durably, unless a later one is kept already.
    async fn keep(&self, size: u64, note: String) -> Result<(), LedgerError> {
        let mut kept = self.kept.lock().await;
        if size >= *kept {
            self.ledger.keep_checkpoint(note).await?;
            *kept = size;
        }
        Ok(())
    }

    /// How the log is now, and a signal for each change.
    pub fn state(&self) -> watch::Receiver<LogState> {
        self.state.subscribe()
    }
}
