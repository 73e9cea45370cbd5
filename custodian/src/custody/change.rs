//! Change: what administrators do, and signing in and out. Recorded in the transaction that makes the change.

use std::sync::Arc;

use custodian_proto::refusal::Refusal;

use super::{Call, Custodian, Denial, Place, to_the_end};
use crate::{
    authority::{Need, Standing},
    ledger::{Change, Changed, Grant, Intent, Outcome},
};

impl Custodian {
    /// Makes a change if the caller has what it needs. `prepare` runs once that is known, and makes the change ready:
    /// hashes a password, generates a key. What it makes besides is returned only after the record is durable (law 1).
    pub async fn change<T: Send + 'static>(
        self: &Arc<Self>,
        call: Call,
        need: Need<'static>,
        intent: Intent,
        prepare: impl Future<Output = Result<(Change, T), Denial>> + Send + 'static,
    ) -> Result<(Changed, T), Denial> {
        self.change_and(call, need, intent, prepare, |_, made| made).await
    }

    /// As [`Custodian::change`]. Once the change is recorded, `put_in_force` does what follows from it outside the ledger:
    /// even if the caller has hung up by then.
    pub async fn change_and<T: Send + 'static, U: Send + 'static>(
        self: &Arc<Self>,
        call: Call,
        need: Need<'static>,
        intent: Intent,
        prepare: impl Future<Output = Result<(Change, T), Denial>> + Send + 'static,
        put_in_force: impl FnOnce(&Changed, T) -> U + Send + 'static,
    ) -> Result<(Changed, U), Denial> {
        let custodian = Arc::clone(self);
        to_the_end(call.place.clone(), async move {
            let attempt = custodian.ledger.begin(intent);
            let prepared = match custodian.authority.permit(&call.caller, need, attempt.intent()).await {
                Ok(permit) => prepare.await.map(|prepared| (permit.redeem(), prepared)),
                Err(denial) => Err(denial),
            };
            let (outcome, made) = split(prepared);
            let (_, changed) = custodian.ledger.settle(attempt, outcome).await?;
            let in_force = put_in_force(&changed, made?);
            Ok((changed, in_force))
        })
        .await
    }

    /// Lets a newcomer enrol: no device and no session stand behind it, only the invitation, which the settling
    /// transaction uses up.
    pub async fn enroll<T: Send + 'static>(
        self: &Arc<Self>,
        place: Place,
        intent: Intent,
        prepare: impl Future<Output = Result<(Change, T), Denial>> + Send + 'static,
    ) -> Result<(Changed, T), Denial> {
        let custodian = Arc::clone(self);
        to_the_end(place, async move {
            let attempt = custodian.ledger.begin(intent);
            let (outcome, made) = split(prepare.await.map(|prepared| (Standing::default(), prepared)));
            let (_, changed) = custodian.ledger.settle(attempt, outcome).await?;
            Ok((changed, made?))
        })
        .await
    }
}

fn split<T>(prepared: Result<(Standing, (Change, T)), Denial>) -> (Outcome, Result<T, Denial>) {
    match prepared {
        Ok((standing, (change, made))) => {
            (Outcome::Granted(Grant { standing, change: Some(change) }), Ok(made))
        }
        Err(denial @ Denial::Refused { refusal: Refusal::FactorRefused, .. }) => {
            (Outcome::WrongCode(denial.clone()), Err(denial))
        }
        Err(denial) => (Outcome::Denied(denial.clone()), Err(denial)),
    }
}
