//! `KeyService`.

use custodian_proto::{
    limits::{MAX_NONCE_LEN, MODULUS_BITS},
    refusal::Refusal,
    v1::{self, key_service_server::KeyService},
};
use jiff::Timestamp;
use tonic::{Request, Response, Status};

use super::{
    Api, attestation,
    call::{Accepted, invalid},
    import::Source,
    new_key::{KeyUse, NewKey},
    resource::{
        from_timestamp, key_id, page, page_size, page_start, reason, required_reason, rows_for, token_name,
        unwrapped,
    },
};
use crate::{
    authority::{Beginning, DeviceId, KeyPurpose, KeyStep, Need, Role, SigningScheme, WrappingKey},
    custody::{Attestation, Denial, Fault},
    ledger::{Change, Changed, Intent, OK, RecordQuery},
    pki::openpgp,
    token::KeyDescription,
};

#[tonic::async_trait]
impl KeyService for Api {
    async fn list_keys(
        &self,
        request: Request<v1::ListKeysRequest>,
    ) -> Result<Response<v1::ListKeysResponse>, Status> {
        let accepted = self.accept_reader(&request, Need::Session, "ListKeys").await?;
        let request = request.into_inner();
        let after = page_start(&request.page_token).map_err(|denial| accepted.status(denial))?;
        let size = page_size(request.page_size);
        let keys = self.custodian.ledger().keys(after, rows_for(size)).await;
        let keys = keys.map_err(|error| accepted.status(error.into()))?;
        let (keys, next_page_token) = page(keys, size, |key| key.id.to_string());
        Ok(Response::new(v1::ListKeysResponse {
            keys: keys.into_iter().map(|key| self.shown(key)).collect(),
            next_page_token,
        }))
    }

    async fn get_key(&self, request: Request<v1::GetKeyRequest>) -> Result<Response<v1::Key>, Status> {
        let accepted = self.accept_reader(&request, Need::Session, "GetKey").await?;
        let id = key_id(&request.into_inner().name).map_err(|denial| accepted.status(denial))?;
        let key = self.custodian.ledger().key(id).await.map_err(|error| accepted.status(error.into()))?;
        let key = key.ok_or_else(|| accepted.status(Refusal::KeyUnknown.into()))?;
        let chain = match key.purpose {
            KeyPurpose::Unwrap(_) => Vec::new(),
            // Its own CA certifies what a custodian makes, and signing keys are not taken up.
            KeyPurpose::Sign(_) | KeyPurpose::Timestamp => vec![self.ca.certificate().to_vec()],
        };
        Ok(Response::new(v1::Key { chain, ..self.shown(key) }))
    }

    async fn create_key(&self, request: Request<v1::CreateKeyRequest>) -> Result<Response<v1::Key>, Status> {
        let accepted = self.accept(&request).await?;
        let parsed = creation(request.into_inner());
        let new = self.parsed(&accepted, "CreateKey", parsed).await?;
        let api = self.clone();
        let create = Box::pin(async move {
            // Asked before, so that a taken label costs no key pair.
            if api.custodian.ledger().key_by_label(&new.label).await?.is_some() {
                let detail = format!("a key has the label {}", new.label);
                return Err(Denial::Refused { refusal: Refusal::AlreadyExists, detail });
            }
            api.make(new).await
        });
        self.make_key(&accepted, "CreateKey", create).await
    }

    async fn rotate_key(&self, request: Request<v1::RotateKeyRequest>) -> Result<Response<v1::Key>, Status> {
        let accepted = self.accept(&request).await?;
        let parsed = rotation(request.into_inner());
        let (bits, new) = self.parsed(&accepted, "RotateKey", parsed).await?;
        let api = self.clone();
        let rotate = Box::pin(async move {
            let newest = api.custodian.ledger().key_by_label(&new.label).await?;
            let newest = newest.ok_or(Refusal::NotFound)?;
            let modulus_bits = bits.unwrap_or(newest.modulus_bits);
            let usage = KeyUse::of(newest.purpose);
            let new = NewKey { version: newest.version.saturating_add(1), modulus_bits, usage, ..new };
            api.make(new.checked()?).await
        });
        self.make_key(&accepted, "RotateKey", rotate).await
    }

    async fn import_key(&self, request: Request<v1::ImportKeyRequest>) -> Result<Response<v1::Key>, Status> {
        let accepted = self.accept(&request).await?;
        let parsed = import(request.into_inner());
        let (source, new) = self.parsed(&accepted, "ImportKey", parsed).await?;
        let api = self.clone();
        let prepare = Box::pin(async move { Ok(Change::AddKey(api.take_up(source, new).await?)) });
        self.change_key(&accepted, accepted.call.intent("ImportKey"), prepare).await
    }

    async fn list_unused_keys(
        &self,
        request: Request<v1::ListUnusedKeysRequest>,
    ) -> Result<Response<v1::ListUnusedKeysResponse>, Status> {
        let accepted = self.accept_reader(&request, Need::Role(Role::Admin), "ListUnusedKeys").await?;
        self.unused_keys().await.map(Response::new).map_err(|denial| accepted.status(denial))
    }

    async fn attest_key(
        &self,
        request: Request<v1::AttestKeyRequest>,
    ) -> Result<Response<v1::AttestKeyResponse>, Status> {
        let accepted = self.accept(&request).await?;
        let v1::AttestKeyRequest { name, nonce } = request.into_inner();
        let parsed = key_id(&name).and_then(|id| match nonce.len() {
            0..=MAX_NONCE_LEN => Ok((id, nonce)),
            _ => Err(invalid("nonce: may have 64 bytes")),
        });
        let (id, nonce) = self.parsed(&accepted, "AttestKey", parsed).await?;
        let signer = self.ca.key();
        let state = move |key: &WrappingKey, described: &[KeyDescription]| {
            attestation::statement(key, described, &nonce, signer, Timestamp::now())
        };
        let attested = self.custodian.attest(accepted.call.clone(), id, signer, state).await;
        let Attestation { statement, signature } = attested.map_err(|denial| accepted.status(denial))?;
        let signer_certificate = self.ca.certificate().to_vec();
        Ok(Response::new(v1::AttestKeyResponse { statement, signature, signer_certificate }))
    }

    async fn export_open_pgp_key(
        &self,
        request: Request<v1::ExportOpenPgpKeyRequest>,
    ) -> Result<Response<v1::ExportOpenPgpKeyResponse>, Status> {
        let accepted = self.accept(&request).await?;
        let parsed = key_id(&request.into_inner().name);
        let id = self.parsed(&accepted, "ExportOpenPgpKey", parsed).await?;
        let ca = self.ca.clone();
        let draft = move |key: &WrappingKey| {
            let draft = openpgp::Draft::new(key, &ca, Timestamp::now())?;
            Ok((draft.to_be_signed(), draft))
        };
        let signed = self.custodian.sign_about(accepted.call.clone(), "ExportOpenPgpKey", id, draft).await;
        let (signatures, draft) = signed.map_err(|denial| accepted.status(denial))?;
        let certificate = draft.finish(&signatures).map_err(|denial| accepted.status(denial))?;
        Ok(Response::new(v1::ExportOpenPgpKeyResponse { certificate }))
    }

    async fn activate_key(
        &self,
        request: Request<v1::ActivateKeyRequest>,
    ) -> Result<Response<v1::Key>, Status> {
        let accepted = self.accept(&request).await?;
        let v1::ActivateKeyRequest { name } = request.into_inner();
        self.step(&accepted, "ActivateKey", KeyStep::Activate, &name, Ok(String::new())).await
    }

    async fn suspend_key(
        &self,
        request: Request<v1::SuspendKeyRequest>,
    ) -> Result<Response<v1::Key>, Status> {
        let accepted = self.accept_stop(&request).await?;
        let v1::SuspendKeyRequest { name, reason: why } = request.into_inner();
        self.step(&accepted, "SuspendKey", KeyStep::Suspend, &name, reason(why)).await
    }

    async fn deactivate_key(
        &self,
        request: Request<v1::DeactivateKeyRequest>,
    ) -> Result<Response<v1::Key>, Status> {
        let accepted = self.accept_stop(&request).await?;
        let v1::DeactivateKeyRequest { name, reason: why } = request.into_inner();
        self.step(&accepted, "DeactivateKey", KeyStep::Deactivate, &name, reason(why)).await
    }

    async fn compromise_key(
        &self,
        request: Request<v1::CompromiseKeyRequest>,
    ) -> Result<Response<v1::Key>, Status> {
        let accepted = self.accept_stop(&request).await?;
        let v1::CompromiseKeyRequest { name, reason: why } = request.into_inner();
        self.step(&accepted, "CompromiseKey", KeyStep::Compromise, &name, required_reason(why)).await
    }

    async fn limit_key(&self, request: Request<v1::LimitKeyRequest>) -> Result<Response<v1::Key>, Status> {
        let accepted = self.accept(&request).await?;
        let v1::LimitKeyRequest { name, unwrap_end_time, reason: why } = request.into_inner();
        let parsed = key_id(&name).and_then(|id| {
            let until = unwrap_end_time.map(|time| from_timestamp(time, "unwrap_end_time")).transpose()?;
            Ok((id, until, reason(why)?))
        });
        let (id, unwraps_until, reason) = self.parsed(&accepted, "LimitKey", parsed).await?;
        let intent = Intent { key: Some(id), reason: reason.clone(), ..accepted.call.intent("LimitKey") };
        let change = Change::LimitKey { id, unwraps_until, reason };
        self.change_key(&accepted, intent, async move { Ok(change) }).await
    }

    async fn destroy_key(
        &self,
        request: Request<v1::DestroyKeyRequest>,
    ) -> Result<Response<v1::Key>, Status> {
        let accepted = self.accept(&request).await?;
        let v1::DestroyKeyRequest { name, confirm_label, reason: why } = request.into_inner();
        let parsed = key_id(&name).and_then(|id| Ok((id, reason(why)?)));
        let (id, reason) = self.parsed(&accepted, "DestroyKey", parsed).await?;
        let destroyed = self.custodian.destroy_key(accepted.call.clone(), id, confirm_label, reason).await;
        destroyed.map(|key| Response::new(self.shown(key))).map_err(|denial| accepted.status(denial))
    }

    async fn list_unwrapped(
        &self,
        request: Request<v1::ListUnwrappedRequest>,
    ) -> Result<Response<v1::ListUnwrappedResponse>, Status> {
        let need = Need::Either(Role::Admin, Role::Auditor);
        let accepted = self.accept_reader(&request, need, "ListUnwrapped").await?;
        let v1::ListUnwrappedRequest { name, page_size: size, page_token } = request.into_inner();
        let id = key_id(&name).map_err(|denial| accepted.status(denial))?;
        let beyond = page_start(&page_token).map_err(|denial| accepted.status(denial))?;
        let size = page_size(size);
        let query = RecordQuery {
            key: Some(id.resource_name()),
            operation: Some("Unwrap".to_owned()),
            outcome: Some(OK.to_owned()),
            beyond,
            limit: rows_for(size),
            ..RecordQuery::default()
        };
        let records = self.custodian.ledger().records(query).await;
        let records = records.map_err(|error| accepted.status(error.into()))?;
        let (records, next_page_token) = page(records, size, |record| record.sequence.to_string());
        Ok(Response::new(v1::ListUnwrappedResponse {
            unwrapped: records.into_iter().map(unwrapped).collect(),
            next_page_token,
        }))
    }
}

impl Api {
    /// A key with its names in the tokens.
    fn shown(&self, key: WrappingKey) -> v1::Key {
        let of_certificate = openpgp::certificate_fingerprint(&key, &self.ca);
        let openpgp_certificate_fingerprint = of_certificate.map(Vec::from).unwrap_or_default();
        v1::Key { uris: self.custodian.token().uris(key.id), openpgp_certificate_fingerprint, ..key.into() }
    }

    async fn make_key(
        &self,
        accepted: &Accepted,
        operation: &'static str,
        make: impl Future<Output = Result<WrappingKey, Denial>> + Send + 'static,
    ) -> Result<Response<v1::Key>, Status> {
        let made =
            self.custodian.make_key(accepted.call.clone(), accepted.call.intent(operation), make).await;
        made.map(|key| Response::new(self.shown(key))).map_err(|denial| accepted.status(denial))
    }

    async fn step(
        &self,
        accepted: &Accepted,
        operation: &'static str,
        step: KeyStep,
        name: &str,
        reason: Result<String, Denial>,
    ) -> Result<Response<v1::Key>, Status> {
        let parsed = key_id(name).and_then(|id| Ok((id, reason?)));
        let (id, reason) = self.parsed(accepted, operation, parsed).await?;
        let intent = Intent { key: Some(id), reason: reason.clone(), ..accepted.call.intent(operation) };
        let change = Change::StepKey { id, step, reason };
        self.change_key(accepted, intent, async move { Ok(change) }).await
    }

    async fn change_key(
        &self,
        accepted: &Accepted,
        intent: Intent,
        change: impl Future<Output = Result<Change, Denial>> + Send + 'static,
    ) -> Result<Response<v1::Key>, Status> {
        let prepare = async move { Ok((change.await?, ())) };
        match self.custodian.change(accepted.call.clone(), Need::Role(Role::Admin), intent, prepare).await {
            Ok((Changed::Key(key), ())) => Ok(Response::new(self.shown(key))),
            Ok(_) => Err(accepted.status(Fault::Internal("a key's change left no key".into()).into())),
            Err(denial) => Err(accepted.status(denial)),
        }
    }
}

fn creation(request: v1::CreateKeyRequest) -> Result<NewKey, Denial> {
    let usage = match request.r#use() {
        v1::KeyUse::Unspecified | v1::KeyUse::Oaep => KeyUse::Oaep,
        v1::KeyUse::Openpgp => KeyUse::OpenPgp,
        v1::KeyUse::Pkcs1 => KeyUse::Pkcs1,
        v1::KeyUse::Sign => KeyUse::Sign(SigningScheme::RsaPss),
        v1::KeyUse::SignEcdsa => KeyUse::Sign(SigningScheme::EcdsaP256),
        v1::KeyUse::Timestamp => KeyUse::Timestamp,
    };
    let v1::CreateKeyRequest {
        label,
        modulus_bits,
        pre_active,
        wrap_start_time,
        wrap_end_time,
        unwrap_end_time,
        r#use: _,
        token,
    } = request;
    let bits = checked_bits(modulus_bits)?;
    let token = if token.is_empty() { None } else { Some(token_name(&token)?) };
    let new = NewKey {
        label: checked_label(label)?,
        version: 1,
        modulus_bits: bits.unwrap_or(usage.default_bits()),
        usage,
        token,
        beginning: if pre_active { Beginning::ByHand } else { Beginning::OnItsDate },
        wraps_from: time(wrap_start_time, "wrap_start_time")?,
        wraps_until: time(wrap_end_time, "wrap_end_time")?,
        unwraps_until: time(unwrap_end_time, "unwrap_end_time")?,
    };
    new.checked()
}

/// The next version, as far as the request says, and the size it asks for.
fn rotation(request: v1::RotateKeyRequest) -> Result<(Option<u32>, NewKey), Denial> {
    let v1::RotateKeyRequest { label, modulus_bits, wrap_end_time, unwrap_end_time } = request;
    let bits = checked_bits(modulus_bits)?;
    let new = NewKey {
        wraps_until: time(wrap_end_time, "wrap_end_time")?,
        unwraps_until: time(unwrap_end_time, "unwrap_end_time")?,
        ..NewKey::first(checked_label(label)?)
    };
    Ok((bits, new))
}

fn import(request: v1::ImportKeyRequest) -> Result<(Source, NewKey), Denial> {
    let v1::ImportKeyRequest { label, certificate, name, pre_active, unwrap_end_time } = request;
    let source = match (certificate.is_empty(), name.is_empty()) {
        (false, true) => Source::Certificate(certificate),
        (true, false) => Source::Key(key_id(&name)?),
        _ => return Err(invalid("certificate, name: give one of them")),
    };
    let new = NewKey {
        beginning: if pre_active { Beginning::ByHand } else { Beginning::OnItsDate },
        unwraps_until: time(unwrap_end_time, "unwrap_end_time")?,
        ..NewKey::first(checked_label(label)?)
    };
    Ok((source, new))
}

fn time(time: Option<prost_types::Timestamp>, field: &str) -> Result<Option<Timestamp>, Denial> {
    time.map(|time| from_timestamp(time, field)).transpose()
}

fn checked_label(label: String) -> Result<String, Denial> {
    // Labels keep the rules of device ids.
    label.parse::<DeviceId>().map_err(|error| invalid(format!("label: {error}")))?;
    Ok(label)
}

/// `None`: not said.
fn checked_bits(bits: u32) -> Result<Option<u32>, Denial> {
    match bits {
        0 => Ok(None),
        bits if MODULUS_BITS.contains(&bits) => Ok(Some(bits)),
        _ => Err(invalid("modulus_bits: must be 2048, 3072 or 4096")),
    }
}
