//! The checkpointer: signs the newest head of the tree whenever there are new records.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use custodian_proto::tlog::Checkpoint;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{CheckpointError, Log, SignedCheckpoint};

/// The least time between two signatures. A single record is signed for at once; under load, one signature serves all
/// records of this time, and the token has the rest of its time for file keys. Longer would be cheaper, but callers who
/// want receipts would all wait for the same signature, and the token for them.
const INTERVAL: Duration = Duration::from_millis(50);

/// After a failure.
const RETRY: Duration = Duration::from_secs(1);

impl Log {
    /// Signs checkpoints until `ends`, and then a last one for the records until then.
    pub async fn keep_signing(self: Arc<Self>, ends: CancellationToken) {
        let mut news = self.ledger.last_sequence();
        while !ends.is_cancelled() {
            news.borrow_and_update();
            let signed = self.sign_newest().await;
            let well = signed.is_ok();
            self.note(signed);
            tokio::select! {
                () = tokio::time::sleep(if well { INTERVAL } else { RETRY }) => {}
                () = ends.cancelled() => {}
            }
            if well {
                tokio::select! {
                    changed = news.changed() => if changed.is_err() { break },
                    () = ends.cancelled() => {}
                }
            }
        }
        let signed = self.sign_newest().await;
        self.note(signed);
    }

    /// Signs the head of the tree, if it is not signed yet.
    pub(super) async fn sign_newest(&self) -> Result<(), CheckpointError> {
        let newest = self.state.borrow().newest.clone();
        let head = self.ledger.tree_head(None).await?;
        if let Some(signed) = newest.as_deref().map(|newest| &newest.checkpoint) {
            // A log must not sign what is inconsistent with what it signed before (C2SP tlog-checkpoint).
            let begins_so = head.size >= signed.size
                && self.ledger.tree_head(Some(signed.size)).await?.root == signed.root;
            if !begins_so {
                return Err(CheckpointError::Rewritten { signed: signed.size, now: head.size });
            }
            if head.size == signed.size {
                return Ok(());
            }
        }
        let origin = self.verifier.name().to_owned();
        let text = Checkpoint { origin, size: head.size, root: head.root }.text();
        let deadline = Instant::now() + self.token_deadline;
        let signature = self.token.sign(self.key, text.as_bytes(), deadline).await?;
        let note = self.verifier.note(&text, &signature);
        let checkpoint = Checkpoint::open(&note, &self.verifier).map_err(CheckpointError::Signature)?;
        // Kept before anybody sees it: what was given out must not be forgotten.
        self.keep(head.size, note.clone()).await?;
        let signed = Arc::new(SignedCheckpoint { checkpoint, note, time: Some(Timestamp::now()) });
        self.state.send_modify(|state| state.newest = Some(signed));
        Ok(())
    }

    /// Lets the status know, and the operator, but not every second.
    fn note(&self, signed: Result<(), CheckpointError>) {
        let trouble = signed.err().map(|error| error.to_string());
        self.state.send_if_modified(|state| {
            if state.trouble == trouble {
                return false;
            }
            match &trouble {
                Some(why) => tracing::error!("no checkpoint of the log is signed: {why}"),
                None => tracing::info!("checkpoints of the log are signed again"),
            }
            state.trouble.clone_from(&trouble);
            true
        });
    }
}
