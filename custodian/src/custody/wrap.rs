//! Wrap: for callers without RSA code. It gives nothing out that the caller does not have, and needs no token; it is judged
//! and recorded like everything that is asked of a wrapping key.

use std::sync::Arc;

use custodian_proto::{
    key::{FileKey, KeyId, WrappedKey},
    v1::Claims,
};
use der::{Decode, Encode};
use x509_cert::Certificate;

use super::{Call, Custodian, Denial, Fault, Withheld, to_the_end};
use crate::{
    authority::{Need, WrappingKey},
    ledger::{Intent, Outcome},
    token,
};

/// A checked request to wrap one file key.
pub struct WrapRequest {
    /// To which wrapping key.
    pub key: KeyId,
    /// What to wrap.
    pub file_key: FileKey,
    /// What the caller says about the file.
    pub claims: Claims,
}

/// A wrapped key that may leave.
pub struct Wrapped {
    /// The key.
    pub wrapped: WrappedKey,
    /// The number of the record that says so.
    pub sequence: u64,
}

impl Custodian {
    /// Wraps one file key, in the one way that the wrapping key unwraps. It is returned only after the record of it is durable,
    /// in the second place as well if there is one (law 1), and only if device, user, session and key were still active in the
    /// transaction that recorded it (law 2).
    pub async fn wrap(self: &Arc<Self>, call: Call, request: WrapRequest) -> Result<Wrapped, Denial> {
        let custodian = Arc::clone(self);
        to_the_end(call.place.clone(), async move {
            // Before the attempt begins, because its record tells the wrapped key's hash. Anybody could do as much.
            let wrapped = match custodian.ledger.key(request.key).await? {
                Some(key) => wrap(&key, &request.file_key)?,
                None => None,
            };
            let intent = || Intent {
                key: Some(request.key),
                wrapped_sha256: wrapped.as_ref().map(WrappedKey::sha256),
                claims: Some(request.claims.clone()),
                ..call.intent("Wrap")
            };
            let attempt = custodian.ledger.begin(intent());
            let need = Need::Wrap(request.key);
            let permit = custodian.authority.permit(&call.caller, need, attempt.intent()).await;
            let withheld = permit.and_then(|permit| {
                custodian.admits_release()?;
                let wrapped =
                    wrapped.clone().ok_or(Fault::Internal("the key came while it was asked for".into()))?;
                Ok(Withheld::new(wrapped, permit.redeem()))
            });
            let outcome = Outcome::of(&withheld);
            let confirmed = custodian.settle_release(attempt, outcome, intent).await?;
            let sequence = confirmed.sequence();
            Ok(Wrapped { wrapped: withheld?.release(confirmed), sequence })
        })
        .await
    }
}

/// `None`: the key was made for something else.
fn wrap(key: &WrappingKey, file_key: &FileKey) -> Result<Option<WrappedKey>, Fault> {
    let Some(wrapping) = key.wrapping() else { return Ok(None) };
    let spki = Certificate::from_der(&key.certificate)
        .and_then(|certificate| certificate.tbs_certificate().subject_public_key_info().to_der());
    let spki = spki.map_err(|error| Fault::Internal(format!("the certificate of {}: {error}", key.id)))?;
    token::wrap(&spki, wrapping, file_key)
        .and_then(|ciphertext| WrappedKey::new(key.id, wrapping, ciphertext))
        .map(Some)
        .ok_or_else(|| Fault::Internal(format!("nothing can be wrapped to {}", key.id)))
}
