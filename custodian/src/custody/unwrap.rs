//! Unwrap: the sequence the custodian exists for.

use std::sync::Arc;

use custodian_proto::{
    key::{FileKey, WrappedKey},
    refusal::Refusal,
    v1::Claims,
};
use tracing::{Instrument as _, trace_span};

use super::{Call, Custodian, Denial, Withheld, release::Operation};
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
        let (file_key, sequence) = self.release_one(call, request).await?;
        Ok(Unwrapped { file_key, sequence })
    }
}

impl Operation for UnwrapRequest {
    type Made = FileKey;

    fn intent(&self, call: &Call) -> Intent {
        Intent {
            key: Some(self.wrapped.key_id()),
            wrapped_sha256: Some(self.wrapped.sha256()),
            claims: Some(self.claims.clone()),
            ..call.intent("Unwrap")
        }
    }

    async fn make(
        &self,
        custodian: &Custodian,
        call: &Call,
        intent: &Intent,
    ) -> Result<Withheld<FileKey>, Denial> {
        let permit = custodian.authority.permit(&call.caller, Need::Unwrap(&self.wrapped), intent);
        let permit = permit.instrument(trace_span!("permit")).await?;
        custodian.admits_release()?;
        let unwrapped = custodian.token.unwrap(permit, &self.wrapped, custodian.token_deadline());
        Ok(unwrapped.instrument(trace_span!("token")).await?)
    }

    fn outcome(custodian: &Custodian, made: &Result<Withheld<FileKey>, Denial>) -> Outcome {
        match made {
            Err(denial @ Denial::Refused { refusal: Refusal::WrappedKeyRejected, .. }) => {
                Outcome::Rejected { denial: denial.clone(), budgets: custodian.authority.rules().budgets }
            }
            made => Outcome::of(made),
        }
    }
}
