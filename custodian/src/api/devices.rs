//! `DeviceService`.

use std::time::Duration;

use custodian_proto::{
    refusal::Refusal,
    v1::{self, device_service_server::DeviceService},
};
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tonic::{Request, Response, Status};

use super::{
    Api,
    call::{Accepted, invalid},
    resource::{
        device_id, from_timestamp, groups, page, page_size, page_start, reason, required_reason, rows_for,
        timestamp,
    },
    session::random_token,
};
use crate::{
    authority::{Device, DeviceId, DeviceState, Groups, Invitation, Need, PeerKind, Role, SpkiHash},
    custody::{Denial, Fault},
    ledger::{Certified, Change, Changed, Intent},
    pki::{self, Validity, peer::CertificateFacts},
};

const DEFAULT_INVITATION: Duration = Duration::from_secs(24 * 3600);

/// In how many days a revocation list calls for the next one, unless told otherwise, and at most.
const LIST_DAYS: u32 = 7;
const MOST_LIST_DAYS: u32 = 90;

const MAX_INVITATION: Duration = Duration::from_secs(30 * 24 * 3600);

#[tonic::async_trait]
impl DeviceService for Api {
    async fn invite_device(
        &self,
        request: Request<v1::InviteDeviceRequest>,
    ) -> Result<Response<v1::InviteDeviceResponse>, Status> {
        let accepted = self.accept(&request).await?;
        let request = request.into_inner();
        let parsed =
            invited(&request.device_id).and_then(|id| Ok((id, invitation_ttl(request.ttl_seconds)?)));
        let (device, ttl) = self.parsed(&accepted, "InviteDevice", parsed).await?;
        let intent = Intent { target: device.resource_name(), ..accepted.call.intent("InviteDevice") };
        let invited_by = accepted.call.caller.user.as_ref().map(|user| user.id.clone());
        let invite = async move {
            let code = random_token()?;
            let code_hash = Sha256::digest(code.expose()).into();
            let expires = Timestamp::now() + ttl;
            Ok((Change::Invite(Invitation { code_hash, device, invited_by, expires }), (code, expires)))
        };
        let invited =
            self.custodian.change(accepted.call.clone(), Need::Role(Role::Admin), intent, invite).await;
        let (_, (code, expires)) = invited.map_err(|denial| accepted.status(denial))?;
        Ok(Response::new(v1::InviteDeviceResponse {
            code: code.expose().to_owned(),
            expire_time: Some(timestamp(expires)),
        }))
    }

    async fn withdraw_invitation(
        &self,
        request: Request<v1::WithdrawInvitationRequest>,
    ) -> Result<Response<v1::WithdrawInvitationResponse>, Status> {
        let accepted = self.accept_stop(&request).await?;
        let parsed = invited(&request.into_inner().device_id);
        let device = self.parsed(&accepted, "WithdrawInvitation", parsed).await?;
        let intent = Intent { target: device.resource_name(), ..accepted.call.intent("WithdrawInvitation") };
        let withdraw = async move { Ok((Change::WithdrawInvitation(device), ())) };
        let admin = Need::Role(Role::Admin);
        let withdrawn = self.custodian.change(accepted.call.clone(), admin, intent, withdraw).await;
        withdrawn.map_err(|denial| accepted.status(denial))?;
        Ok(Response::new(v1::WithdrawInvitationResponse {}))
    }

    async fn enroll(
        &self,
        request: Request<v1::EnrollRequest>,
    ) -> Result<Response<v1::EnrollResponse>, Status> {
        let accepted = self.accept(&request).await?;
        let v1::EnrollRequest { code, certificate_request } = request.into_inner();
        let code_hash: [u8; 32] = Sha256::digest(&code).into();
        let peer = accepted.call.caller.peer.certificate.clone();
        let api = self.clone();
        let enroll = async move {
            if peer.kind != PeerKind::Newcomer {
                return Err(refused("the connection was not made with a self-signed certificate"));
            }
            let invitation = api.custodian.ledger().invitation(code_hash, Timestamp::now()).await?;
            let Invitation { device, invited_by, .. } =
                invitation.ok_or_else(|| refused("no open invitation has this code"))?;
            let device = api.certify(device, &certificate_request, peer.spki).await?;
            Ok((Change::Enroll { code_hash, invited_by, device: device.clone() }, device.certificate))
        };
        let enrolled =
            self.custodian.enroll(accepted.call.place.clone(), accepted.call.intent("Enroll"), enroll).await;
        match enrolled.map_err(|denial| accepted.status(denial))? {
            (Changed::Device(device), certificate) => Ok(Response::new(v1::EnrollResponse {
                device: Some(device.into()),
                certificate,
                ca_certificate: self.ca.certificate().to_vec(),
            })),
            _ => Err(accepted.status(no_device())),
        }
    }

    async fn renew_device(
        &self,
        request: Request<v1::RenewDeviceRequest>,
    ) -> Result<Response<v1::RenewDeviceResponse>, Status> {
        let accepted = self.accept(&request).await?;
        let v1::RenewDeviceRequest { certificate_request } = request.into_inner();
        let caller = &accepted.call.caller;
        let was = caller.peer.certificate.spki;
        let id = caller.device.as_ref().map(|device| device.id.clone());
        let target = id.as_ref().map(DeviceId::resource_name).unwrap_or_default();
        let intent = Intent { target, ..accepted.call.intent("RenewDevice") };
        let api = self.clone();
        let renew = async move {
            let id = id.ok_or(Refusal::DeviceUnknown)?;
            let spki = new_key(&certificate_request)?;
            api.throttle.check_renewal(&id)?;
            let certificate = api.issue(&id, &spki).await?;
            let expires = end_of(&certificate)?;
            let spki = SpkiHash(Sha256::digest(&spki).into());
            Ok((Change::RenewDevice { was, spki, certificate: certificate.clone(), expires }, certificate))
        };
        let streams = self.streams.clone();
        let put_in_force = move |_: &Changed, certificate| {
            streams.cut(was, Refusal::NotLoggedIn);
            certificate
        };
        let call = accepted.call.clone();
        let renewed = self.custodian.change_and(call, Need::Device, intent, renew, put_in_force).await;
        match renewed.map_err(|denial| accepted.status(denial))? {
            (Changed::Device(device), certificate) => {
                Ok(Response::new(v1::RenewDeviceResponse { device: Some(device.into()), certificate }))
            }
            _ => Err(accepted.status(no_device())),
        }
    }

    async fn get_revocation_list(
        &self,
        request: Request<v1::GetRevocationListRequest>,
    ) -> Result<Response<v1::RevocationList>, Status> {
        let accepted = self.accept(&request).await?;
        let days = list_days(request.into_inner().days);
        let days = self.parsed(&accepted, "GetRevocationList", days).await?;
        let need = Need::Either(Role::Auditor, Role::Admin);
        let roles = accepted.call.caller.user.as_ref().map(|user| user.roles);
        if !roles.is_some_and(|roles| roles.contains(Role::Auditor) || roles.contains(Role::Admin)) {
            // Who gets none has no place in the line: it refuses.
            let refused = self.custodian.admit(&accepted.call, need, "GetRevocationList").await;
            refused.map_err(|denial| accepted.status(denial))?;
        }
        let in_line = self.list_turn.in_line(Certified::Devices);
        let _in_line = in_line.ok_or_else(|| self.room.refuse(accepted.call.request_id))?;
        let (number, revoked) =
            self.revoked(&accepted, need, "GetRevocationList", Certified::Devices).await?;
        let now = Timestamp::now();
        let next_update = now + jiff::SignedDuration::from_hours(24 * i64::from(days));
        let crl = self.ca.revocation_list(number, revoked, now, next_update).await;
        let crl = crl.map_err(|error| accepted.status(error.into()))?;
        let next_update_time = Some(timestamp(next_update));
        Ok(Response::new(v1::RevocationList { crl, number, next_update_time }))
    }

    async fn list_devices(
        &self,
        request: Request<v1::ListDevicesRequest>,
    ) -> Result<Response<v1::ListDevicesResponse>, Status> {
        let accepted = self.accept_reader(&request, Need::Role(Role::Admin), "ListDevices").await?;
        let request = request.into_inner();
        let after = page_start(&request.page_token).map_err(|denial| accepted.status(denial))?;
        let size = page_size(request.page_size);
        let devices = self.custodian.ledger().devices(after, rows_for(size)).await;
        let devices = devices.map_err(|error| accepted.status(error.into()))?;
        let (devices, next_page_token) = page(devices, size, |device| device.id.to_string());
        Ok(Response::new(v1::ListDevicesResponse {
            devices: devices.into_iter().map(v1::Device::from).collect(),
            next_page_token,
        }))
    }

    async fn get_device(
        &self,
        request: Request<v1::GetDeviceRequest>,
    ) -> Result<Response<v1::Device>, Status> {
        let accepted = self.accept_reader(&request, Need::Role(Role::Admin), "GetDevice").await?;
        let id = device_id(&request.into_inner().name).map_err(|denial| accepted.status(denial))?;
        let device =
            self.custodian.ledger().device(&id).await.map_err(|error| accepted.status(error.into()))?;
        let device = device.ok_or_else(|| accepted.status(Refusal::NotFound.into()))?;
        Ok(Response::new(device.into()))
    }

    async fn activate_device(
        &self,
        request: Request<v1::ActivateDeviceRequest>,
    ) -> Result<Response<v1::Device>, Status> {
        let accepted = self.accept(&request).await?;
        let parsed = device_id(&request.into_inner().name);
        let id = self.parsed(&accepted, "ActivateDevice", parsed).await?;
        let state = DeviceState::Active;
        let step = Change::SetDeviceState { id: id.clone(), state, reason: String::new() };
        self.set_device_state(&accepted, "ActivateDevice", id, String::new(), step).await
    }

    async fn set_device_groups(
        &self,
        request: Request<v1::SetDeviceGroupsRequest>,
    ) -> Result<Response<v1::Device>, Status> {
        let accepted = self.accept(&request).await?;
        let v1::SetDeviceGroupsRequest { name, groups: asked } = request.into_inner();
        let parsed = device_id(&name).and_then(|id| Ok((id, groups(&asked)?)));
        let (id, groups) = self.parsed(&accepted, "SetDeviceGroups", parsed).await?;
        let set = Change::SetDeviceGroups { id: id.clone(), groups };
        self.set_device_state(&accepted, "SetDeviceGroups", id, String::new(), set).await
    }

    async fn suspend_device(
        &self,
        request: Request<v1::SuspendDeviceRequest>,
    ) -> Result<Response<v1::Device>, Status> {
        let accepted = self.accept_stop(&request).await?;
        let v1::SuspendDeviceRequest { name, reason: why, end_time } = request.into_inner();
        let until = || end_time.map(|time| future(from_timestamp(time, "end_time")?)).transpose();
        let parsed = device_id(&name).and_then(|id| Ok((id, reason(why)?, until()?)));
        let (id, reason, until) = self.parsed(&accepted, "SuspendDevice", parsed).await?;
        let (device, why) = (id.clone(), reason.clone());
        let step = match until {
            Some(until) => Change::SuspendDevice { id: device, until, reason: why },
            None => Change::SetDeviceState { id: device, state: DeviceState::Suspended, reason: why },
        };
        self.set_device_state(&accepted, "SuspendDevice", id, reason, step).await
    }

    async fn revoke_device(
        &self,
        request: Request<v1::RevokeDeviceRequest>,
    ) -> Result<Response<v1::Device>, Status> {
        let accepted = self.accept_stop(&request).await?;
        let v1::RevokeDeviceRequest { name, reason: why } = request.into_inner();
        let parsed = device_id(&name).and_then(|id| Ok((id, required_reason(why)?)));
        let (id, reason) = self.parsed(&accepted, "RevokeDevice", parsed).await?;
        let state = DeviceState::Revoked;
        let step = Change::SetDeviceState { id: id.clone(), state, reason: reason.clone() };
        self.set_device_state(&accepted, "RevokeDevice", id, reason, step).await
    }
}

impl Api {
    async fn set_device_state(
        &self,
        accepted: &Accepted,
        operation: &'static str,
        id: DeviceId,
        reason: String,
        step: Change,
    ) -> Result<Response<v1::Device>, Status> {
        let intent = Intent { target: id.resource_name(), reason, ..accepted.call.intent(operation) };
        let step = async move { Ok((step, ())) };
        let streams = self.streams.clone();
        let put_in_force = move |changed: &Changed, ()| match changed {
            Changed::Stopped(device, _) if device.state == DeviceState::Revoked => {
                streams.cut(device.spki, Refusal::DeviceRevoked)
            }
            Changed::Stopped(device, _) => streams.cut(device.spki, Refusal::DeviceSuspended),
            _ => 0,
        };
        let (call, admin) = (accepted.call.clone(), Need::Role(Role::Admin));
        match self.custodian.change_and(call, admin, intent, step, put_in_force).await {
            Ok((Changed::Device(device), _)) => Ok(Response::new(device.into())),
            Ok((Changed::Stopped(device, sessions), streams)) => {
                let stopped = v1::Stopped {
                    sessions: u32::try_from(sessions).unwrap_or(u32::MAX),
                    streams: u32::try_from(streams).unwrap_or(u32::MAX),
                    duration_us: u64::try_from(accepted.call.arrived.elapsed().as_micros())
                        .unwrap_or(u64::MAX),
                };
                Ok(Response::new(v1::Device { stopped: Some(stopped), ..device.into() }))
            }
            Ok(_) => Err(accepted.status(no_device())),
            Err(denial) => Err(accepted.status(denial)),
        }
    }

    async fn certify(
        &self,
        id: DeviceId,
        request: &[u8],
        connected_with: SpkiHash,
    ) -> Result<Device, Denial> {
        let spki = new_key(request)?;
        let hash = SpkiHash(Sha256::digest(&spki).into());
        if hash != connected_with {
            return Err(invalid(
                "certificate_request: must be of the key that the TLS connection was made with",
            ));
        }
        let certificate = self.issue(&id, &spki).await?;
        let expires = end_of(&certificate)?;
        let now = Timestamp::now();
        let state = DeviceState::Enrolled;
        Ok(Device {
            id,
            spki: hash,
            state,
            certificate,
            expires,
            enrolled: now,
            updated: now,
            reason: String::new(),
            suspended_until: None,
            groups: Groups::default(),
        })
    }
}

impl Api {
    async fn issue(&self, id: &DeviceId, spki: &[u8]) -> Result<Vec<u8>, Denial> {
        Ok(self.ca.issue_device(id, spki, Validity::days(self.lifetimes.device_days)?).await?)
    }
}

/// In how many days a revocation list calls for the next one.
pub(super) fn list_days(asked: u32) -> Result<u32, Denial> {
    match asked {
        0 => Ok(LIST_DAYS),
        days if days <= MOST_LIST_DAYS => Ok(days),
        _ => Err(invalid("days: may be 90")),
    }
}

fn invited(id: &str) -> Result<DeviceId, Denial> {
    id.parse().map_err(|error| invalid(format!("device_id: {error}")))
}

fn invitation_ttl(seconds: u32) -> Result<Duration, Denial> {
    match Duration::from_secs(seconds.into()) {
        Duration::ZERO => Ok(DEFAULT_INVITATION),
        ttl if ttl <= MAX_INVITATION => Ok(ttl),
        _ => Err(invalid("ttl_seconds: may be 2592000 (30 days)")),
    }
}

/// The key of a certificate request, as SubjectPublicKeyInfo.
fn new_key(request: &[u8]) -> Result<Vec<u8>, Denial> {
    pki::csr::verify(request).map_err(|error| invalid(format!("certificate_request: {error}")))
}

fn end_of(certificate: &[u8]) -> Result<Timestamp, Denial> {
    let facts = CertificateFacts::read(certificate)
        .map_err(|error| Fault::Internal(format!("the certificate just issued: {error}")))?;
    Ok(facts.not_after)
}

fn future(time: Timestamp) -> Result<Timestamp, Denial> {
    if time > Timestamp::now() { Ok(time) } else { Err(invalid("end_time: is over")) }
}

fn refused(detail: &str) -> Denial {
    Denial::Refused { refusal: Refusal::EnrollmentRefused, detail: detail.into() }
}

fn no_device() -> Denial {
    Fault::Internal("a device's change left no device".into()).into()
}
