//! Sign: the same sequence for a digest.

use std::sync::Arc;

use custodian_proto::{sign::DigestToSign, v1::Claims};
use tracing::{Instrument as _, trace_span};

use super::{Call, Custodian, Denial, Withheld, release::Operation};
use crate::{authority::Need, ledger::Intent};

/// A checked request to sign one digest.
pub struct SignRequest {
    /// What to sign.
    pub digest: DigestToSign,
    /// What the caller says about the file.
    pub claims: Claims,
}

/// A signature that may leave.
pub struct Signed {
    /// The signature.
    pub signature: Vec<u8>,
    /// The number of the record that says so.
    pub sequence: u64,
}

impl Custodian {
    /// Signs one digest. What [`Custodian::unwrap`] promises of the file key holds for the signature (laws 1 and 2).
    pub async fn sign(self: &Arc<Self>, call: Call, request: SignRequest) -> Result<Signed, Denial> {
        let (signature, sequence) = self.release_one(call, request).await?;
        Ok(Signed { signature, sequence })
    }
}

impl Operation for SignRequest {
    type Made = Vec<u8>;

    fn intent(&self, call: &Call) -> Intent {
        Intent {
            key: Some(self.digest.key_id()),
            digest: self.digest.recorded(),
            claims: Some(self.claims.clone()),
            ..call.intent("Sign")
        }
    }

    async fn make(
        &self,
        custodian: &Custodian,
        call: &Call,
        intent: &Intent,
    ) -> Result<Withheld<Vec<u8>>, Denial> {
        let permit = custodian.authority.permit(&call.caller, Need::Sign(&self.digest), intent);
        let permit = permit.instrument(trace_span!("permit")).await?;
        custodian.admits_release()?;
        let signed = custodian.token.sign_digest(permit, &self.digest, custodian.token_deadline());
        Ok(signed.instrument(trace_span!("token")).await?)
    }
}
