//! Timestamp: the same sequence for a time-stamping authority's answer (RFC 3161).

use std::{sync::Arc, time::Duration};

use custodian_proto::{
    key::KeyId,
    refusal::Refusal,
    sign::{DigestToSign, Hash, SignatureAlgorithm},
    tsp::TimeStampReq,
};
use jiff::Timestamp;

use super::{Call, Custodian, Denial, Fault, Withheld, release::Operation};
use crate::{
    authority::Need,
    ledger::Intent,
    tsa::{Draft, TsaRules},
};

/// A checked request for a timestamp.
pub struct TimestampRequest {
    /// What is asked.
    pub request: TimeStampReq,
    /// The hash of its digest.
    pub hash: Hash,
    /// The authority's key.
    pub key: KeyId,
    /// What the authority goes by.
    pub rules: TsaRules,
    /// The certificate of the CA that certified the key.
    pub issuer: Vec<u8>,
}

/// A timestamp that may leave.
pub struct Stamped {
    /// TimeStampResp, DER.
    pub response: Vec<u8>,
    /// The number of the record that says so.
    pub sequence: u64,
}

impl Custodian {
    /// Issues one timestamp. What [`Custodian::unwrap`] promises of the file key holds for it (laws 1 and 2).
    pub async fn timestamp(
        self: &Arc<Self>,
        call: Call,
        request: TimestampRequest,
    ) -> Result<Stamped, Denial> {
        let (response, sequence) = self.release_one(call, request).await?;
        Ok(Stamped { response, sequence })
    }
}

impl Operation for TimestampRequest {
    type Made = Vec<u8>;

    fn intent(&self, call: &Call) -> Intent {
        let digest = hex::encode(self.request.message_imprint.digest());
        Intent {
            key: Some(self.key),
            digest: format!("{}:{digest}", self.hash.name()),
            ..call.intent("Timestamp")
        }
    }

    async fn make(
        &self,
        custodian: &Custodian,
        call: &Call,
        intent: &Intent,
    ) -> Result<Withheld<Vec<u8>>, Denial> {
        let permit = custodian.authority.permit(&call.caller, Need::Timestamp(self.key), intent).await?;
        custodian.admits_release()?;
        let key = custodian.ledger.key(self.key).await?.ok_or(Refusal::KeyUnknown)?;
        let now = Duration::try_from(Timestamp::now().duration_since(Timestamp::UNIX_EPOCH));
        let now = now.map_err(|_| Fault::Internal("the clock is before 1970".to_owned()))?;
        // The request's id never comes twice, and leads to the record.
        let serial = call.request_id.into_bytes();
        let chain = [key.certificate.as_slice(), &self.issuer];
        let draft = Draft::new(&self.request, &self.rules, serial, now, &chain).map_err(broken)?;
        let digest = draft.digest().map_err(broken)?;
        let digest = DigestToSign::new(self.key, SignatureAlgorithm::EcdsaP256, digest)
            .ok_or_else(|| Fault::Internal("a digest of the wrong length".to_owned()))?;
        let signature = custodian.token.sign_digest(permit, &digest, custodian.token_deadline()).await?;
        signature.try_map(|signature| draft.finish(signature)).map_err(broken)
    }
}

fn broken(error: der::Error) -> Denial {
    Fault::Internal(format!("the timestamp does not encode: {error}")).into()
}
