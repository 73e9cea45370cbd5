//! Read: lists and look-ups. Only a refusal is recorded.

use jiff::{SignedDuration, Timestamp};

use super::{Call, Custodian, Denial};
use crate::{
    authority::Need,
    ledger::{Grant, Outcome},
};

/// A use that is this fresh need not be noted again.
const FRESH: SignedDuration = SignedDuration::from_mins(1);

impl Custodian {
    /// Says whether the caller may read what needs this. A refusal is recorded before it is returned.
    ///
    /// What is allowed counts as a use of the session: whoever only reads stays signed in, too. What takes an approval is
    /// recorded, since that uses it up.
    pub async fn admit(&self, call: &Call, need: Need<'_>, operation: &'static str) -> Result<(), Denial> {
        let standing = match self.authority.permit(&call.caller, need, &call.intent(operation)).await {
            Ok(permit) => permit.redeem(),
            Err(denial) => return self.refuse(call, operation, denial).await,
        };
        if standing.approval.is_some() {
            let attempt = self.ledger.begin(call.intent(operation));
            let grant = Grant { standing, change: None };
            return self.ledger.settle(attempt, Outcome::Granted(grant)).await.map(drop);
        }
        if standing.session.is_some() {
            self.touch(call);
        }
        Ok(())
    }

    /// Notes the use of the session, rarely enough to cost the ledger nothing and often enough to keep it alive.
    fn touch(&self, call: &Call) {
        let Some(session) = &call.caller.session else { return };
        let fresh = FRESH.min(self.authority.rules().session_idle / 10);
        if Timestamp::now().duration_since(session.used) >= fresh {
            self.ledger.touch(session.id);
        }
    }

    /// Records that a call came to nothing, and says so.
    pub async fn refuse<T>(&self, call: &Call, operation: &'static str, denial: Denial) -> Result<T, Denial> {
        let attempt = self.ledger.begin(call.intent(operation));
        match self.ledger.settle(attempt, Outcome::Denied(denial.clone())).await {
            Err(settled) => Err(settled),
            // A denied outcome cannot settle as allowed; if it did, it is denied all the same.
            Ok(_) => Err(denial),
        }
    }
}
