//! The services: parse, judge, answer.

use std::{collections::HashMap, pin::Pin};

use custodian_proto::{ERROR_DOMAIN, v1};
use der::{Decode, Encode};
use sha2::{Digest, Sha256};
use tokio_stream::{Stream, StreamExt, wrappers::BroadcastStream};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt};

use super::{CODE, PASSWORD, Peer, Shared, pki::Authority};

#[derive(Clone)]
pub(crate) struct Services {
    pub(crate) state: Shared,
    pub(crate) ca: Authority,
}

type Answer<T> = Result<Response<T>, Status>;

fn refusal(reason: &str, code: Code) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, ERROR_DOMAIN, HashMap::new());
    details.set_request_info("0192-test", "");
    Status::with_error_details(code, reason, details)
}

fn certificate<T>(request: &Request<T>) -> Vec<u8> {
    request.extensions().get::<Peer>().unwrap().0.clone()
}

impl Services {
    /// The session of the call, bound to its certificate.
    fn check<T>(&self, request: &Request<T>) -> Result<String, Status> {
        let state = self.state.lock();
        if let Some(reason) = state.refuse_all {
            return Err(refusal(reason, Code::PermissionDenied));
        }
        let header = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let token = header.and_then(|header| header.strip_prefix("Bearer ")).unwrap_or_default();
        let bound_to = state.sessions.get(token);
        if bound_to.is_none_or(|bound_to| *bound_to != Sha256::digest(certificate(request)).to_vec()) {
            return Err(refusal("NOT_LOGGED_IN", Code::Unauthenticated));
        }
        Ok(token.to_owned())
    }

    fn unwrap_one(&self, request: v1::UnwrapRequest) -> Result<v1::UnwrapResponse, Status> {
        let mut state = self.state.lock();
        let denied = state.denied.get(&request.wrapped_key).copied();
        state.unwraps.push(request);
        match denied {
            Some(reason) => Err(refusal(reason, Code::PermissionDenied)),
            None => {
                let file_key = state.file_key.clone();
                Ok(v1::UnwrapResponse {
                    file_key,
                    request_id: "0192-test".into(),
                    sequence: 1,
                    ..Default::default()
                })
            }
        }
    }
}

#[tonic::async_trait]
impl v1::session_service_server::SessionService for Services {
    async fn login(&self, request: Request<v1::LoginRequest>) -> Answer<v1::LoginResponse> {
        let bound_to = Sha256::digest(certificate(&request)).to_vec();
        let mut state = self.state.lock();
        state.logins += 1;
        let v1::LoginRequest { user, password } = request.into_inner();
        if user != "anna" || password != PASSWORD {
            return Err(refusal("LOGIN_FAILED", Code::Unauthenticated));
        }
        let session_token = format!("session-{}", state.logins);
        state.sessions.insert(session_token.clone(), bound_to);
        let expire_time = Some(prost_types::Timestamp { seconds: 4_000_000_000, nanos: 0 });
        Ok(Response::new(v1::LoginResponse {
            session_token,
            expire_time,
            idle_seconds: 900,
            ..v1::LoginResponse::default()
        }))
    }

    async fn step_up(&self, request: Request<v1::StepUpRequest>) -> Answer<v1::StepUpResponse> {
        self.check(&request)?;
        self.state.lock().codes += 1;
        Err(refusal("FACTOR_REFUSED", Code::PermissionDenied))
    }

    async fn logout(&self, request: Request<v1::LogoutRequest>) -> Answer<v1::LogoutResponse> {
        let token = self.check(&request)?;
        self.state.lock().sessions.remove(&token);
        Ok(Response::new(v1::LogoutResponse {}))
    }

    async fn who_am_i(&self, request: Request<v1::WhoAmIRequest>) -> Answer<v1::WhoAmIResponse> {
        self.check(&request)?;
        Ok(Response::new(v1::WhoAmIResponse {
            user: "users/anna".into(),
            roles: vec![v1::Role::Operator.into(), v1::Role::Auditor.into()],
            device: "devices/laptop-7".into(),
            ..v1::WhoAmIResponse::default()
        }))
    }
}

#[tonic::async_trait]
impl v1::key_service_server::KeyService for Services {
    async fn list_keys(&self, request: Request<v1::ListKeysRequest>) -> Answer<v1::ListKeysResponse> {
        self.check(&request)?;
        let keys = self.state.lock().keys.clone();
        Ok(Response::new(v1::ListKeysResponse { keys, next_page_token: String::new() }))
    }

    async fn get_key(&self, request: Request<v1::GetKeyRequest>) -> Answer<v1::Key> {
        self.check(&request)?;
        let name = request.into_inner().name;
        let found = self.state.lock().keys.iter().find(|key| key.name == name).cloned();
        found.map(Response::new).ok_or_else(|| refusal("KEY_UNKNOWN", Code::NotFound))
    }

    async fn create_key(&self, request: Request<v1::CreateKeyRequest>) -> Answer<v1::Key> {
        self.check(&request)?;
        Err(refusal("ROLE_MISSING", Code::PermissionDenied))
    }

    async fn import_key(&self, request: Request<v1::ImportKeyRequest>) -> Answer<v1::Key> {
        self.check(&request)?;
        Err(refusal("ROLE_MISSING", Code::PermissionDenied))
    }

    async fn list_unused_keys(
        &self,
        request: Request<v1::ListUnusedKeysRequest>,
    ) -> Answer<v1::ListUnusedKeysResponse> {
        self.check(&request)?;
        Err(refusal("ROLE_MISSING", Code::PermissionDenied))
    }

    async fn attest_key(&self, request: Request<v1::AttestKeyRequest>) -> Answer<v1::AttestKeyResponse> {
        self.check(&request)?;
        Err(refusal("ROLE_MISSING", Code::PermissionDenied))
    }

    async fn export_open_pgp_key(
        &self,
        request: Request<v1::ExportOpenPgpKeyRequest>,
    ) -> Answer<v1::ExportOpenPgpKeyResponse> {
        self.check(&request)?;
        Err(refusal("ROLE_MISSING", Code::PermissionDenied))
    }

    async fn rotate_key(&self, request: Request<v1::RotateKeyRequest>) -> Answer<v1::Key> {
        self.check(&request)?;
        Err(refusal("ROLE_MISSING", Code::PermissionDenied))
    }

    async fn activate_key(&self, request: Request<v1::ActivateKeyRequest>) -> Answer<v1::Key> {
        self.check(&request)?;
        Err(refusal("ROLE_MISSING", Code::PermissionDenied))
    }

    async fn suspend_key(&self, request: Request<v1::SuspendKeyRequest>) -> Answer<v1::Key> {
        self.check(&request)?;
        Err(refusal("ROLE_MISSING", Code::PermissionDenied))
    }

    async fn deactivate_key(&self, request: Request<v1::DeactivateKeyRequest>) -> Answer<v1::Key> {
        self.check(&request)?;
        Err(refusal("ROLE_MISSING", Code::PermissionDenied))
    }

    async fn limit_key(&self, request: Request<v1::LimitKeyRequest>) -> Answer<v1::Key> {
        self.check(&request)?;
        Err(refusal("ROLE_MISSING", Code::PermissionDenied))
    }

    async fn compromise_key(&self, request: Request<v1::CompromiseKeyRequest>) -> Answer<v1::Key> {
        self.check(&request)?;
        Err(refusal("ROLE_MISSING", Code::PermissionDenied))
    }

    async fn destroy_key(&self, request: Request<v1::DestroyKeyRequest>) -> Answer<v1::Key> {
        self.check(&request)?;
        Err(refusal("ROLE_MISSING", Code::PermissionDenied))
    }

    async fn list_unwrapped(
        &self,
        request: Request<v1::ListUnwrappedRequest>,
    ) -> Answer<v1::ListUnwrappedResponse> {
        self.check(&request)?;
        Err(refusal("ROLE_MISSING", Code::PermissionDenied))
    }
}

#[tonic::async_trait]
impl v1::custody_service_server::CustodyService for Services {
    async fn unwrap(&self, request: Request<v1::UnwrapRequest>) -> Answer<v1::UnwrapResponse> {
        self.check(&request)?;
        self.unwrap_one(request.into_inner()).map(Response::new)
    }

    type UnwrapBatchStream = Pin<Box<dyn Stream<Item = Result<v1::UnwrapBatchResponse, Status>> + Send>>;

    async fn unwrap_batch(
        &self,
        request: Request<Streaming<v1::UnwrapBatchRequest>>,
    ) -> Answer<Self::UnwrapBatchStream> {
        self.check(&request)?;
        let services = self.clone();
        Ok(Response::new(Box::pin(request.into_inner().map(move |item| {
            let item = item?;
            services.state.lock().batched += 1;
            let outcome = match services.unwrap_one(item.unwrap.unwrap_or_default()) {
                Ok(released) => v1::unwrap_batch_response::Outcome::Released(released),
                Err(status) => v1::unwrap_batch_response::Outcome::Denied(v1::ItemDenial {
                    code: status.code().into(),
                    message: status.message().into(),
                    details: status.details().to_vec(),
                }),
            };
            Ok(v1::UnwrapBatchResponse { reference: item.reference, outcome: Some(outcome) })
        }))))
    }

    async fn wrap(&self, request: Request<v1::WrapRequest>) -> Answer<v1::WrapResponse> {
        self.check(&request)?;
        Err(refusal("KEY_UNKNOWN", Code::NotFound))
    }

    async fn sign(&self, request: Request<v1::SignRequest>) -> Answer<v1::SignResponse> {
        self.check(&request)?;
        Err(refusal("ROLE_MISSING", Code::PermissionDenied))
    }
}

#[tonic::async_trait]
impl v1::budget_service_server::BudgetService for Services {
    async fn check_budget(
        &self,
        request: Request<v1::CheckBudgetRequest>,
    ) -> Answer<v1::CheckBudgetResponse> {
        self.check(&request)?;
        let files = request.into_inner().keys.iter().map(|of| of.wrapped_key_sha256s.len() / 32).sum();
        let mut state = self.state.lock();
        state.checked.push(files);
        if files > state.room {
            return Err(refusal("BUDGET_EXHAUSTED", Code::ResourceExhausted));
        }
        Ok(Response::new(v1::CheckBudgetResponse {}))
    }

    async fn list_budgets(
        &self,
        request: Request<v1::ListBudgetsRequest>,
    ) -> Answer<v1::ListBudgetsResponse> {
        self.check(&request)?;
        Err(refusal("ROLE_MISSING", Code::PermissionDenied))
    }

    async fn get_budget(&self, request: Request<v1::GetBudgetRequest>) -> Answer<v1::Budget> {
        self.check(&request)?;
        Err(refusal("ROLE_MISSING", Code::PermissionDenied))
    }

    async fn lift_budget(&self, request: Request<v1::LiftBudgetRequest>) -> Answer<v1::Budget> {
        self.check(&request)?;
        Err(refusal("ROLE_MISSING", Code::PermissionDenied))
    }

    async fn unlock_unwrap(
        &self,
        request: Request<v1::UnlockUnwrapRequest>,
    ) -> Answer<v1::UnlockUnwrapResponse> {
        self.check(&request)?;
        Err(refusal("ROLE_MISSING", Code::PermissionDenied))
    }
}

#[tonic::async_trait]
impl v1::device_service_server::DeviceService for Services {
    async fn invite_device(
        &self,
        request: Request<v1::InviteDeviceRequest>,
    ) -> Answer<v1::InviteDeviceResponse> {
        self.check(&request)?;
        let ttl = i64::from(request.into_inner().ttl_seconds);
        let expire_time = Some(prost_types::Timestamp { seconds: ttl, nanos: 0 });
        Ok(Response::new(v1::InviteDeviceResponse { code: CODE.into(), expire_time }))
    }

    async fn withdraw_invitation(
        &self,
        request: Request<v1::WithdrawInvitationRequest>,
    ) -> Answer<v1::WithdrawInvitationResponse> {
        self.check(&request)?;
        Err(refusal("NOT_FOUND", Code::NotFound))
    }

    async fn enroll(&self, request: Request<v1::EnrollRequest>) -> Answer<v1::EnrollResponse> {
        let shown = x509_cert::Certificate::from_der(&certificate(&request)).unwrap();
        let v1::EnrollRequest { code, certificate_request } = request.into_inner();
        let csr = x509_cert::request::CertReq::from_der(&certificate_request).unwrap();
        // The connection proves possession of the very key in the request.
        assert_eq!(&csr.info.public_key, shown.tbs_certificate().subject_public_key_info());
        if code != CODE {
            return Err(refusal("ENROLLMENT_REFUSED", Code::PermissionDenied));
        }
        let spki = csr.info.public_key.to_der().unwrap();
        let device = v1::Device {
            name: "devices/laptop-9".into(),
            state: v1::DeviceState::Enrolled.into(),
            spki_sha256: hex::encode(Sha256::digest(&spki)),
            ..v1::Device::default()
        };
        Ok(Response::new(v1::EnrollResponse {
            device: Some(device),
            certificate: self.ca.certify(&spki),
            ca_certificate: self.ca.der().to_vec(),
        }))
    }

    async fn renew_device(&self, _: Request<v1::RenewDeviceRequest>) -> Answer<v1::RenewDeviceResponse> {
        Err(refusal("DEVICE_NOT_ACTIVE", Code::PermissionDenied))
    }

    async fn get_revocation_list(
        &self,
        request: Request<v1::GetRevocationListRequest>,
    ) -> Answer<v1::RevocationList> {
        self.check(&request)?;
        Err(refusal("ROLE_MISSING", Code::PermissionDenied))
    }

    async fn list_devices(
        &self,
        request: Request<v1::ListDevicesRequest>,
    ) -> Answer<v1::ListDevicesResponse> {
        self.check(&request)?;
        let devices = self.state.lock().devices.clone();
        Ok(Response::new(v1::ListDevicesResponse { devices, next_page_token: String::new() }))
    }

    async fn get_device(&self, request: Request<v1::GetDeviceRequest>) -> Answer<v1::Device> {
        self.check(&request)?;
        Err(refusal("NOT_FOUND", Code::NotFound))
    }

    async fn set_device_groups(&self, request: Request<v1::SetDeviceGroupsRequest>) -> Answer<v1::Device> {
        self.check(&request)?;
        Err(refusal("ROLE_MISSING", Code::PermissionDenied))
    }

    async fn activate_device(&self, request: Request<v1::ActivateDeviceRequest>) -> Answer<v1::Device> {
        self.check(&request)?;
        Err(refusal("STATE_CONFLICT", Code::FailedPrecondition))
    }

    async fn suspend_device(&self, request: Request<v1::SuspendDeviceRequest>) -> Answer<v1::Device> {
        self.check(&request)?;
        Err(refusal("ROLE_MISSING", Code::PermissionDenied))
    }

    async fn revoke_device(&self, request: Request<v1::RevokeDeviceRequest>) -> Answer<v1::Device> {
        self.check(&request)?;
        let v1::RevokeDeviceRequest { name, reason } = request.into_inner();
        let state = v1::DeviceState::Revoked.into();
        Ok(Response::new(v1::Device { name, reason, state, ..v1::Device::default() }))
    }
}

#[tonic::async_trait]
impl v1::audit_service_server::AuditService for Services {
    async fn list_records(
        &self,
        request: Request<v1::ListRecordsRequest>,
    ) -> Answer<v1::ListRecordsResponse> {
        self.check(&request)?;
        let request = request.into_inner();
        let filter = request.filter.unwrap_or_default();
        let mut matching: Vec<_> = self.state.lock().records.clone();
        matching.retain(|record| filter.user.is_empty() || record.user == filter.user);
        if request.newest_first {
            matching.reverse();
        }
        let start: usize = request.page_token.parse().unwrap_or(0);
        let size = if request.page_size == 0 { 100 } else { request.page_size.min(1_000) as usize };
        let end = (start + size).min(matching.len());
        let next_page_token = if end < matching.len() { end.to_string() } else { String::new() };
        let records = matching[start..end].to_vec();
        Ok(Response::new(v1::ListRecordsResponse { records, next_page_token }))
    }

    type TailRecordsStream = Pin<Box<dyn Stream<Item = Result<v1::Record, Status>> + Send>>;

    async fn tail_records(
        &self,
        request: Request<v1::TailRecordsRequest>,
    ) -> Answer<Self::TailRecordsStream> {
        self.check(&request)?;
        let mut state = self.state.lock();
        state.tails += 1;
        let after = request.into_inner().after_sequence;
        let old: Vec<_> =
            state.records.iter().filter(|record| after > 0 && record.sequence > after).cloned().collect();
        let new = BroadcastStream::new(state.new_records.subscribe())
            .map(|record| record.map_err(|_| Status::unavailable("")));
        Ok(Response::new(Box::pin(tokio_stream::iter(old).map(Ok).chain(new))))
    }
}
