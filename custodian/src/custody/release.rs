//! Release: the last step of whatever gives something out.

use super::{Custodian, Denial, Fault};
use crate::{
    ledger::{Attempt, Intent, Outcome},
    log::Confirmed,
};

impl Custodian {
    /// Whether a release could be recorded wherever it must be, by what is known now.
    pub(super) fn admits_release(&self) -> Result<(), Fault> {
        self.second_place.admits(*self.ledger.last_sequence().borrow())
    }

    /// Records the outcome durably in the ledger, and in the second place if there is one. If it does not get there in time,
    /// nothing leaves, and a second record of the attempt says so: the first one cannot be changed.
    pub(super) async fn settle_release(
        &self,
        attempt: Attempt,
        outcome: Outcome,
        intent: impl FnOnce() -> Intent,
    ) -> Result<Confirmed, Denial> {
        let deadline = self.second_place.deadline();
        let (release, _) = self.ledger.settle(attempt, outcome).await?;
        let fault = match self.second_place.confirm(release, deadline).await {
            Ok(confirmed) => return Ok(confirmed),
            Err(fault) => fault,
        };
        let again = self.ledger.begin(intent());
        match self.ledger.settle(again, Outcome::Denied(fault.clone().into())).await {
            Err(denial) => Err(denial),
            // A denied outcome cannot settle as allowed; if it did, it is denied all the same.
            Ok(_) => Err(fault.into()),
        }
    }
}
