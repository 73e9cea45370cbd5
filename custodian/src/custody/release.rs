//! Release: the last step of whatever gives something out.

use std::sync::Arc;

use tracing::{Instrument as _, trace_span};

use super::{Call, Custodian, Denial, Fault, Withheld, to_the_end};
use crate::{
    ledger::{Attempt, Intent, Outcome},
    log::Confirmed,
};

/// An operation that gives one thing out that the token makes.
pub(super) trait Operation: Send + Sync + 'static {
    /// What it gives.
    type Made: Send + 'static;

    /// What is about to be tried.
    fn intent(&self, call: &Call) -> Intent;

    /// From the permit to what the token made of it.
    fn make(
        &self,
        custodian: &Custodian,
        call: &Call,
        intent: &Intent,
    ) -> impl Future<Output = Result<Withheld<Self::Made>, Denial>> + Send;

    /// What the ledger is told.
    fn outcome(_: &Custodian, made: &Result<Withheld<Self::Made>, Denial>) -> Outcome {
        Outcome::of(made)
    }
}

impl Custodian {
    /// Begin, permit, token, settle: what was made and the number of its record, once that is durable (law 1).
    pub(super) async fn release_one<O: Operation>(
        self: &Arc<Self>,
        call: Call,
        operation: O,
    ) -> Result<(O::Made, u64), Denial> {
        let custodian = Arc::clone(self);
        to_the_end(call.place.clone(), async move {
            let attempt = custodian.ledger.begin(operation.intent(&call));
            let made = operation.make(&custodian, &call, attempt.intent()).await;
            call.place.token_answered();
            let outcome = O::outcome(&custodian, &made);
            let again = || operation.intent(&call);
            let settled = custodian.settle_release(attempt, outcome, again);
            let confirmed = settled.instrument(trace_span!("settle")).await?;
            let sequence = confirmed.sequence();
            Ok((made?.release(confirmed), sequence))
        })
        .await
    }

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
