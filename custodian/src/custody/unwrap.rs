//! Unwrap: the sequence the custodian exists for.

use std::sync::Arc;

use custodian_proto::{
    key::{FileKey, WrappedKey},
    refusal::Refusal,
    v1::Claims,
};

use super::{Call, Custodian, Denial, Withheld, to_the_end};
use crate::{
    authority::Need,
    ledger::{Intent, Outcome},
};

/// A checked request to unwrap one file key.
pub struct UnwrapRequest {
    /// What to unwrap.
    pub wrapped: WrappedKey,
    /// What the caller says about the file.
    pub claims: Claims,
}

/// A file key that may leave.
pub struct Unwrapped {
    /// The key.
    pub file_key: FileKey,
    /// The number of the record that says so.
    pub sequence: u64,
}

impl Custodian {
    /// Unwraps one file key. It is returned only after the record of it is durable, in the second place as well if there is one
    /// (law 1), and only if device, user, session and key were still active in the transaction that recorded it (law 2).
    pub async fn unwrap(self: &Arc<Self>, call: Call, request: UnwrapRequest) -> Result<Unwrapped, Denial> {
        let custodian = Arc::clone(self);
        to_the_end(call.place.clone(), async move {
            let attempt = custodian.ledger.begin(intent(&call, &request));
            let key = custodian.permitted_unwrap(&call, &request, attempt.intent()).await;
            let outcome = custodian.outcome(&key);
            let again = || intent(&call, &request);
            let confirmed = custodian.settle_release(attempt, outcome, again).await?;
            let sequence = confirmed.sequence();
            Ok(Unwrapped { file_key: key?.release(confirmed), sequence })
        })
        .await
    }

    fn outcome(&self, key: &Result<Withheld<FileKey>, Denial>) -> Outcome {
        match key {
            Err(denial @ Denial::Refused { refusal: Refusal::WrappedKeyRejected, .. }) => {
                Outcome::Rejected { denial: denial.clone(), budgets: self.authority.rules().budgets }
            }
            key => Outcome::of(key),
        }
    }

    async fn permitted_unwrap(
        &self,
        call: &Call,
        request: &UnwrapRequest,
        intent: &Intent,
    ) -> Result<Withheld<FileKey>, Denial> {
        let need = Need::Unwrap(&request.wrapped);
        let permit = self.authority.permit(&call.caller, need, intent).await?;
        self.admits_release()?;
        Ok(self.token.unwrap(permit, &request.wrapped, self.token_deadline()).await?)
    }
}

fn intent(call: &Call, request: &UnwrapRequest) -> Intent {
    Intent {
        key: Some(request.wrapped.key_id()),
        wrapped_sha256: Some(request.wrapped.sha256()),
        claims: Some(request.claims.clone()),
        ..call.intent("Unwrap")
    }
}
