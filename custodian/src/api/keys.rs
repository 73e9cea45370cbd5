//! `KeyService`.

use custodian_proto::{
    key::KeyId,
    limits::{DEFAULT_MODULUS_BITS, MODULUS_BITS},
    refusal::Refusal,
    v1::{self, key_service_server::KeyService},
};
use jiff::Timestamp;
use tonic::{Request, Response, Status};

use super::{
    Api,
    call::{Accepted, invalid},
    resource::{key_id, page, page_size, reason, rows_for},
};
use crate::{
    authority::{DeviceId, KeyState, Need, Role, WrappingKey},
    custody::{Denial, Fault},
    ledger::{Change, Changed, Intent},
    pki::{DeviceCa, Validity},
    token::{KeyKind, KeyTemplate, Token},
};

#[tonic::async_trait]
impl KeyService for Api {
    async fn list_keys(
        &self,
        request: Request<v1::ListKeysRequest>,
    ) -> Result<Response<v1::ListKeysResponse>, Status> {
        let accepted = self.accept_reader(&request, Need::Session, "ListKeys").await?;
        let request = request.into_inner();
        let after = match request.page_token.as_str() {
            "" => None,
            token => {
                Some(token.parse().map_err(|_| accepted.status(invalid("page_token: is none of ours")))?)
            }
        };
        let size = page_size(request.page_size);
        let keys = self.custodian.ledger().keys(after, rows_for(size)).await;
        let keys = keys.map_err(|error| accepted.status(error.into()))?;
        let (keys, next_page_token) = page(keys, size, |key| key.id.to_string());
        Ok(Response::new(v1::ListKeysResponse {
            keys: keys.into_iter().map(v1::Key::from).collect(),
            next_page_token,
        }))
    }

    async fn get_key(&self, request: Request<v1::GetKeyRequest>) -> Result<Response<v1::Key>, Status> {
        let accepted = self.accept_reader(&request, Need::Session, "GetKey").await?;
        let id = key_id(&request.into_inner().name).map_err(|denial| accepted.status(denial))?;
        let key = self.custodian.ledger().key(id).await.map_err(|error| accepted.status(error.into()))?;
        let key = key.ok_or_else(|| accepted.status(Refusal::KeyUnknown.into()))?;
        Ok(Response::new(key.into()))
    }

    async fn create_key(&self, request: Request<v1::CreateKeyRequest>) -> Result<Response<v1::Key>, Status> {
        let accepted = self.accept(&request).await?;
        let v1::CreateKeyRequest { label, modulus_bits } = request.into_inner();
        let parsed = checked_label(label).and_then(|label| Ok((label, checked_bits(modulus_bits)?)));
        let (label, bits) = self.parsed(&accepted, "CreateKey", parsed).await?;
        let intent = accepted.call.intent("CreateKey");
        let api = self.clone();
        let create = Box::pin(async move {
            let days = api.lifetimes.wrapping_key_days;
            // Asked before, so that a taken label leaves no key behind in the token. Of two calls with one label at the
            // same time, the later one's key still stays there unused.
            if api.custodian.ledger().key_by_label(&label).await?.is_some() {
                let detail = format!("a key has the label {label}");
                return Err(Denial::Refused { refusal: Refusal::AlreadyExists, detail });
            }
            let deadline = api.custodian.token_deadline() + GENERATION;
            let key = make_wrapping_key(api.custodian.token().as_ref(), &api.ca, label, bits, days, deadline);
            Ok(Change::AddKey(key.await?))
        });
        self.change_key(&accepted, intent, create).await
    }

    async fn suspend_key(
        &self,
        request: Request<v1::SuspendKeyRequest>,
    ) -> Result<Response<v1::Key>, Status> {
        let accepted = self.accept(&request).await?;
        let v1::SuspendKeyRequest { name, reason: why } = request.into_inner();
        let parsed = key_id(&name).and_then(|id| Ok((id, reason(why)?)));
        let (id, reason) = self.parsed(&accepted, "SuspendKey", parsed).await?;
        self.set_key_state(&accepted, "SuspendKey", id, KeyState::Suspended, reason).await
    }

    async fn activate_key(
        &self,
        request: Request<v1::ActivateKeyRequest>,
    ) -> Result<Response<v1::Key>, Status> {
        let accepted = self.accept(&request).await?;
        let id = self.parsed(&accepted, "ActivateKey", key_id(&request.into_inner().name)).await?;
        self.set_key_state(&accepted, "ActivateKey", id, KeyState::Active, String::new()).await
    }
}

/// RSA-4096 may take a token many seconds.
pub(crate) const GENERATION: std::time::Duration = std::time::Duration::from_secs(60);

/// Generates a wrapping key in the token and certifies it.
pub(crate) async fn make_wrapping_key(
    token: &dyn Token,
    ca: &DeviceCa,
    label: String,
    modulus_bits: u32,
    days: u32,
    deadline: std::time::Instant,
) -> Result<WrappingKey, Denial> {
    let template = KeyTemplate { label: label.clone(), kind: KeyKind::RsaUnwrap { modulus_bits } };
    let key = token.generate(template, deadline).await?;
    let wrapping = key.wrapping.ok_or_else(|| Fault::Internal("the new key has no wrapping".into()))?;
    let certificate = ca.certify_wrapping_key(&key, &label, Validity::days(days)?).await?;
    let state = KeyState::Active;
    Ok(WrappingKey {
        id: key.id,
        label,
        state,
        modulus_bits,
        wrapping,
        certificate,
        created: Timestamp::now(),
    })
}

impl Api {
    async fn set_key_state(
        &self,
        accepted: &Accepted,
        operation: &'static str,
        id: KeyId,
        state: KeyState,
        reason: String,
    ) -> Result<Response<v1::Key>, Status> {
        let intent = Intent { key: Some(id), reason, ..accepted.call.intent(operation) };
        self.change_key(accepted, intent, async move { Ok(Change::SetKeyState { id, state }) }).await
    }

    async fn change_key(
        &self,
        accepted: &Accepted,
        intent: Intent,
        prepare: impl Future<Output = Result<Change, Denial>> + Send + 'static,
    ) -> Result<Response<v1::Key>, Status> {
        let prepare = async move { Ok((prepare.await?, ())) };
        match self.custodian.change(accepted.call.clone(), Need::Role(Role::Admin), intent, prepare).await {
            Ok((Changed::Key(key), ())) => Ok(Response::new(key.into())),
            Ok(_) => Err(accepted.status(Fault::Internal("a key's change left no key".into()).into())),
            Err(denial) => Err(accepted.status(denial)),
        }
    }
}

fn checked_label(label: String) -> Result<String, Denial> {
    // Labels keep the rules of device ids.
    label.parse::<DeviceId>().map_err(|error| invalid(format!("label: {error}")))?;
    Ok(label)
}

fn checked_bits(bits: u32) -> Result<u32, Denial> {
    match bits {
        0 => Ok(DEFAULT_MODULUS_BITS),
        bits if MODULUS_BITS.contains(&bits) => Ok(bits),
        _ => Err(invalid("modulus_bits: must be 2048, 3072 or 4096")),
    }
}
