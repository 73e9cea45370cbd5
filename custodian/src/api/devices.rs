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
    resource::{device_id, page, page_size, reason, required_reason, rows_for, timestamp},
    session::random_token,
};
use crate::{
    authority::{Device, DeviceId, DeviceState, Invitation, Need, PeerKind, Role, SpkiHash},
    custody::{Denial, Fault},
    ledger::{Change, Changed, Intent},
    pki::{self, Validity, peer::CertificateFacts},
};

const DEFAULT_INVITATION: Duration = Duration::from_secs(24 * 3600);
const MAX_INVITATION: Duration = Duration::from_secs(30 * 24 * 3600);

#[tonic::async_trait]
impl DeviceService for Api {
    async fn invite_device(
        &self,
        request: Request<v1::InviteDeviceRequest>,
    ) -> Result<Response<v1::InviteDeviceResponse>, Status> {
        let accepted = self.accept(&request).await?;
        let request = request.into_inner();
        let parsed = request
            .device_id
            .parse::<DeviceId>()
            .map_err(|error| invalid(format!("device_id: {error}")))
            .and_then(|id| Ok((id, invitation_ttl(request.ttl_seconds)?)));
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

    async fn list_devices(
        &self,
        request: Request<v1::ListDevicesRequest>,
    ) -> Result<Response<v1::ListDevicesResponse>, Status> {
        let accepted = self.accept_reader(&request, Need::Role(Role::Admin), "ListDevices").await?;
        let request = request.into_inner();
        let after = match request.page_token.as_str() {
            "" => None,
            token => {
                Some(token.parse().map_err(|_| accepted.status(invalid("page_token: is none of ours")))?)
            }
        };
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
        self.set_device_state(&accepted, "ActivateDevice", id, DeviceState::Active, String::new()).await
    }

    async fn suspend_device(
        &self,
        request: Request<v1::SuspendDeviceRequest>,
    ) -> Result<Response<v1::Device>, Status> {
        let accepted = self.accept(&request).await?;
        let v1::SuspendDeviceRequest { name, reason: why } = request.into_inner();
        let parsed = device_id(&name).and_then(|id| Ok((id, reason(why)?)));
        let (id, reason) = self.parsed(&accepted, "SuspendDevice", parsed).await?;
        self.set_device_state(&accepted, "SuspendDevice", id, DeviceState::Suspended, reason).await
    }

    async fn revoke_device(
        &self,
        request: Request<v1::RevokeDeviceRequest>,
    ) -> Result<Response<v1::Device>, Status> {
        let accepted = self.accept(&request).await?;
        let v1::RevokeDeviceRequest { name, reason: why } = request.into_inner();
        let parsed = device_id(&name).and_then(|id| Ok((id, required_reason(why)?)));
        let (id, reason) = self.parsed(&accepted, "RevokeDevice", parsed).await?;
        self.set_device_state(&accepted, "RevokeDevice", id, DeviceState::Revoked, reason).await
    }
}

impl Api {
    async fn set_device_state(
        &self,
        accepted: &Accepted,
        operation: &'static str,
        id: DeviceId,
        state: DeviceState,
        reason: String,
    ) -> Result<Response<v1::Device>, Status> {
        let intent =
            Intent { target: id.resource_name(), reason: reason.clone(), ..accepted.call.intent(operation) };
        let step = async move { Ok((Change::SetDeviceState { id, state, reason }, ())) };
        match self.custodian.change(accepted.call.clone(), Need::Role(Role::Admin), intent, step).await {
            Ok((Changed::Device(device), ())) => Ok(Response::new(device.into())),
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
        let spki =
            pki::csr::verify(request).map_err(|error| invalid(format!("certificate_request: {error}")))?;
        let hash = SpkiHash(Sha256::digest(&spki).into());
        if hash != connected_with {
            return Err(invalid(
                "certificate_request: must be of the key that the TLS connection was made with",
            ));
        }
        let certificate = self.issue(&id, &spki).await?;
        let expires = CertificateFacts::read(&certificate)
            .map_err(|error| Fault::Internal(format!("the certificate just issued: {error}")))?
            .not_after;
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
        })
    }
}

impl Api {
    async fn issue(&self, id: &DeviceId, spki: &[u8]) -> Result<Vec<u8>, Denial> {
        Ok(self.ca.issue_device(id, spki, Validity::days(self.lifetimes.device_days)?).await?)
    }
}

fn invitation_ttl(seconds: u32) -> Result<Duration, Denial> {
    match Duration::from_secs(seconds.into()) {
        Duration::ZERO => Ok(DEFAULT_INVITATION),
        ttl if ttl <= MAX_INVITATION => Ok(ttl),
        _ => Err(invalid("ttl_seconds: may be 2592000 (30 days)")),
    }
}

fn refused(detail: &str) -> Denial {
    Denial::Refused { refusal: Refusal::EnrollmentRefused, detail: detail.into() }
}

fn no_device() -> Denial {
    Fault::Internal("a device's change left no device".into()).into()
}
