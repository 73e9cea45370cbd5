//! Keys: made in the token and in the ledger, and destroyed in both. What happens in the token cannot be rolled back, so
//! the order matters.

use std::{sync::Arc, time::Instant};

use custodian_proto::{key::KeyId, refusal::Refusal};

use super::{Call, Custodian, Denial, Fault, Withheld, to_the_end};
use crate::{
    authority::{KeyState, KeyStep, Need, Permit, Role, Standing, WrappingKey},
    ledger::{Change, Changed, Grant, Intent, Outcome},
    token::{KeyDescription, Token, TokenError},
};

/// The operation of the record that says whether the token destroyed a key's objects.
const ERASE: &str = "EraseKey";

/// What a key in the token signed about another.
pub struct Attestation {
    /// Exactly what is signed.
    pub statement: Vec<u8>,
    /// ECDSA P-256 over SHA-256, DER.
    pub signature: Vec<u8>,
}

impl Custodian {
    /// Makes a key pair if the caller is an administrator, and adds it to the ledger. `make` makes it ready, and runs once
    /// the caller is known. If the ledger refuses it then (its label was taken meanwhile), the pair is destroyed again.
    pub async fn make_key(
        self: &Arc<Self>,
        call: Call,
        intent: Intent,
        make: impl Future<Output = Result<WrappingKey, Denial>> + Send + 'static,
    ) -> Result<WrappingKey, Denial> {
        let custodian = Arc::clone(self);
        to_the_end(call.place.clone(), async move {
            let attempt = custodian.ledger.begin(intent);
            let made = match custodian.authority.permit(&call.caller, Need::Role(Role::Admin), attempt.intent()).await {
                Ok(permit) => make.await.map(|key| (permit.redeem(), key)),
                Err(denial) => Err(denial),
            };
            let (outcome, id) = match made {
                Ok((standing, key)) => {
                    let id = key.id;
                    (Outcome::Granted(Grant { standing, change: Some(Change::AddKey(key)) }), Some(id))
                }
                Err(denial) => (Outcome::Denied(denial), None),
            };
            let settled = custodian.ledger.settle(attempt, outcome).await.and_then(|(_, changed)| key(changed));
            match (&settled, id) {
                (Err(Denial::Refused { .. } | Denial::Paused(_)), Some(id)) => {
                    discard(custodian.token.as_ref(), id, custodian.token_deadline()).await;
                }
                // Whether the ledger has the key is not known: it may not be destroyed.
                (Err(Denial::Failed(_)), Some(id)) => {
                    tracing::warn!(key = %id, "the token has a new key that the ledger may not know: see custodian check");
                }
                _ => {}
            }
            settled
        })
        .await
    }

    /// Destroys a key if the caller is an administrator: first in the ledger, so that nothing uses it any more, then its
    /// objects in the token, with a record of its own. On a key that is destroyed already, only the latter.
    pub async fn destroy_key(
        self: &Arc<Self>,
        call: Call,
        id: KeyId,
        confirm_label: String,
        reason: String,
    ) -> Result<WrappingKey, Denial> {
        let custodian = Arc::clone(self);
        to_the_end(call.place.clone(), async move {
            let intent = Intent { key: Some(id), reason: reason.clone(), ..call.intent("DestroyKey") };
            let attempt = custodian.ledger.begin(intent);
            let prepared = match custodian
                .authority
                .permit(&call.caller, Need::Role(Role::Admin), attempt.intent())
                .await
            {
                Ok(permit) => custodian.confirmed(id, &confirm_label).await.map(|()| permit.redeem()),
                Err(denial) => Err(denial),
            };
            let outcome = match prepared {
                Ok(standing) => {
                    let change = Some(Change::StepKey { id, step: KeyStep::Destroy, reason });
                    Outcome::Granted(Grant { standing, change })
                }
                Err(denial) => Outcome::Denied(denial),
            };
            let (_, changed) = custodian.ledger.settle(attempt, outcome).await?;
            let destroyed = key(changed)?;
            custodian.erase(&call, id).await?;
            Ok(destroyed)
        })
        .await
    }

    /// Signs what `statement` says of a key, for administrators and auditors. The signature leaves only after the record of
    /// it is durable (law 1).
    pub async fn attest(
        self: &Arc<Self>,
        call: Call,
        key: KeyId,
        signer: KeyId,
        statement: impl FnOnce(&WrappingKey, &[KeyDescription]) -> Result<Vec<u8>, Denial> + Send + 'static,
    ) -> Result<Attestation, Denial> {
        self.sign_for_readers(call, "AttestKey", key, move |custodian, key| async move {
            custodian.signed_statement(&key, signer, statement).await
        })
        .await
    }

    /// Signs what `draft` says of a key, for administrators and auditors: several texts, each with the key that is to sign it, and
    /// whatever belongs to them. The signatures leave only after the record of it is durable (law 1).
    pub async fn sign_about<Draft: Send + 'static>(
        self: &Arc<Self>,
        call: Call,
        operation: &'static str,
        key: KeyId,
        draft: impl FnOnce(&WrappingKey) -> Result<(Vec<(KeyId, Vec<u8>)>, Draft), Denial> + Send + 'static,
    ) -> Result<(Vec<Vec<u8>>, Draft), Denial> {
        self.sign_for_readers(call, operation, key, move |custodian, key| async move {
            custodian.signed_draft(&key, draft).await
        })
        .await
    }

    /// Makes what the token signs about a key, if the caller is an administrator or auditor, and releases it once the record
    /// is durable.
    async fn sign_for_readers<T, Signing>(
        self: &Arc<Self>,
        call: Call,
        operation: &'static str,
        key: KeyId,
        sign: impl FnOnce(Arc<Self>, WrappingKey) -> Signing + Send + 'static,
    ) -> Result<T, Denial>
    where
        T: Send + 'static,
        Signing: Future<Output = Result<T, Denial>> + Send,
    {
        let custodian = Arc::clone(self);
        to_the_end(call.place.clone(), async move {
            let intent = || Intent { key: Some(key), ..call.intent(operation) };
            let attempt = custodian.ledger.begin(intent());
            let need = Need::Either(Role::Admin, Role::Auditor);
            let signed = match custodian.authority.permit(&call.caller, need, attempt.intent()).await {
                Ok(permit) => match custodian.admits_release() {
                    Ok(()) => custodian.signed_of(key, permit, |key| sign(Arc::clone(&custodian), key)).await,
                    Err(fault) => Err(fault.into()),
                },
                Err(denial) => Err(denial),
            };
            let confirmed = custodian.settle_release(attempt, Outcome::of(&signed), intent).await?;
            Ok(signed?.release(confirmed))
        })
        .await
    }

    /// What is signed of a key as it is now. It is kept back unless the key is still so when that is recorded (law 2): what speaks
    /// for a key must not come after what stopped it.
    async fn signed_of<T, Signing: Future<Output = Result<T, Denial>> + Send>(
        &self,
        id: KeyId,
        permit: Permit,
        sign: impl FnOnce(WrappingKey) -> Signing + Send,
    ) -> Result<Withheld<T>, Denial> {
        let key = self.ledger.key(id).await?.ok_or(Refusal::KeyUnknown)?;
        let standing = Standing { unchanged: Some((id, key.updated)), ..permit.redeem() };
        Ok(Withheld::new(sign(key).await?, standing))
    }

    async fn signed_draft<Draft>(
        &self,
        key: &WrappingKey,
        draft: impl FnOnce(&WrappingKey) -> Result<(Vec<(KeyId, Vec<u8>)>, Draft), Denial>,
    ) -> Result<(Vec<Vec<u8>>, Draft), Denial> {
        let (texts, draft) = draft(key)?;
        let mut signatures = Vec::new();
        for (signer, text) in texts {
            signatures.push(self.token.sign(signer, &text, self.token_deadline()).await?);
        }
        Ok((signatures, draft))
    }

    async fn signed_statement(
        &self,
        key: &WrappingKey,
        signer: KeyId,
        statement: impl FnOnce(&WrappingKey, &[KeyDescription]) -> Result<Vec<u8>, Denial>,
    ) -> Result<Attestation, Denial> {
        if key.life.set() == KeyState::Destroyed {
            return Err(Refusal::KeyDestroyed.into());
        }
        let described = self.token.describe(key.id, self.token_deadline()).await?;
        let statement = statement(key, &described)?;
        let signature = self.token.sign(signer, &statement, self.token_deadline()).await?;
        Ok(Attestation { statement, signature })
    }

    async fn confirmed(&self, id: KeyId, label: &str) -> Result<(), Denial> {
        let key = self.ledger.key(id).await?.ok_or(Refusal::NotFound)?;
        if key.label == label {
            return Ok(());
        }
        let detail = "confirm_label: is not the label of this key".to_owned();
        Err(Denial::Refused { refusal: Refusal::InvalidArgument, detail })
    }

    /// Destroys the objects of a key that the ledger says is destroyed, and records how that went.
    async fn erase(&self, call: &Call, id: KeyId) -> Result<(), Denial> {
        // Another attempt than the one that is settled, of the same caller.
        let request_id = uuid::Uuid::now_v7();
        let attempt = self.ledger.begin(Intent { request_id, key: Some(id), ..call.intent(ERASE) });
        let outcome = match self.token.destroy(id, self.token_deadline()).await {
            // Unknown: an earlier try was recorded as failed, and was not.
            Ok(()) | Err(TokenError::UnknownKey(_)) => {
                Outcome::Granted(Grant { standing: Standing::default(), change: None })
            }
            Err(error) => Outcome::Denied(error.into()),
        };
        self.ledger.settle(attempt, outcome).await.map(drop)
    }
}

/// Destroys a pair that no ledger knows. If that fails, it is told to the administrators, and the pair is of no use to anybody.
pub(crate) async fn discard(token: &dyn Token, id: KeyId, deadline: Instant) {
    if let Err(error) = token.destroy(id, deadline).await {
        tracing::warn!(key = %id, %error, "an unused key stays in the token: see custodian check");
    }
}

fn key(changed: Changed) -> Result<WrappingKey, Denial> {
    match changed {
        Changed::Key(key) => Ok(key),
        _ => Err(Fault::Internal("a key's change left no key".into()).into()),
    }
}
