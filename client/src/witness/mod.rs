//! A witness (C2SP tlog-witness): runs elsewhere, remembers the last tree of each log that it saw, and signs that the next one
//! begins with it. A log that shows different people different trees then lacks its signature under one of them.

mod folder;
mod server;

use std::sync::{Mutex, PoisonError};

use aws_lc_rs::signature::Ed25519KeyPair;
use custodian_proto::tlog::{
    Checkpoint, CosignerKey, Flaw, Hash, VerifierKey, cosignature,
    merkle::{self},
    witness::AddCheckpoint,
};
use jiff::Timestamp;

use folder::Suspicion;
pub use folder::{Evidence, Folder};
pub use server::serve;

use crate::error::Result;

/// What a witness answers: the statuses of tlog-witness.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// 200: the signature line.
    Cosigned(String),
    /// 400: it is no request, or its old size is greater than the new one.
    Malformed(String),
    /// 403: not signed by the log's key.
    NotSigned(String),
    /// 404: not a log that is watched here.
    UnknownLog(String),
    /// 409: the last tree cosigned has this size.
    Conflict(u64),
    /// 409: the last tree cosigned has this size, and this is another one of it: the log signed both.
    Split(u64, Evidence),
    /// 422: it is not proven that the tree begins with the last one.
    NotConsistent(String, Evidence),
    /// 500: it could not be remembered, so it is not signed.
    Failed(String),
}

/// A witness of some logs.
pub struct Witness {
    key: CosignerKey,
    pair: Ed25519KeyPair,
    logs: Vec<VerifierKey>,
    /// Held from the comparison until the new checkpoint is durable: two requests must not pass each other.
    folder: Mutex<Folder>,
}

impl Witness {
    /// The witness whose key, logs and memory are in this folder.
    ///
    /// # Errors
    /// If the folder is none of a witness.
    pub fn open(folder: Folder) -> Result<Self> {
        let (key, pair) = folder.key()?;
        Ok(Self { key, pair, logs: folder.logs()?, folder: Mutex::new(folder) })
    }

    /// The public key.
    pub fn key(&self) -> &CosignerKey {
        &self.key
    }

    /// The logs that are watched.
    pub fn logs(&self) -> &[VerifierKey] {
        &self.logs
    }

    /// Signs a checkpoint if the tree begins with the last one that was signed, and remembers it durably before.
    pub fn add(&self, request: &str, now: Timestamp) -> Answer {
        self.consider(request, now).unwrap_or_else(|answer| answer)
    }

    fn consider(&self, request: &str, now: Timestamp) -> std::result::Result<Answer, Answer> {
        let malformed = |flaw: Flaw| Answer::Malformed(flaw.to_string());
        let AddCheckpoint { old, proof, checkpoint: note } = request.parse().map_err(malformed)?;
        let claimed: Checkpoint = note.parse().map_err(malformed)?;
        let log = self.logs.iter().find(|log| log.name() == claimed.origin);
        let log = log.ok_or_else(|| Answer::UnknownLog(format!("{} is not watched here", claimed.origin)))?;
        let new = Checkpoint::open(&note, log).map_err(|flaw| Answer::NotSigned(flaw.to_string()))?;
        if old > new.size {
            return Err(Answer::Malformed("the old size is greater than the new one".to_owned()));
        }
        let folder = self.folder.lock().unwrap_or_else(PoisonError::into_inner);
        let last = folder.last(log).map_err(|error| Answer::Failed(error.to_string()))?;
        let (size, root) =
            last.map_or((0, Hash::of_empty_tree()), |last| (last.checkpoint.size, last.checkpoint.root));
        // What the log signed and does not fit what it signed before: this may be the only copy.
        let keep = |of: Suspicion| {
            let kept = folder.keep_evidence(of, &new, request);
            kept.map_err(|error| Answer::Failed(error.to_string()))
        };
        if new.size == size && new.root != root {
            return Err(Answer::Split(size, keep(Suspicion::Split)?));
        }
        if old != size {
            return Err(Answer::Conflict(size));
        }
        if (size == 0 || new.size == size) && !proof.is_empty() {
            // Anybody can add one: it says nothing of the log.
            return Err(Answer::Malformed("there is nothing to prove".to_owned()));
        }
        let (last, next) = ((size, &root), (new.size, &new.root));
        if let Err(flaw) = merkle::verify_consistency(last, next, &proof) {
            return Err(Answer::NotConsistent(flaw.to_string(), keep(Suspicion::Unproven)?));
        }
        folder.remember(log, &note).map_err(|error| Answer::Failed(error.to_string()))?;
        Ok(Answer::Cosigned(self.line(&new, &note, now)?))
    }

    /// Signs the note's text, extension lines included.
    fn line(&self, new: &Checkpoint, note: &str, now: Timestamp) -> std::result::Result<String, Answer> {
        let time =
            u64::try_from(now.as_second()).map_err(|_| Answer::Failed("the clock is wrong".to_owned()))?;
        // What was opened begins with these lines, and ends before the signatures.
        let text = note.rfind("\n\n").map(|end| &note[..=end]);
        let text =
            text.ok_or_else(|| Answer::Failed(format!("the checkpoint of {} has no text", new.origin)))?;
        let signature = self.pair.sign(cosignature::message(time, text).as_bytes());
        let signature: &[u8; 64] = signature
            .as_ref()
            .try_into()
            .map_err(|_| Answer::Failed("the signature has no 64 bytes".to_owned()))?;
        Ok(self.key.line(time, signature))
    }
}
