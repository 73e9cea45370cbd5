//! Receipts: a record, and the way from it to a signed checkpoint.

use std::{sync::Arc, time::Duration};

use custodian_proto::{refusal::Refusal, tlog::Receipt};

use super::{Log, LogState, SignedCheckpoint};
use crate::{
    custody::{Denial, Fault},
    ledger::Included,
};

/// How long to wait for the checkpoint that covers a record.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long to wait for witnesses beyond that.
const WITNESSES: Duration = Duration::from_secs(1);

impl Log {
    /// A checkpoint that covers every record from before the call, or the newest one if the token does not sign; with its
    /// cosignatures, if the witnesses answer soon.
    pub async fn checkpoint(&self) -> Option<Arc<SignedCheckpoint>> {
        let recorded = *self.ledger.last_sequence().borrow();
        let mut state = self.state();
        let covers = |state: &LogState| {
            let size = state.newest.as_ref().map_or(0, |newest| newest.checkpoint.size);
            size >= recorded || state.trouble.is_some()
        };
        // An older one is better than nothing.
        drop(tokio::time::timeout(PATIENCE, state.wait_for(covers)).await);
        let newest = self.state.borrow().newest.clone()?;
        let last = newest.checkpoint.size.saturating_sub(1);
        self.cosigned_for(last).await.or_else(|| self.state.borrow().best())
    }

    /// A cosigned checkpoint that covers the entry at `index`. Waits for the witnesses, while at least one of them cosigns.
    async fn cosigned_for(&self, index: u64) -> Option<Arc<SignedCheckpoint>> {
        let mut state = self.state();
        let enough = |state: &LogState| {
            state.collected > index || state.witnesses.iter().all(|witness| witness.trouble.is_some())
        };
        // What there is by then is better than nothing.
        drop(tokio::time::timeout(WITNESSES, state.wait_for(enough)).await);
        let cosigned = self.state.borrow().cosigned.clone();
        cosigned.filter(|cosigned| cosigned.checkpoint.size > index)
    }

    /// The receipt of a record, once a checkpoint covers it.
    ///
    /// # Errors
    /// There is no such record; no checkpoint covers it in time; the record is not the one that was logged.
    pub async fn receipt(&self, sequence: u64) -> Result<Receipt, Denial> {
        let last = *self.ledger.last_sequence().borrow();
        let index = sequence.checked_sub(1).filter(|index| *index < last);
        let index = index.ok_or(Refusal::NotFound)?;
        let mut state = self.state();
        let covers =
            |state: &LogState| state.newest.as_ref().is_some_and(|newest| newest.checkpoint.size > index);
        let signed = match tokio::time::timeout(PATIENCE, state.wait_for(covers)).await {
            Ok(Ok(state)) => state.newest.clone(),
            Ok(Err(_)) | Err(_) => None,
        };
        let signed = self.cosigned_for(index).await.or(signed);
        let Some(signed) = signed else {
            let why = self.state.borrow().trouble.clone();
            let why = why.unwrap_or_else(|| "no checkpoint covers the record yet".to_owned());
            return Err(Fault::TokenUnavailable(why).into());
        };
        let included = self.ledger.inclusion(index, signed.checkpoint.size).await?;
        let Included { entry, proof } =
            included.ok_or_else(|| Fault::Internal(format!("record {sequence} is gone")))?;
        let receipt = Receipt { entry, index, proof, checkpoint: signed.note.clone() };
        // What does not verify here would verify nowhere, and somebody should know. The note was verified when it was signed.
        receipt.verify_in(&signed.checkpoint).map_err(|flaw| {
            Fault::Internal(format!("record {sequence} of the ledger was changed: {flaw}"))
        })?;
        Ok(receipt)
    }
}
