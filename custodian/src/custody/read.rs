//! Read: lists and look-ups. Only a refusal is recorded.

use super::{Call, Custodian, Denial};
use crate::{authority::Need, ledger::Outcome};

impl Custodian {
    /// Says whether the caller may read what needs this. A refusal is recorded before it is returned.
    pub async fn admit(&self, call: &Call, need: Need<'_>, operation: &'static str) -> Result<(), Denial> {
        match self.authority.permit(&call.caller, need).await {
            Ok(_) => Ok(()),
            Err(denial) => self.refuse(call, operation, denial).await,
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
